"""Small parts are merged by copying their live rows: neither the model nor a picture is needed.

A merged part is a part like any other, only that its pictures lie in many shards. The same rows give a part
of the same name, so a night that was stopped finds it again.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.errors import CorruptShard
from pipelines.indexing import RunStage
from pipelines.lake import Lake, short_digest
from pipelines.parts import read_embeddings, read_values, write_part
from pipelines.scheduling import Receipt, Unit, fresh_unit
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Part
from pipelines.workers import TaskWorkers


@dataclass(frozen=True, slots=True)
class LiveRows:
    """What is live of a part: rows, ascending, and the sha256 of the picture of each."""

    part: Part
    rows: tuple[int, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MergePlan:
    """The rows of one merged part, in their order."""

    model: str
    sources: tuple[LiveRows, ...]


def merge_small(
    lake: Lake,
    model: str,
    sources: Sequence[LiveRows],
    rows_per_part: int,
    spent: Collection[str],
    run: RunStage,
) -> list[tuple[Part, list[str]]]:
    """Merge parts.

    Args:
        lake: where.
        model: model id.
        sources: what is live of the small parts.
        rows_per_part: most rows of a merged part.
        spent: names of units of which a file is damaged.
        run: runs units.

    Returns:
        Each merged part with the sha256 of the pictures of its rows.
    """
    planned = plan_merges(model, sources, rows_per_part)
    units = [fresh_unit(unit, lambda named: named.name in spent) for unit in planned]
    if not units:
        return []

    def work(unit: Unit) -> Receipt:
        return merge_parts(lake, unit)

    total = sum(unit.num_images for unit in units)
    made = [receipt for _, receipt in run("merge parts", total, units, TaskWorkers(work))]
    return [(_part_of(receipt), receipt.detail["pictures"]) for receipt in made]


def plan_merges(model: str, sources: Iterable[LiveRows], rows_per_part: int) -> Iterator[Unit]:
    """Fill parts of at most `rows_per_part` rows with sources, in their order.

    A part that would be the copy of a single whole one is left out.
    """
    chosen: list[LiveRows] = []
    num_rows = 0
    for source in sources:
        if chosen and num_rows + len(source.rows) > rows_per_part:
            yield from _unit(model, chosen)
            chosen, num_rows = [], 0
        chosen.append(source)
        num_rows += len(source.rows)
    yield from _unit(model, chosen)


def merge_parts(lake: Lake, unit: Unit) -> Receipt:
    """Write the part of a unit whose payload is a `MergePlan`.

    Raises:
        CorruptShard: if a source's file is not what its entry says, or holds other pictures than the catalog
            tells.
    """
    plan: MergePlan = unit.payload
    started = time.perf_counter()
    attributes = list(plan.sources[0].part.files)
    read = [_read(lake, plan.sources, attribute) for attribute in attributes]
    embeddings = np.stack([vectors for vectors, _ in read], axis=1)
    values = {attribute: said for attribute, (_, said) in zip(attributes, read, strict=True)}
    seconds = {"read": time.perf_counter() - started}
    digests = [digest for source in plan.sources for digest in source.digests]
    started = time.perf_counter()
    files = write_part(lake, plan.model, unit.name, attributes, digests, embeddings, values)
    seconds["write"] = time.perf_counter() - started
    return Receipt(
        unit=unit.name,
        files=tuple(files.values()),
        counts={"rows": len(digests)},
        seconds=seconds,
        detail={
            "merged": [source.part.name for source in plan.sources],
            "pictures": digests,
            "attributes": attributes,
        },
    )


def _part_of(receipt: Receipt) -> Part:
    files = dict(zip(receipt.detail["attributes"], receipt.files, strict=True))
    return Part(name=receipt.unit, shard="", num_rows=receipt.counts["rows"], files=files)


def _unit(model: str, chosen: Sequence[LiveRows]) -> Iterator[Unit]:
    if not chosen or (len(chosen) == 1 and len(chosen[0].rows) == chosen[0].part.num_rows):
        return
    # A part keeps its name where attributes are added to it; a copy of fewer must not pass for one of all.
    made_of = [[source.part.name, source.rows, sorted(source.part.files)] for source in chosen]
    yield Unit(
        stage=f"embeddings/{model}",
        name=f"merged-{short_digest(made_of)}",
        payload=MergePlan(model, tuple(chosen)),
        num_images=sum(len(source.rows) for source in chosen),
    )


def _read(lake: Lake, sources: Sequence[LiveRows], attribute: str) -> tuple[np.ndarray, pa.Table]:
    """Return an attribute's live vectors [N, D] and what is said of them, as VALUE_SCHEMA."""
    vectors, said = [], []
    for source in sources:
        entry: FileEntry = source.part.files[attribute]
        rows = np.array(source.rows)
        with lake.checked(entry) as path:
            digests, embeddings = read_embeddings(path)
            values = read_values(path)
        if [digests[row] for row in source.rows if row < len(digests)] != list(source.digests):
            raise CorruptShard(
                f"{lake.url}/{entry.name}: expected the pictures that the catalog places there, found others",
                entry.name,
            )
        vectors.append(embeddings[rows])
        said.append(values.take(pa.array(rows)))
    return np.concatenate(vectors), pa.concat_tables(said)
