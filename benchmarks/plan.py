"""What a night's driver does with the tables of a large catalog: the difference, the plan, tonight's catalog.

    python benchmarks/plan.py

Makes up the published snapshot of `rows` records, with every shard and part in its manifest, and tonight's
table, of which `change` differs: a third gone, a third with another etag, a third new. No picture exists and
none is fetched. What would be fetched and embedded is then taken for done, to time the rest of the tables.

`seconds` runs from opening the lake to the last planned shard; `settle_seconds` is what follows the workers:
which pictures are live, what is to be embedded, tonight's catalog and its counts. Both in a process of its
own, of which `peak_gib` is the largest resident memory, libraries and all. Floor: DuckDB alone reads every
column of both tables.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow.parquet as pq
import torch
import tyro
from rich.table import Table

from agman.checkpoint import save_model
from agman.model import AGMAN, ModelConfig
from agman.taxonomy import FASHIONAI
from agman.transforms import Preprocess
from benchmarks.reporting import console, report
from pipelines.embedding import plan_part
from pipelines.lake import Lake, bytes_sha256, embedding_part, shard_index, shard_tar, snapshot_file
from pipelines.models import import_model
from pipelines.night import Night, NightConfig
from pipelines.scheduling import Unit
from pipelines.shards.plan import ShardOptions, ShardPlan, plan_shards
from pipelines.shards.write import IndexRow, index_table
from pipelines.storage.objects import FileEntry, store_file
from pipelines.storage.snapshots import Manifest, Part, publish
from pipelines.telemetry import Run, quiet
from pipelines.tonight import Tonight

T = TypeVar("T")
DATASET = "catalog"
BUCKET = "s3://shop-pictures"
SNAPSHOT = "20260101T000000Z-00000000"
PLANNED = ("open", "read and compare", "plan shards")
SHARD = f"i // {ShardOptions().images_per_shard}"
PUBLISHED = f"""select key, uri, etag as token, 'candidate' as role,
    case when neck_design is null then map([]::varchar[], []::varchar[][])
         else map(['neck_design'], [[neck_design]]) end as labels,
    sha256(etag) as sha256, left(md5('shard' || {SHARD}), 20) as shard,
    left(md5('part' || {SHARD}), 20) as part, (i % {ShardOptions().images_per_shard})::integer as row,
    etag, brand, price, neck_design"""
QUARANTINE = """select ''::varchar as key, '' as uri, '' as token, '' as stage, '' as kind, '' as message,
    '' as sha256, '' as first_seen, '' as last_seen, 0 as attempts where false"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the catalog."""

    rows: int = 10_000_000
    """Records of tonight's table and of the published catalog."""
    change: float = 0.01
    """Share of them that differs."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made up."""
        if self.rows < 1:
            raise ValueError(f"rows: expected at least 1, found {self.rows}")
        if not 0 < self.change <= 1:
            raise ValueError(f"change: expected a share above 0 and at most 1, found {self.change}")

    @property
    def third(self) -> int:
        """Records that are gone, and edited, and new."""
        return max(1, int(self.rows * self.change / 3))


@dataclass(slots=True)
class Measured:
    """What the night told."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Of the clock, by step, in their order."""
    counts: dict[str, int] = field(default_factory=dict)
    peak_gib: float = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def main(options: Options) -> None:
    """Make the tables up, run the night in a process of its own, and report."""
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        folder = Path(name)
        console.print(f"making up {options.rows:,} records")
        _in_process(make_up, options, folder)
        floor = {"read_seconds": _in_process(read_both, options, folder)}
        console.print("planning")
        found = _in_process(run_driver, options, folder)
    report("plan", _table(options, found, floor), figures(found), floor, options.results)


def figures(found: Measured) -> dict[str, float]:
    """Return the sums, every step's seconds, and what was counted."""
    planned = sum(found.seconds[name] for name in PLANNED)
    return {
        "seconds": planned,
        "peak_gib": found.peak_gib,
        "settle_seconds": sum(found.seconds.values()) - planned,
        **{f"{name.replace(' ', '_')}_s": seconds for name, seconds in found.seconds.items()},
        **found.counts,
    }


def run_driver(options: Options, folder: Path) -> Measured:
    """Do what the driver of a night does between Ray's stages."""
    quiet()
    found = Measured()
    config = NightConfig(
        lake=str(folder / "lake"),
        source=str(folder / "tonight.parquet"),
        dataset=DATASET,
        shards=ShardOptions(allow_uris=(BUCKET,)),
    )
    (folder / "night").mkdir()
    with found.step("open"):
        night = Night(config, Run("plan", config, Lake(config.lake)), folder / "night")
        night.choose_model()
    with found.step("read and compare"):
        difference = night.plan()
    found.counts |= {name: count for name, count in asdict(difference).items() if name != "input"}
    _settle(night, _plan_shards(night, found), found)
    night.catalog.close()
    found.peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return found


def _plan_shards(night: Night, found: Measured) -> list[Path]:
    """Plan the shards and, beside the clock, write the index that each would get."""
    units = plan_shards(DATASET, night.catalog.records_to_fetch(), night.config.shards)
    (night.folder / "made").mkdir()
    paths: list[Path] = []
    while True:
        with found.step("plan shards"):
            unit = next(units, None)
        if unit is None:
            found.counts["shards"] = len(paths)
            return paths
        paths.append(night.folder / "made" / f"{unit.name}.parquet")
        pq.write_table(index_table(_packed(unit)), paths[-1])


