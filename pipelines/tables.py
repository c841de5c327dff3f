"""A DuckDB file of one night: tables of any size, bounded in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from pipelines.redaction import redacted_uri

MEMORY_LIMIT = "2GB"


class Tables:
    """A database inside a temporary folder."""

    def __init__(self, folder: Path) -> None:
        """Open an empty database in `folder`, which must outlive this object."""
        self.folder = folder
        self.db = duckdb.connect(str(folder / "night.duckdb"))
        self.all(f"set memory_limit='{MEMORY_LIMIT}'; set temp_directory='{folder / 'spill'}'")
        self.all("set preserve_insertion_order=false; set enable_progress_bar=false")
        # A uri may hold a password or a signature: the quarantine is for people, who need neither.
        self.db.create_function("redacted_uri", redacted_uri, ["VARCHAR"], "VARCHAR")

    def all(self, query: str) -> list[tuple[Any, ...]]:
        """Run statements and return the rows of the last one."""
        # DuckDB refuses further work on a connection while a result is not read to its end.
        return self.db.execute(query).fetchall()

    def value(self, query: str) -> Any:
        """Return the one value of a query."""
        return self.all(query)[0][0]

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def count(self, what: str) -> int:
        """Return the number of rows of a table, or of a table with a condition."""
        return int(self.value(f"select count(*) from {what}"))


def same_rows(tables: Tables, one: Path, other: Path, ignore: Sequence[str] = ()) -> bool:
    """Tell whether two tables have the same columns and rows, but for the columns to ignore."""
    columns = [[(field.name, field.type) for field in pq.read_schema(path)] for path in (one, other)]
    if columns[0] != columns[1]:
        return False
    chosen = f"* exclude ({', '.join(ignore)})" if ignore else "*"
    a, b = (f"select {chosen} from read_parquet('{path}')" for path in (one, other))
    # Most nights differ, and their digests tell; of equal digests, 64 bits long, the rows are compared.
    if len({tables.all(f"select count(*), bit_xor(hash(t)) from ({rows}) t")[0] for rows in (a, b)}) > 1:
        return False
    return not tables.value(
        f"""select (select count(*) from ({a} except all {b}))
                 + (select count(*) from ({b} except all {a}))"""
    )


def strings(names: Iterable[str]) -> str:
    """Return names as a list in SQL."""
    quoted = ["'" + name.replace("'", "''") + "'" for name in sorted(names)]
    return f"[{', '.join(quoted)}]::varchar[]"
