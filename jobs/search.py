r"""Find the products that look alike in one attribute, or in several with weights.

python jobs/search.py query.jpg --lake ./lake --attribute neckline_design -k 10
python jobs/search.py --lake ./lake --key style-000123 --attribute neckline_design=0.7 sleeve_length=0.3
    ray job submit --working-dir . -- \
        python jobs/search.py --lake s3://shop-lake --key A-17 --attribute lapel_design
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import JustifyMethod
from rich.table import Table

from agman.errors import InvalidInput
from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.asking import Question, ask, parse_weights, query_of_product, query_of_vectors
from pipelines.lake import Lake
from pipelines.morning.searches import described, is_relevant, predicted, shown_values
from pipelines.parts import Shown
from pipelines.pictures import GridResult, GridRow, picture_grid, square_thumbnail
from pipelines.search import Hit, Searcher, open_searcher
from pipelines.telemetry import escaped

PICTURE_PIXELS = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """One search."""

    image: Annotated[str, tyro.conf.Positional] = ""
    """Picture to search with; leave out with --key."""
    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    attribute: tuple[str, ...] = ()
    """Attributes that must look alike, with optional weights: neckline_design=0.7 sleeve_length=0.3."""
    key: str = ""
    """Product of the catalog to search with, instead of a picture."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Number of answers."""
    grid: str = "search.png"
    """File for the answers' pictures; empty writes none."""
    include_absent: bool = False
    """Also return products without the attribute where the query has it, such as trousers under necklines."""
    snapshot: str = ""
    """Snapshot to search; empty takes the published one."""
    verify: bool = False
    """Compare every index file with its digest, also those that this machine compared before."""


def main() -> None:
    """Answer one search."""
    config = read_config({"search": ("", SearchConfig())}, __doc__)
    with telemetry.run("search", config) as run:
        answer(config, run)


def answer(config: SearchConfig, run: telemetry.Run) -> list[Hit]:
    """Search, print the table and draw the grid."""
    with open_searcher(Lake(config.lake), config.snapshot or None, verify=config.verify) as searcher:
        if not config.attribute:
            known = ", ".join(searcher.attributes)
            raise InvalidInput(f"--attribute: expected one or more of {known}, found none")
        weights = searcher.check_weights(parse_weights(config.attribute, "--attribute"))
        encoded, row = _query(config, searcher)
        query = (
            query_of_product(searcher, row, list(weights))
            if row
            else query_of_vectors(searcher, searcher.embed_image(encoded))
        )
        question = Question(
            weights=weights,
            k=config.k,
            include_absent=config.include_absent,
            exclude=[row["sha256"]] if row else (),
        )
        found = ask(searcher, query, question)
        hits = found.hits
        _tell_query(run, query.shows, weights)
        run.show(_table(hits, list(weights), config))
        if found.num_left_out:
            run.say(
                f"{found.num_left_out} products that the model says lack {' or '.join(found.having)} are "
                "left out; --include-absent brings them back"
            )
        if config.grid:
            _draw(searcher, config, encoded, row, hits, list(weights))
            run.say(f"pictures: {config.grid}")
        return hits


def _query(config: SearchConfig, searcher: Searcher) -> tuple[bytes, dict[str, Any]]:
    """Return the query's picture, and its catalog row where it is a product."""
    if bool(config.image) == bool(config.key):
        raise InvalidInput("expected either a picture's path or --key KEY, found both or neither")
    if config.key:
        row = searcher.row_of(config.key)
        return searcher.picture_of(row), row
    try:
        return Path(config.image).read_bytes(), {}
    except OSError as error:
        raise InvalidInput(f"picture {config.image}: {error.strerror}; is the path right?") from error


def _tell_query(run: telemetry.Run, shows: Mapping[str, Shown], attributes: Iterable[str]) -> None:
    """Say what the model sees on the query: whoever asks for its neckline should know if it has none."""
    said = [f"{name} {described(shows[name])}" for name in attributes if described(shows[name])]
    if said:
        run.say(f"the model sees on the query: {', '.join(said)}")


def _table(hits: list[Hit], attributes: list[str], config: SearchConfig) -> Table:
    table = Table(title=escaped(f"like {config.key or config.image} in {', '.join(attributes)}"))
    columns = [name for name in ("category", "brand", "price") if hits and name in hits[0].row]
    texts = ("label", "predicted")
    for name in ("rank", "key", "score", *(attributes if len(attributes) > 1 else ()), *texts, *columns):
        justify: JustifyMethod = "right" if name in ("rank", "score", "price") else "left"
        table.add_column(name, justify=justify, no_wrap=name == "key")
    for hit in hits:
        cosines = [f"{hit.scores[name]:.3f}" for name in attributes] if len(attributes) > 1 else []
        label = "; ".join(shown_values(hit.row, name) or "-" for name in attributes)
        said = "; ".join(described(hit.shows[name]) or "-" for name in attributes)
        own = [str(hit.row[name]) for name in columns]
        cells = (str(hit.rank), hit.key, f"{hit.score:.3f}", *cosines, label, said, *own)
        table.add_row(*map(escaped, cells))
    return table


def _draw(
    searcher: Searcher,
    config: SearchConfig,
    encoded: bytes,
    row: dict[str, Any],
    hits: list[Hit],
    attributes: list[str],
) -> None:
    results = tuple(
        GridResult(
            image=square_thumbnail(searcher.picture_of(hit.row), PICTURE_PIXELS),
            caption=(
                hit.key,
                f"{hit.score:.3f}",
                *(
                    line
                    for name in attributes
                    for line in (shown_values(hit.row, name), predicted(hit.shows[name]))
                ),
            ),
            relevant=is_relevant(row, hit, attributes[0]) if len(attributes) == 1 else None,
        )
        for hit in hits
    )
    title = f"{config.key or Path(config.image).name}: {', '.join(attributes)}"
    row_of_pictures = GridRow(title=title, query=square_thumbnail(encoded, PICTURE_PIXELS), results=results)
    try:
        picture_grid([row_of_pictures], config.grid)
    except OSError as error:
        raise InvalidInput(f"--grid {config.grid}: {error.strerror}; is the path right?") from error


if __name__ == "__main__":
    main()