def _packed(unit: Unit) -> list[IndexRow]:
    plan: ShardPlan = unit.payload
    rows = [IndexRow(each.key, each.uri, each.token, each.role, each.labels) for each in plan.records]
    for row in rows:
        row.sha256, row.member, row.offset = bytes_sha256(row.token.encode()), "made up", 0
    return rows


def _settle(night: Night, indexes: Sequence[Path], found: Measured) -> None:
    """Take for done what was planned, and write tonight's catalog."""
    catalog = night.catalog
    made = {path.stem: _shard_entries(path.stem) for path in indexes}

    def files_of(shard: str) -> tuple[FileEntry, ...]:
        return made.get(shard) or night.shard_files(shard)

    with found.step("live pictures"):
        catalog.add_shards(indexes)
        tonight = Tonight(catalog, same_model=True)
    with found.step("plan parts"):
        tonight.add_parts(
            (plan_part(shard, files_of(shard), night.model, digests).name, digests)
            for shard, digests in tonight.pictures_to_embed()
        )
        tonight.refuse_pictures([])
    with found.step("catalog"):
        path = night.folder / "catalog.parquet"
        tonight.write(path, night.folder / "quarantine.parquet", SNAPSHOT)
        found.counts |= tonight.count_published(path) | {"parts": len(tonight.live_rows())}
        catalog.changes()


def make_up(options: Options, folder: Path) -> None:
    """Write tonight's table, and a lake that publishes last night's."""
    lake = Lake(str(folder / "lake"))
    edited = f"case when i < {2 * options.third} then 'edited' else '' end"
    tables = {
        "tonight": _records(options.third, options.rows + options.third, edited),
        "catalog": f"{PUBLISHED} from (select i, * from ({_records(0, options.rows)}))",
        "quarantine": QUARANTINE,
    }
    with duckdb.connect() as db:
        db.execute("set enable_progress_bar=false")
        for name, query in tables.items():
            db.execute(f"copy ({query}) to '{folder}/{name}.parquet' (format parquet, compression zstd)")
        shards = db.execute(
            f"select shard, any_value(part), count(*) from '{folder}/catalog.parquet' group by shard"
        ).fetchall()
    manifest = _manifest(lake, _random_model(lake, folder), shards)
    for name in ("catalog.parquet", "quarantine.parquet"):
        manifest.files[name] = store_file(lake.store, folder / name, snapshot_file(SNAPSHOT, name))
    publish(lake, manifest, None)


def _records(first: int, last: int, edition: str = "''") -> str:
    """Select the shop's columns of some records; another `edition` of a record has another etag."""
    return f"""select i, 'p' || lpad(i::varchar, 9, '0') as key,
        '{BUCKET}/products/' || lpad(i::varchar, 9, '0') || '/front.jpg' as uri,
        md5({edition} || i::varchar) as etag, 'brand ' || hash(i) % 900 as brand,
        (hash(i) % 30000) / 100 as price,
        case when hash(i) % 10 < 3 then ['turtle', 'v', 'round'][(hash(i) % 3 + 1)::bigint] end as neck_design
        from range({first}, {last}) t(i)"""


def _random_model(lake: Lake, folder: Path) -> str:
    torch.manual_seed(0)
    network = AGMAN(ModelConfig(trunk="resnet18"), len(FASHIONAI)).eval()
    save_model(network, FASHIONAI, Preprocess(), folder / "model")
    return import_model(lake, folder / "model")


def _manifest(lake: Lake, model: str, shards: Sequence[tuple[str, str, int]]) -> Manifest:
    def part(name: str, shard: str, num_rows: int) -> Part:
        files = {each: _entry(embedding_part(model, each, name)) for each in FASHIONAI.names}
        return Part(name=name, shard=shard, num_rows=num_rows, files=files)

    return Manifest(
        id=SNAPSHOT, parent=None, night=1, created="", dataset=DATASET, source="", model=model,
        attributes=FASHIONAI.names, taxonomy_digest=FASHIONAI.digest, config={}, config_digest="",
        versions={}, counts={}, gates=[], files={}, groups=(),
        shards={shard: _shard_entries(shard) for shard, _, _ in shards},
        parts=tuple(part(name, shard, num_rows) for shard, name, num_rows in shards),
    )  # fmt: skip


def _shard_entries(shard: str) -> tuple[FileEntry, ...]:
    return _entry(shard_tar(DATASET, shard)), _entry(shard_index(DATASET, shard))


def _entry(name: str) -> FileEntry:
    return FileEntry(name, 1, bytes_sha256(name.encode()), 1)


def read_both(options: Options, folder: Path) -> float:
    """Return the seconds in which DuckDB reads every column of last night's and of tonight's table."""
    started = time.perf_counter()
    with duckdb.connect() as db:
        db.execute("set enable_progress_bar=false")
        for name in ("tonight", "catalog"):
            columns = db.execute(f"describe select * from '{folder}/{name}.parquet'").fetchall()
            read = ", ".join(f"count(hash({column[0]}))" for column in columns)
            db.execute(f"select {read} from '{folder}/{name}.parquet'").fetchall()
    return time.perf_counter() - started


def _in_process(work: Callable[[Options, Path], T], options: Options, folder: Path) -> T:
    """Do it in a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, options, folder).result()


def _table(options: Options, found: Measured, floor: dict[str, float]) -> Table:
    table = Table(
        title=f"{options.rows:,} records, {options.change:.1%} changed; peak {found.peak_gib:.2f} GiB"
    )
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for name, seconds in found.seconds.items():
        if name == "live pictures":
            table.add_section()
        table.add_row(name, f"{seconds:.1f}")
    table.add_section()
    table.add_row("floor: reading both tables", f"{floor['read_seconds']:.1f}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
