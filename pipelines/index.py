"""FAISS files of a group of parts, one per attribute, and the table that says what each row is.

Row i of a group is the same picture under every attribute, so one table of ids serves them all: part, row,
sha256, and `shows`, by attribute what the part says of the picture in words (`parts.VALUE_SCHEMA`), as in
`shows.neckline_design.value`. Tables that were written before there were values end at sha256. An index row
is never deleted: a picture that left the catalog is filtered out at search, until its group is made anew.

Vectors of a part have float16's precision, so an index that holds them as float16 loses nothing, takes half
the memory of float32 and is searched faster. Files of before are float32, and are read as they are.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import CorruptShard
from pipelines.inverted_lists import imbalance_of, kind_of_lists, lists_of
from pipelines.lake import Lake, index_file, index_ids, short_digest, working_folder
from pipelines.parts import read_embeddings, read_values, round_to_half
from pipelines.scheduling import Receipt, Unit
from pipelines.storage.objects import FileEntry, store_file
from pipelines.storage.snapshots import Group, Part, Template

LISTS_PER_ROOT_ROW = 4  # lists = 4 sqrt(rows), FAISS' own advice for up to a million rows
IDS_SCHEMA = pa.schema([("part", pa.string()), ("row", pa.int32()), ("sha256", pa.string())])
MIN_ROWS_PER_LIST = 4  # of a catalog so small that only a test or a small bound gives it lists
MIN_COMPRESSED_ROWS = 1000  # fewer do not show how vectors are to be compressed
ADDED_ROWS = 8192  # at once: their lists are found by one matrix product, of fewer at half the rate
LISTED_BYTES = 16  # of a row in a list: its number, and where it is


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexOptions:
    """Which index is built."""

    exact_rows: int = 200_000
    """A catalog of at most so many pictures is searched exactly (`flat`), a larger one by inverted lists."""
    max_memory_gib: float = 0
    """Memory that a search may take for an attribute. Where vectors of float16 would take more, lists hold
    compressed ones, and the true ones stay on disk but for the candidates of a query. 0: no bound."""
    parts_per_group: int = 64
    """Parts of one group of FAISS files: the unit of work."""
    min_live_share: float = 0.5
    """A group of which less lives is built anew without its dead parts."""
    max_small_groups: int = 8
    """More groups than this of less than a quarter of `parts_per_group` are joined."""
    max_small_parts: int = 64
    """More parts than this with less than a quarter of `images_per_shard` live pictures, or less than
    `min_live_share` of their own, are merged."""
    retrain_growth: float = 4.0
    """Inverted lists are trained anew once the catalog has grown so many times."""
    retrain_imbalance: float = 2.0
    """Inverted lists are trained anew once their imbalance is so many times that of the training."""

    def __post_init__(self) -> None:
        """Refuse an empty group."""
        if self.parts_per_group < 1:
            raise ValueError(f"parts_per_group: expected at least 1, found {self.parts_per_group}")
        if self.max_memory_gib < 0:
            raise ValueError(f"max_memory_gib: expected 0 or more, found {self.max_memory_gib}")


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The parts of one group, in the order of its rows."""

    model: str
    parts: tuple[Part, ...]
    template: Template | None
    base: Group | None = None
    """A group of these parts that is there and lacks attributes of theirs."""


def plan_groups(
    model: str, parts: Iterable[Part], options: IndexOptions, template: Template | None = None
) -> Iterator[Unit]:
    """Cut parts, sorted by name, into groups named by their parts and their template; None: exact search."""
    remaining = iter(sorted(parts, key=lambda part: part.name))
    while chunk := tuple(islice(remaining, options.parts_per_group)):
        made_of = [model, template.name if template else "flat", [part.name for part in chunk]]
        yield Unit(
            stage=f"indexes/{model}",
            name=short_digest(made_of),
            payload=GroupPlan(model, chunk, template),
            num_images=sum(part.num_rows for part in chunk),
        )


