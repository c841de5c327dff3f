r"""Write what a snapshot says as tables: shares of values, coverage, brands, likely copies, drift.

What is quick in SQL is in docs/analytics.md as well; this is for every night, for millions, and for lakes on
S3 where DuckDB may fetch no extension. The lake stays as it is; tables of an earlier call are replaced.

    python jobs/analyze.py --lake ./lake
    python jobs/analyze.py --lake ./lake --since 20260901 --week-column listed
    ray job submit --working-dir . -- \
        python jobs/analyze.py --lake s3://shop-lake --out s3://shop-tables/lake
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro
from rich.table import Table

from agman.errors import InvalidInput
from agman.taxonomy import position_in
from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.analytics import COMPARISONS, QUESTIONS, Analysis
from pipelines.history import CURRENT_WORD, find_manifest
from pipelines.lake import Lake, snapshot_file, working_folder
from pipelines.look_alikes import BrandOptions, CopyOptions, LookAlikes
from pipelines.storage.objects import ObjectStore
from pipelines.storage.opening import open_store
from pipelines.storage.snapshots import Manifest, read_manifest
from pipelines.telemetry import Run, escaped

BRAND = "brand"
TITLES = {
    "value_shares": "What the products show",
    "value_weeks": "What arrived, week by week",
    "coverage": "What the model names, and what it does not know",
    "quarantine": "Records that could not be used",
    "brand_similarity": "Brands that look most alike",
    "likely_copies": "Products that look alike under every attribute",
    "value_drift": "How shares moved since {since}",
    "value_changes": "Products that show something else than in {since}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzeConfig:
    """One analysis."""

    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    out: str = "./analytics"
    """Local folder or s3://bucket/prefix for the tables, below snapshot=ID/; empty prints them alone."""
    snapshot: Annotated[str, tyro.conf.arg(metavar="SNAPSHOT")] = CURRENT_WORD
    """Snapshot that is asked about: an id, the beginning of one, `current` or `previous`."""
    since: Annotated[str, tyro.conf.arg(metavar="SNAPSHOT")] = ""
    """Snapshot that it is compared with; empty: the one before it, if that is kept."""
    brand_column: str = ""
    """Column of the catalog that names the brand; empty: `brand`, if there is one."""
    week_column: str = ""
    """Column of the catalog with the date of arrival; empty: the night in which a key came first."""
    rows: int = 16
    """Rows of each table that are printed, shared by the attributes."""
    brands: BrandOptions = field(default_factory=BrandOptions)
    copies: CopyOptions = field(default_factory=CopyOptions)


def main() -> None:
    """Analyse one snapshot."""
    config = read_config({"analyze": ("", AnalyzeConfig())}, __doc__)
    with telemetry.run("analyze", config) as run:
        analyze(config, run)


def analyze(config: AnalyzeConfig, run: Run) -> dict[str, int]:
    """Print and write all tables; return their rows by name.

    Raises:
        InvalidInput: if the snapshot, a column or an attribute is not there.
        CorruptShard: if a file is not what the manifest says.
    """
    lake = Lake(config.lake)
    manifest = find_manifest(lake, config.snapshot)
    for name in config.copies.attributes:
        position_in(name, manifest.attributes, "attribute")
    store = open_store(config.out) if config.out else None
    since = _since(config, lake, manifest, run)
    with working_folder() as folder, closing(Analysis(lake, manifest, folder)) as analysis:
        analysis.set_weeks(config.week_column)
        if since:
            analysis.compare_with(since)
        written = {}
        for name, path in _tables(config, run, analysis, folder, is_compared=since is not None):
            table = pq.read_table(path)
            _show(run, TITLES[name].format(since=since.id if since else ""), table, config.rows)
            written[name] = len(table)
            if store:
                _replace(store, f"snapshot={manifest.id}/{name}.parquet", path)
    if store:
        run.say(f"{len(written)} tables: {store.url}/snapshot={manifest.id}/")
    return written


