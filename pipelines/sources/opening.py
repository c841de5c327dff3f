"""One string says where a catalog comes from."""

import difflib
import os

from agman.errors import InvalidInput
from pipelines.sources.fetch import REMOTE_SCHEMES, scheme_of
from pipelines.sources.folder import FolderSource
from pipelines.sources.generated import parse_generated
from pipelines.sources.readers import TABLE_SUFFIXES
from pipelines.sources.records import Source
from pipelines.sources.table import TableSource

_TABLES = ", ".join(TABLE_SUFFIXES)
_EXPECTED = f"a folder of pictures, a table ({_TABLES}; local or a URL) or generated:num_images=3000"


def open_source(spec: str) -> Source:
    """Open the source a person named.

    Args:
        spec: a folder; a table `*.parquet|*.csv|*.jsonl|*.ndjson|*.json`, local or as a URL;
            or `generated:num_images=3000,seed=0,night=1`.

    Returns:
        The source; nothing of it was read yet.

    Raises:
        InvalidInput: one line that says what was expected and what to do.
    """
    if spec == "generated" or spec.startswith("generated:"):
        return parse_generated(spec.removeprefix("generated").removeprefix(":"))
    is_table = spec.lower().endswith(TABLE_SUFFIXES)
    if "://" in spec:
        return _remote(spec, is_table)
    if is_table and (os.path.isfile(spec) or (os.path.isdir(spec) and spec.lower().endswith(".parquet"))):
        return TableSource(spec)  # a folder named *.parquet is a table in several files, as Spark writes it
    if os.path.isdir(spec):
        return FolderSource(spec)
    if os.path.exists(spec):
        raise InvalidInput(f"source {spec}: expected {_EXPECTED}; found a file of another kind")
    raise InvalidInput(f"source {spec or repr(spec)}: no such folder or file; {_advice(spec)}")


def _remote(spec: str, is_table: bool) -> Source:
    if scheme_of(spec) not in REMOTE_SCHEMES:
        raise InvalidInput(
            f"source {spec}: expected a scheme of {', '.join(REMOTE_SCHEMES)}, "
            f"found {scheme_of(spec) or 'none'}"
        )
    if not is_table:
        raise InvalidInput(
            f"source {spec}: a remote source is a table, expected one of {_TABLES}; "
            "write a table with columns key and uri that lists the pictures"
        )
    return TableSource(spec)


def _advice(spec: str) -> str:
    parent, name = os.path.split(spec.rstrip("/"))
    try:
        siblings = os.listdir(parent or ".")
    except OSError:
        return f"expected {_EXPECTED}"
    close = difflib.get_close_matches(name, siblings, n=1)
    return f"did you mean {os.path.join(parent, close[0])}?" if close else f"expected {_EXPECTED}"