def plan_added(
    model: str, groups: Iterable[Group], parts: Mapping[str, Part], template: Template | None
) -> Iterator[Unit]:
    """Yield a unit for each group that lacks attributes which its parts have: FAISS files of these alone."""
    for group in groups:
        members = tuple(parts[name] for name in group.parts)
        added = sorted(name for name in members[0].files if name not in group.files)
        if added:
            yield Unit(
                stage=f"indexes/{model}",
                name=short_digest([model, "added to", group.name, added]),
                payload=GroupPlan(model, members, template, group),
                num_images=group.num_rows,
            )


def choose_kind(num_rows: int, options: IndexOptions, dim: int = 0) -> str:
    """Return `flat`, an exact search, for a small catalog, else FAISS' name of an inverted file.

    Args:
        num_rows: live pictures.
        options: bounds.
        dim: of the vectors; needed where `max_memory_gib` bounds them.
    """
    lists = max(1, min(int(LISTS_PER_ROOT_ROW * num_rows**0.5), num_rows // MIN_ROWS_PER_LIST))
    held = num_rows * (2 * dim + LISTED_BYTES) + 4 * lists * dim
    bound = options.max_memory_gib * (1 << 30)
    if 0 < bound < held and num_rows >= MIN_COMPRESSED_ROWS:
        return kind_of_lists(lists, dim, compressed=True)
    return "flat" if num_rows <= options.exact_rows else kind_of_lists(lists, dim, compressed=False)


def build_group(lake: Lake, unit: Unit) -> Receipt:
    """Build the FAISS files of a unit whose payload is a `GroupPlan`.

    Raises:
        CorruptShard: if a part's file is not what its entry says, or its rows differ between attributes.
    """
    plan: GroupPlan = unit.payload
    seconds = {"read": 0.0, "index": 0.0, "write": 0.0}
    base = plan.base
    attributes = [name for name in plan.parts[0].files if base is None or name not in base.files]
    ids = read_ids(lake, base) if base else _read_ids(lake, plan.parts, attributes[0])
    shows: dict[str, pa.Array] = _shown_before(ids)
    files: list[FileEntry] = []
    imbalances = [base.imbalance] * len(base.files) if base else []
    with working_folder() as folder:
        for attribute in attributes:
            index, values = _build(lake, plan, attribute, ids["sha256"], seconds)
            shows[attribute] = values
            imbalances.append(imbalance_of(index))
            started = time.perf_counter()
            path = folder / f"{attribute}.faiss"
            faiss.write_index(index, str(path))
            name = index_file(plan.model, attribute, unit.name)
            files.append(store_file(lake.store, path, name, index.ntotal))
            path.unlink()
            seconds["write"] += time.perf_counter() - started
        ids = ids.select(IDS_SCHEMA.names).append_column(
            "shows", pa.StructArray.from_arrays(list(shows.values()), names=list(shows))
        )
        files.insert(0, _store_ids(lake, plan.model, unit.name, ids, folder))
    detail = {
        "kind": plan.template.kind if plan.template else "flat",
        "template": plan.template.name if plan.template else "",
        "imbalance": float(np.mean(imbalances)),
        "parts": [part.name for part in plan.parts],
        "attributes": attributes,
    }
    counts = {"rows": len(ids)}
    return Receipt(unit=unit.name, files=tuple(files), counts=counts, seconds=seconds, detail=detail)


def build_index(vectors: np.ndarray, empty: faiss.Index | None = None) -> faiss.Index:
    """Return an index of inner products over unit vectors [N, D] float32.

    Args:
        vectors: its rows.
        empty: trained lists to add them to; None searches exactly.
    """
    return add_rows(None if empty is None else with_rows_found(empty), vectors)


def with_rows_found(empty: faiss.Index) -> faiss.Index:
    """Return trained lists, empty, that will tell where each of their rows is."""
    if not isinstance(empty, faiss.IndexRefine):  # which has its vectors in the order of their rows
        lists_of(empty).make_direct_map()
    return empty


def add_rows(index: faiss.Index | None, vectors: np.ndarray) -> faiss.Index:
    """Return an index with further rows.

    Args:
        index: what there is; None begins an exact search.
        vectors: [N, D] float32. Where an exact search cannot hold them as float16 without a loss, as those of
            a part that another program wrote, it goes on in float32.
    """
    dim = vectors.shape[1]
    if index is None:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    grown: Any = index
    if isinstance(index, faiss.IndexScalarQuantizer) and not np.array_equal(vectors, round_to_half(vectors)):
        grown = faiss.IndexFlatIP(dim)
        grown.add(index.reconstruct_n(0, index.ntotal))
    grown.add(vectors)
    built: faiss.Index = grown
    return built


def group_of(receipt: Receipt, base: Group | None = None) -> Group:
    """Return what a snapshot's manifest says about a group, made anew or of one that lacked attributes."""
    ids, *files = receipt.files
    made = dict(zip(receipt.detail["attributes"], files, strict=True))
    return Group(
        name=receipt.unit,
        kind=str(receipt.detail["kind"]),
        parts=tuple(receipt.detail["parts"]),
        num_rows=receipt.counts["rows"],
        ids=ids,
        files={**base.files, **made} if base else made,
        template=str(receipt.detail.get("template", "")),
        imbalance=float(receipt.detail.get("imbalance", 0.0)),
    )


def read_ids(lake: Lake, group: Group, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a group's rows: part, row, sha256 and, but for old ones, shows.

    Args:
        lake: where.
        group: whose table.
        columns: those to read, or fields of them as in `shows.neckline_design.applies`; None reads all. Those
            that an old table lacks are left out.
    """
    with lake.checked(group.ids) as path, pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_index(lake: Lake, entry: FileEntry) -> faiss.Index:
    """Load a FAISS file whose digest was just checked: FAISS itself loads a flipped bit without a word."""
    with lake.checked(entry) as path:
        return faiss.read_index(str(path))


def _shown_before(ids: pa.Table) -> dict[str, pa.Array]:
    """Return by attribute what a table of ids says in words already."""
    if "shows" not in ids.column_names:
        return {}
    shows = ids["shows"].combine_chunks()
    return {field.name: shows.field(number) for number, field in enumerate(shows.type)}


def _read_ids(lake: Lake, parts: Sequence[Part], attribute: str) -> pa.Table:
    blocks = []
    for part in parts:
        with lake.checked(part.files[attribute]) as path:
            digests = pq.read_table(path, columns=["sha256"])["sha256"].to_pylist()
        rows = {"part": [part.name] * len(digests), "row": range(len(digests)), "sha256": digests}
        blocks.append(pa.table(rows, schema=IDS_SCHEMA))
    return pa.concat_tables(blocks)


def _build(
    lake: Lake, plan: GroupPlan, attribute: str, expected: pa.ChunkedArray, seconds: dict[str, float]
) -> tuple[faiss.Index, pa.Array]:
    """Return an attribute's index and, as structs, what its rows say in words.

    Some parts after the others, so that the vectors of few are in memory beside the index.
    """
    index = with_rows_found(read_index(lake, plan.template.files[attribute])) if plan.template else None
    values, num_rows = [], 0
    waiting: list[np.ndarray] = []
    for part in plan.parts:
        started = time.perf_counter()
        with lake.checked(part.files[attribute]) as path:
            digests, vectors = read_embeddings(path)
            values.append(read_values(path))
        if digests != expected.slice(num_rows, len(digests)).to_pylist():
            raise CorruptShard(
                f"parts of attribute {attribute}: expected the same pictures in the same order as the others"
            )
        num_rows += len(digests)
        waiting.append(vectors)
        read = time.perf_counter()
        if sum(map(len, waiting)) >= ADDED_ROWS or part is plan.parts[-1]:
            index = add_rows(index, np.concatenate(waiting))
            waiting.clear()
        seconds["read"] += read - started
        seconds["index"] += time.perf_counter() - read
    if index is None or num_rows != len(expected):
        raise CorruptShard(f"parts of attribute {attribute}: expected {len(expected)} rows, found {num_rows}")
    return index, pa.concat_tables(values).to_struct_array().combine_chunks()


def _store_ids(lake: Lake, model: str, group: str, ids: pa.Table, folder: Path) -> FileEntry:
    path = folder / "ids.parquet"
    pq.write_table(ids, path, compression="zstd")
    return store_file(lake.store, path, index_ids(model, group), len(ids))
