"""The catalog of a snapshot as a table to ask: a product by its key, a page of products, what columns hold.

One connection holds one result at a time, so each question has a cursor of its own, from whichever thread.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agman.errors import InvalidInput
from agman.taxonomy import position_in
from pipelines.filters import Column, Filters, Kind, describe_columns, own_columns, parse_filters, quoted

Row = dict[str, Any]


class Products:
    """Rows of a catalog."""

    def __init__(self, catalog: Path, snapshot: str) -> None:
        """Open a table.

        Args:
            catalog: its file, checked.
            snapshot: whose it is, for messages.
        """
        self._snapshot = snapshot
        self._db = duckdb.connect()
        path = str(catalog).replace("'", "''")
        self._db.execute(
            f"""create view numbered as
            select * from read_parquet('{path}', hive_partitioning=false, file_row_number=true);
            create view catalog as select * exclude (file_row_number) from numbered"""
        )

    def close(self) -> None:
        """Close the table."""
        self._db.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of the caller's own, with the views `catalog` and `numbered`."""
        return self._db.cursor()

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Return what a query finds as plain Python."""
        found: pa.Table = self.cursor().sql(query, params=list(parameters)).to_arrow_table()
        rows: list[Row] = found.to_pylist(maps_as_pydicts="strict")
        return rows

    def find(self, key: str) -> Row | None:
        """Return a product's row; None where there is no such key."""
        rows = self.rows("select * from catalog where key = ?", [key])
        return rows[0] if rows else None

    def row_of(self, key: str) -> Row:
        """Return a product's row.

        Raises:
            InvalidInput: if there is no such key.
        """
        row = self.find(key)
        if row is None:
            near = self.rows(
                "select key from catalog order by jaro_winkler_similarity(key, ?) desc limit 3", [key]
            )
            close = ", ".join(str(each["key"]) for each in near)
            raise InvalidInput(f"key {key!r}: not in snapshot {self._snapshot}; the nearest keys are {close}")
        return row

    def examples(self, attribute: str, count: int, parts: Sequence[str]) -> list[Row]:
        """Return products of some parts to show a search with: held-out and labelled ones first."""
        return self.rows(
            """select * from catalog where list_contains(?, part)
            order by labels[?] is null, role <> 'query', md5(key || ?), key limit ?""",
            [list(parts), attribute, attribute, count],
        )

    def labels_of(self, numbers: Sequence[int]) -> list[dict[str, list[str]]]:
        """Return the labels of rows of the catalog, by attribute, in the order asked for."""
        found = self.rows(
            """select file_row_number as number, labels from numbered
            where file_row_number in (select unnest(?))""",
            [list(numbers)],
        )
        labels = {row["number"]: row["labels"] or {} for row in found}
        return [labels[number] for number in numbers]

    def numbers_with(self, text: str) -> NDArray[np.int64]:
        """Return, ascending, the rows of products whose key or another text holds a text, in any case."""
        names = ["key", *(name for name, kind in self.own_columns.items() if kind == "string")]
        terms = [f"contains(lower({quoted(name)}::varchar), lower(?))" for name in names]
        found = self.cursor().execute(
            f"select file_row_number from numbered where {' or '.join(terms)} order by 1", [text] * len(names)
        )
        return np.asarray(found.fetchnumpy()["file_row_number"], np.int64)

    def pictures_where(self, column: str, value: Any) -> frozenset[str]:
        """Return the sha256 of the products of which a column of the shop's own holds a value."""
        position_in(column, list(self.own_columns), "column")
        found = self.rows(f"select distinct sha256 from catalog where {quoted(column)} = ?", [value])
        return frozenset(row["sha256"] for row in found)

    @cached_property
    def own_columns(self) -> dict[str, Kind]:
        """The shop's own columns that hold single values, by name."""
        return own_columns(self.cursor(), "catalog")

    def describe_columns(self) -> tuple[Column, ...]:
        """Return what these columns hold."""
        return describe_columns(self.cursor(), "catalog")

    def filters_of(self, asked: Any) -> Filters:
        """Read filters on these columns; see `filters.parse_filters`."""
        return parse_filters(asked, self.own_columns)
