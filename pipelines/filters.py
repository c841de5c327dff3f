"""Filters on a catalog's own columns: which there are, what they hold, and what a person asks of them.

Names come from the catalog's schema and values travel as parameters: nothing that a person wrote becomes SQL.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from agman.errors import InvalidInput
from agman.taxonomy import position_in

OURS = frozenset({"key", "uri", "token", "sha256", "shard", "part", "row", "role", "labels"})
"""Columns of a catalog that are no column of the shop's own."""
MAX_VALUES = 200
"""Most values of a column that are shown, and that a filter may ask for."""
FEW_VALUES = 50
"""So many different texts are always a choice; more are one while they are fewer than half the products."""
MAX_NUMBER = 2**63
Kind = Literal["string", "number", "boolean", "date"]
Scalar: TypeAlias = str | bool | int | float | date
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("VARCHAR", "ENUM"), "string"),
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "number"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"), "number"),
    **dict.fromkeys(("FLOAT", "DOUBLE", "DECIMAL"), "number"),
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "date",
    "TIMESTAMP WITH TIME ZONE": "date",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column that products can be filtered by."""

    name: str
    type: Kind
    min: Any = None
    """Of numbers and dates."""
    max: Any = None
    values: tuple[Any, ...] = ()
    """Of texts and flags: at most MAX_VALUES, the most frequent first. None of a column that tells products
    apart, as an article number does."""
    num_values: int = 0
    """Of texts and flags: how many different ones there are."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one column must hold: one of some values, or something within bounds."""

    column: str
    values: tuple[Scalar, ...] = ()
    least: Scalar | None = None
    most: Scalar | None = None


Filters: TypeAlias = tuple[Condition, ...]
"""All of them must hold."""


def own_columns(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, Kind]:
    """Return the shop's own columns of a table that hold single values, and of which kind."""
    found = db.execute(f"describe {table}").fetchall()
    kinds = {str(name): _KINDS.get(str(kind).partition("(")[0]) for name, kind, *_ in found}
    return {name: kind for name, kind in kinds.items() if kind and name not in OURS | {"file_row_number"}}


def describe_columns(db: duckdb.DuckDBPyConnection, table: str) -> tuple[Column, ...]:
    """Return what the shop's own columns of a table hold, for a person to choose from."""
    return tuple(_describe(db, table, name, kind) for name, kind in own_columns(db, table).items())


def _describe(db: duckdb.DuckDBPyConnection, table: str, name: str, kind: Kind) -> Column:
    column = quoted(name)
    if kind in ("string", "boolean"):
        different, num_rows = db.execute(
            f"select count(distinct {column}), count(*) from {table}"
        ).fetchall()[0]
        if different > max(FEW_VALUES, num_rows / 2):
            return Column(name=name, type=kind, num_values=different)
        rows = db.execute(
            f"select {column} from {table} where {column} is not null group by 1 "
            f"order by count(*) desc, 1 limit {MAX_VALUES}"
        ).fetchall()
        return Column(name=name, type=kind, values=tuple(value for (value,) in rows), num_values=different)
    finite = f"isfinite({column}::double)" if kind == "number" else f"isfinite({column})"
    row = db.execute(f"select min({column}), max({column}) from {table} where {finite}").fetchone()
    least, most = (plain(value) for value in row or (None, None))
    return Column(name=name, type=kind, min=least, max=most)


def parse_filters(asked: Any, columns: Mapping[str, Kind]) -> Filters:
    """Read filters: {"brand": ["A", "B"], "price": {"min": 10, "max": 50}}.

    Args:
        asked: a JSON value.
        columns: that may be asked about, as `own_columns` gives them.

    Returns:
        Conditions in the order of their columns' names: what asks the same is equal.

    Raises:
        InvalidInput: on an unknown column or a value that it cannot hold.
    """
    if not isinstance(asked, Mapping):
        raise InvalidInput(f"filters: expected an object of column to condition, found {shown(asked)}")
    return tuple(_condition(str(name), asked[name], columns) for name in sorted(asked))


def select_rows(
    db: duckdb.DuckDBPyConnection, table: str, num_rows: int, filters: Filters
) -> NDArray[np.bool_]:
    """Return [num_rows] which rows of a numbered table hold what filters ask."""
    sql, parameters = where(filters)
    found = db.execute(f"select file_row_number from {table} where {sql}", parameters).fetchnumpy()
    chosen = np.zeros(num_rows, bool)
    chosen[np.asarray(found["file_row_number"], np.int64)] = True
    return chosen


def where(filters: Filters) -> tuple[str, list[Scalar]]:
    """Return filters as a condition in SQL and its parameters."""
    terms, parameters = ["true"], list[Scalar]()
    for each in filters:
        column = quoted(each.column)
        if each.values:
            terms.append(f"{column} in ({', '.join('?' * len(each.values))})")
            parameters += each.values
        for sign, bound in ((">=", each.least), ("<=", each.most)):
            if isinstance(bound, int | float):
                # For DuckDB NaN is more than any number, and by Parquet's statistics, which leave it out, no
                # value is NaN: `isnan` finds none.
                terms.append(f"isfinite({column}::double)")
            if bound is not None:
                terms.append(f"{column} {sign} ?")
                parameters.append(bound)
    return " and ".join(terms), parameters


def quoted(name: str) -> str:
    """Return a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def plain(value: Any) -> Any:
    """Return a cell as JSON can hold it; None where it cannot."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, date):
        return value.isoformat()
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """Return a JSON value for a message: not endless."""
    said = json.dumps(value, ensure_ascii=False, default=str)
    return said if len(said) <= 80 else f"{said[:79]}…"


def _condition(name: str, asked: Any, columns: Mapping[str, Kind]) -> Condition:
    position_in(name, list(columns), "column")
    kind = columns[name]
    if isinstance(asked, list):
        return _one_of(name, kind, asked)
    if isinstance(asked, Mapping) and kind in ("number", "date"):
        return _between(name, kind, asked)
    expected = (
        'a list of values or {"min": …, "max": …}' if kind in ("number", "date") else "a list of values"
    )
    raise InvalidInput(f"filters.{name}: expected {expected}, found {shown(asked)}")


def _one_of(name: str, kind: Kind, asked: Sequence[Any]) -> Condition:
    if not 1 <= len(asked) <= MAX_VALUES:
        raise InvalidInput(f"filters.{name}: expected 1 to {MAX_VALUES} values, found {len(asked)}")
    values = {_scalar(name, kind, value) for value in asked}
    return Condition(name, tuple(sorted(values, key=str)))


def _between(name: str, kind: Kind, asked: Mapping[str, Any]) -> Condition:
    if not asked or set(asked) - {"min", "max"}:
        raise InvalidInput(f"filters.{name}: expected min, max or both, found {shown(sorted(asked))}")
    bounds = {end: None if value is None else _scalar(name, kind, value) for end, value in asked.items()}
    return Condition(name, least=bounds.get("min"), most=bounds.get("max"))


def _scalar(name: str, kind: Kind, value: Any) -> Scalar:
    """Return a value as its column holds it."""
    if kind == "string" and isinstance(value, str) and "\0" not in value:
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        if -MAX_NUMBER < value < MAX_NUMBER:  # neither NaN nor endless
            return value
    if kind == "date" and isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise InvalidInput(f"filters.{name}: expected a {kind}, found {shown(value)}")
