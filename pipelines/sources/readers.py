"""Parquet, CSV and JSON lines as streams of Arrow batches, local or remote; nothing is held whole."""

import glob
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import duckdb
import pyarrow as pa
import pyarrow.dataset
from fsspec import AbstractFileSystem

from agman.errors import InvalidInput
from pipelines.errors import StorageUnavailable
from pipelines.redaction import shown_uri, without_secrets
from pipelines.sources.allowed import scheme_of
from pipelines.sources.fetch import remote_file, translated
from pipelines.sources.records import BATCH_ROWS

CSV_SUFFIXES = (".csv",)
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".parquet", *CSV_SUFFIXES, *JSON_SUFFIXES)

ChooseTypes = Callable[[list[str]], Mapping[str, str]]
"""Column names of a text table -> the SQL types to force; the others are inferred from the whole file."""


def read_table(location: str, choose_types: ChooseTypes) -> Iterator[pa.RecordBatch]:
    """Stream a table in its own order.

    Args:
        location: a local path or fsspec URL that ends in one of TABLE_SUFFIXES.
        choose_types: for CSV and JSON, whose values carry no types.

    Yields:
        Batches of one schema, of BATCH_ROWS rows at most; one of no rows for a table without rows.

    Raises:
        InvalidInput: if it is no such table.
        StorageUnavailable: if its storage fails.
    """
    try:
        if location.lower().endswith(".parquet"):
            yield from _read_parquet(location)
        else:
            yield from _read_text(location, choose_types)
    except FileNotFoundError as error:
        raise InvalidInput(f"source table {shown_uri(location)}: no such file") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, duckdb.Error) as error:
        reason = " ".join(without_secrets(str(error)).split())[:300]
        raise InvalidInput(f"source table {shown_uri(location)}: cannot be read: {reason}") from error
    except OSError as error:
        raise StorageUnavailable(
            f"source table {shown_uri(location)}: {without_secrets(str(error))}"
        ) from error


def _read_parquet(location: str) -> Iterator[pa.RecordBatch]:
    filesystem, path = _opened(location) if scheme_of(location) else (None, location)
    table = pa.dataset.dataset(path, format="parquet", filesystem=filesystem)
    yield pa.RecordBatch.from_pylist([], schema=table.schema)
    # Read ahead little: a row group of a wide table is some 100 MB.
    yield from table.to_batches(batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1)


def _read_text(location: str, choose_types: ChooseTypes) -> Iterator[pa.RecordBatch]:
    # DuckDB infers a column's type from all rows. A reader that looks at the first block fails at row
    # 1,000,000, where the first style number has a letter, and drops the zeros of "00123".
    with closing(duckdb.connect()) as connection:
        path = glob.escape(location)
        if scheme_of(location):
            filesystem, _ = _opened(location)
            connection.register_filesystem(filesystem)
            path = location
        is_csv = location.lower().endswith(CSV_SUFFIXES)
        call = "read_csv(?, sample_size=-1, header=true)" if is_csv else "read_json(?, sample_size=-1)"
        described = connection.sql(f"DESCRIBE SELECT * FROM {call}", params=[path]).fetchall()
        inferred = {str(row[0]): str(row[1]) for row in described}
        types = inferred | dict(choose_types(list(inferred)))
        option = "types" if is_csv else "columns"
        forced = ", ".join(f"{_quoted(name)}: {_quoted(kind)}" for name, kind in types.items())
        query = f"SELECT * FROM {call[:-1]}, {option}={{{forced}}})"
        rows = connection.sql(query, params=[path])
        yield from _with_schema(rows.to_arrow_reader(BATCH_ROWS))


def _with_schema(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pylist([], schema=reader.schema)
    yield from reader


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _opened(location: str) -> tuple[AbstractFileSystem, str]:
    with translated(location):
        return remote_file(location)
