"""Where a snapshot's products are: which rows of which index, and which rows of the catalog.

Index rows are counted over all groups of the snapshot, in the manifest's order: group after group, part after
part, row after row. So a product's place follows from its part and row, and one look at two columns of the
catalog tells every place.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.errors import CorruptShard
from pipelines.storage.snapshots import Manifest

Rows = NDArray[np.int64]
CACHED_ROWS = 2_000_000
"""Catalog rows that are held decoded: some 0.3 KB each, with a few columns of the shop's own."""


class Places:
    """Which products each index row is."""

    def __init__(self, manifest: Manifest, catalog: Path) -> None:
        """Read the places of all products.

        Args:
            manifest: of the snapshot.
            catalog: its table, checked.

        Raises:
            CorruptShard: if the manifest's groups do not hold the rows of their parts.
        """
        self.starts = np.cumsum([0, *(group.num_rows for group in manifest.groups)])
        self.num_rows = int(self.starts[-1])
        self._first = _first_rows(manifest)
        with pq.ParquetFile(catalog, read_dictionary=["part"]) as file:
            table = file.read(columns=["part", "row"])
        at = self._positions_of(table["part"], table["row"])
        order = np.argsort(at, kind="stable")
        order = order[np.searchsorted(at, 0, sorter=order) :]  # what no group holds is found by no search
        self._positions: Rows = at[order]
        self._products = order.astype(np.int32 if len(at) < 2**31 else np.int64)
        self.alive = np.zeros(self.num_rows, bool)
        self.alive[self._positions] = True

    def position(self, part: str, row: int) -> int:
        """Return the index row of a catalog row."""
        return self._first[part] + row

    def products(self, position: int) -> list[int]:
        """Return the catalog rows of the products that an index row is."""
        first, last = np.searchsorted(self._positions, [position, position + 1])
        return [int(product) for product in self._products[first:last]]

    def of_products(self) -> tuple[Rows, NDArray[Any]]:
        """Return the index row, ascending, and the catalog row of every product that is in an index."""
        return self._positions, self._products

    def positions_of(self, is_product: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which index rows are one of some products.

        Args:
            is_product: by catalog row.

        Returns:
            By index row.
        """
        found = np.zeros(self.num_rows, bool)
        found[self._positions[is_product[self._products]]] = True
        return found

    def count_products(self, is_position: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> int:
        """Return how many products some index rows are.

        Args:
            is_position: by index row.
            among: by catalog row, the products that are counted; None: all.
        """
        counted = is_position[self._positions]
        return int((counted if among is None else counted & among[self._products]).sum())

    def _positions_of(self, parts: pa.ChunkedArray, rows: pa.ChunkedArray) -> Rows:
        """Return the index row of each catalog row, -1 where its part is in no group."""
        if not len(parts):
            return np.zeros(0, np.int64)
        coded = parts.unify_dictionaries().combine_chunks()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0)
        first = np.array([self._first.get(name, -1) for name in coded.dictionary.to_pylist()], np.int64)
        starts = first[coded.indices.to_numpy(zero_copy_only=False)]
        return np.where(starts < 0, -1, starts + rows.to_numpy())


class CatalogRows:
    """Rows of a catalog by their number: a row group is decoded when one of its rows is first asked for."""

    def __init__(self, catalog: Path) -> None:
        """Open the table, which is checked."""
        self.path = catalog
        self._file = pq.ParquetFile(catalog)
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self.num_rows = sum(sizes)
        self._starts = np.cumsum([0, *sizes])
        self._decoded: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = Lock()  # a reader of Parquet is no two threads' at a time

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows as plain Python, in the order asked for."""
        rows: dict[int, dict[str, Any]] = {}
        for group, within in by_start(numbers, self._starts).items():
            with self._lock:
                decoded = self._group(group)
            # All rows of a group at once: of a row taken alone, most of the time is Arrow's own.
            taken = decoded.take(within).to_pylist(maps_as_pydicts="strict")
            rows |= zip((int(self._starts[group]) + row for row in within), taken, strict=True)
        return [rows[number] for number in numbers]

    def number_of(self, key: str) -> int | None:
        """Return which row a key is; None where there is none.

        The table is sorted by key, so one row group may hold it; DuckDB takes longer to plan the question.
        """
        for group, bounds in enumerate(self._bounds):
            if bounds and not bounds[0] <= key <= bounds[1]:
                continue
            with self._lock:
                decoded = self._group(group)
            row = pc.index(decoded["key"], key).as_py()
            if row >= 0:
                return int(self._starts[group]) + int(row)
        return None

    @cached_property
    def _bounds(self) -> list[tuple[str, str] | None]:
        """The least and the largest key of each row group, where it tells them."""
        metadata = self._file.metadata
        told = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = (group.column(place) for place in range(group.num_columns))
            told.append(next(each for each in columns if each.path_in_schema == "key").statistics)
        return [(each.min, each.max) if each and each.has_min_max else None for each in told]

    def _group(self, number: int) -> pa.Table:
        if number not in self._decoded:
            # In one piece: of several, `take` would join all strings each time.
            self._decoded[number] = self._file.read_row_group(number).combine_chunks()
            while len(self._decoded) > 1 and sum(map(len, self._decoded.values())) > CACHED_ROWS:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(number)
        return self._decoded[number]


def by_start(positions: Sequence[int], starts: Rows) -> dict[int, list[int]]:
    """Return the blocks that positions lie in, each with the positions as counted from its start.

    Args:
        positions: counted over all blocks.
        starts: [N + 1], first position of each block and their total.
    """
    asked = np.unique(np.asarray(positions, np.int64))
    blocks = np.searchsorted(starts, asked, side="right") - 1
    return {
        int(block): [int(row) for row in asked[blocks == block] - starts[block]]
        for block in np.unique(blocks)
    }


def _first_rows(manifest: Manifest) -> dict[str, int]:
    """Return part -> its first index row; `build_group` adds parts in the order of their group."""
    num_rows = {part.name: part.num_rows for part in manifest.parts}
    first: dict[str, int] = {}
    position = 0
    for group in manifest.groups:
        held = sum(num_rows[name] for name in group.parts)
        if held != group.num_rows:
            raise CorruptShard(
                f"group {group.name}: expected the {held} rows of its parts, found {group.num_rows}; "
                "the next night makes it again",
                group.ids.name,
            )
        for name in group.parts:
            first[name] = position
            position += num_rows[name]
    return first