def _tables(
    config: AnalyzeConfig, run: Run, analysis: Analysis, folder: Path, *, is_compared: bool
) -> Iterator[tuple[str, Path]]:
    """Write one table after the other below a folder and yield its name and file."""
    brand = _brand(config, run, analysis)
    for name, query in QUESTIONS.items():
        yield name, _copied(analysis, name, query, folder)
    with closing(LookAlikes(analysis, brand)) as look_alikes:
        if brand:
            yield (
                "brand_similarity",
                _kept(folder, "brand_similarity", look_alikes.similar_brands(config.brands)),
            )
        yield "likely_copies", _kept(folder, "likely_copies", look_alikes.likely_copies(config.copies))
        asked = len(look_alikes.chosen(config.copies))
        if asked < look_alikes.num_pictures:
            run.say(
                f"searched with {asked} of {look_alikes.num_pictures} pictures, the new ones first; "
                "--copies.max-pictures takes more"
            )
    for name, query in COMPARISONS.items() if is_compared else ():
        yield name, _copied(analysis, name, query, folder)


def _since(config: AnalyzeConfig, lake: Lake, manifest: Manifest, run: Run) -> Manifest | None:
    """Return the snapshot to compare with; None, and a line that says so, where none is kept before."""
    if config.since:
        return find_manifest(lake, config.since)
    if manifest.parent and lake.store.size(snapshot_file(manifest.parent, "manifest.json")) is not None:
        return read_manifest(lake, manifest.parent, manifest.parent_sha256)
    run.say(f"no snapshot before {manifest.id} is kept, so drift is left out; --since names one")
    return None


def _brand(config: AnalyzeConfig, run: Run, analysis: Analysis) -> str:
    """Return the brand's column; empty, and a line that says so, where the catalog has none."""
    if config.brand_column:
        analysis.quoted(config.brand_column)
        return config.brand_column
    if BRAND in pq.read_schema(analysis.catalog).names:
        return BRAND
    run.say(f"the catalog has no column {BRAND}: brands are left out; --brand-column names another one")
    return ""


def _copied(analysis: Analysis, name: str, query: str, folder: Path) -> Path:
    path = folder / f"{name}.parquet"
    analysis.all(f"copy ({query}) to '{path}' (format parquet, compression zstd)")
    return path


def _kept(folder: Path, name: str, table: pa.Table) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(table, path, compression="zstd")
    return path


def _replace(store: ObjectStore, name: str, path: Path) -> None:
    """Put a table in the place of one that an earlier call left: it is made of what never changes."""
    try:
        store.delete(name)
        store.upload_if_absent(path, name)
    except (NotADirectoryError, PermissionError) as error:
        raise InvalidInput(f"--out {store.url}: {error.strerror}; is the path right?") from error


def _show(run: Run, title: str, table: pa.Table, num_rows: int) -> None:
    """Print a table's first rows; where it has attributes, the first ones of each."""
    rows = _first_rows(table, num_rows)
    if not rows:
        run.say(f"{title}: none")
        return
    more = f", {len(rows)} of {len(table)} rows" if len(table) > len(rows) else ""
    shown = Table(title=escaped(f"{title}{more}"))
    for column in table.schema:
        is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        shown.add_column(column.name.replace("_", " "), justify="right" if is_number else "left")
    for row in rows:
        shown.add_row(*(escaped(_cell(value)) for value in row.values()))
    run.show(shown)


def _first_rows(table: pa.Table, num_rows: int) -> list[dict[str, Any]]:
    """Return at most `num_rows` rows, or one of each attribute where these are more."""
    if "attribute" not in table.column_names:
        return list(table.slice(0, num_rows).to_pylist())
    attributes = table["attribute"].unique().to_pylist()
    each = max(1, num_rows // max(len(attributes), 1))
    blocks = [table.filter(pc.equal(table["attribute"], name)).slice(0, each) for name in attributes]
    return [row for block in blocks for row in block.to_pylist()]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
