"""What a source says about each picture: a key, where its bytes are, their version, the shop's columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.sources.allowed import Allowed

ROLES = ("train", "valid", "valid_query", "valid_candidate", "test", "query", "candidate")
"""What a picture is for in an experiment; a plain catalog has none. `query` and `candidate` are the test's;
`valid` leaves open who asks whom; `test` is held out and in no list."""

LABELS = pa.map_(pa.string(), pa.list_(pa.string()))
"""Attribute -> value names. A list, because DeepFashion's pictures carry several values of one attribute."""

RECORD_FIELDS = pa.schema(
    [
        pa.field("key", pa.string()),  # stable id; "" where the source has none: the caller quarantines it
        pa.field("uri", pa.string()),  # where `fetch` finds the bytes
        pa.field("token", pa.string()),  # changes when the bytes change; "" = unknown, look at the bytes
        pa.field("role", pa.string()),  # one of ROLES, or null
        pa.field("labels", LABELS),  # an empty map = none
    ]
)

RESERVED = frozenset(
    {"sha256", "shard", "part", "row", "status", "error", "filename", "file_row_number"}
    | {"_copy", "_source_row", "_bucket", "_refusal"}
    | set(RECORD_FIELDS.names)
)
"""Column names with a meaning of ours in the catalog or while it is made."""

BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class ListedTriplets:
    """Triplets that a data set fixes instead of labels, as Zappos50k does."""

    pictures: tuple[str, ...]
    """The P pictures that take part: in a `Dataset` by their sha256, in a source by their records' keys."""
    attribute: NDArray[np.int64]
    """[T], positions in the data set's taxonomy."""
    rows: NDArray[np.int64]
    """[T, 3], positions in `pictures`: anchor, positive, negative."""

    def renamed(self, names: Mapping[str, str]) -> "ListedTriplets":
        """Return the triplets with their pictures' other names.

        Args:
            names: old name -> new name. Triplets with a picture that is not here are left out; two pictures
                may get one name.
        """
        pictures = tuple(sorted({names[old] for old in self.pictures if old in names}))
        place = {new: index for index, new in enumerate(pictures)}
        moved = np.array([place[names[old]] if old in names else -1 for old in self.pictures], np.int64)
        rows = moved[self.rows]
        kept = (rows >= 0).all(axis=1)
        return ListedTriplets(pictures, self.attribute[kept], rows[kept])


class Source(Protocol):
    """Where a catalog comes from; `open_source` makes one."""

    @property
    def name(self) -> str:
        """For people, such as "folder ./pictures"."""
        ...

    @property
    def allowed(self) -> Allowed:
        """Where its records' uris may lead."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give the records as a stream.

        Yields:
            Batches of one schema: RECORD_FIELDS first, then the shop's own columns.

        Raises:
            InvalidInput: if the source cannot be read as a whole.
        """
        ...


def shop_names(names: Sequence[str]) -> dict[str, str]:
    """Name the shop's columns as the catalog carries them.

    Args:
        names: the shop's column names, all different.

    Returns:
        Shop name -> catalog name: itself, or `shop_<name>` where we use the name. Letter case counts for
        nothing, because SQL engines ignore it: "Key" beside "key" could not be queried.
    """
    carried: dict[str, str] = {}
    taken = set(RESERVED)
    for name in sorted(names, key=lambda name: name.lower() in RESERVED):  # plain names keep theirs
        free = name
        while free.lower() in taken:
            free = f"shop_{free}"
        carried[name] = free
        taken.add(free.lower())
    return {name: carried[name] for name in names}


def label_maps(labels: Sequence[Mapping[str, Sequence[str]]]) -> pa.MapArray:
    """Pack one mapping of attribute -> value names a record.

    Args:
        labels: one mapping a record; empty for none.

    Returns:
        An array of type LABELS.
    """
    return pa.array([[(name, list(values)) for name, values in row.items()] for row in labels], LABELS)


def single_labels(values: Mapping[str, pa.Array], num_records: int) -> pa.MapArray:
    """Pack at most one value name an attribute, without a loop over the records.

    Args:
        values: by attribute, [num_records] strings, "" or null for none.
        num_records: N.

    Returns:
        [N] of type LABELS, a record's attributes in the order of `values`.
    """
    given = {
        name: np.flatnonzero(pc.not_equal(column, "").fill_null(False).to_numpy(zero_copy_only=False))
        for name, column in values.items()
    }
    rows = np.concatenate([*given.values(), np.zeros(0, np.int64)])
    by_row = pa.array(np.argsort(rows, kind="stable"))
    names = np.repeat(np.array([*given], object), [len(each) for each in given.values()])
    chosen = [column.take(pa.array(given[name])).cast(pa.string()) for name, column in values.items()]
    texts = pa.concat_arrays([*chosen, pa.array([], pa.string())])
    lists = pa.ListArray.from_arrays(pa.array(range(len(rows) + 1), pa.int32()), texts.take(by_row))
    ends = np.cumsum(np.bincount(rows, minlength=num_records))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    return pa.MapArray.from_arrays(offsets, pa.array(names, pa.string()).take(by_row), lists)


def no_labels(num_records: int) -> pa.MapArray:
    """Pack `num_records` empty label maps."""
    return single_labels({}, num_records)


def record_batch(
    *,
    keys: pa.Array,
    uris: pa.Array,
    tokens: pa.Array,
    roles: pa.Array | None = None,
    labels: pa.Array | None = None,
    shop: Mapping[str, pa.Array] | None = None,
) -> pa.RecordBatch:
    """Put a batch together in the order every reader expects.

    Args:
        keys: [N] strings.
        uris: [N] strings.
        tokens: [N] strings.
        roles: [N] strings or nulls; None for no roles.
        labels: [N] of type LABELS; None for no labels.
        shop: the shop's columns of N rows by their catalog name.

    Returns:
        A batch of N rows: RECORD_FIELDS, then the shop's columns in the order given.
    """
    num_records = len(keys)
    shop = shop or {}
    record = [
        keys,
        uris,
        tokens,
        pa.nulls(num_records, pa.string()) if roles is None else roles,
        no_labels(num_records) if labels is None else labels,
    ]
    fields = [*RECORD_FIELDS, *(pa.field(name, column.type) for name, column in shop.items())]
    return pa.RecordBatch.from_arrays([*record, *shop.values()], schema=pa.schema(fields))
