"""The columns of every Parquet file as docs/lake.md lists them."""

import re
from html import unescape

import pyarrow as pa
from documents import ROOT

Columns = list[tuple[str, str]]


def documented(file: str) -> Columns:
    """Return (column, type) of a file's table, named as its heading is: `snapshots/<id>/catalog.parquet`."""
    return re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", _section(file), flags=re.MULTILINE)


def documented_fields(file: str) -> set[str]:
    """Return the fields of a JSON file, of which a row of its table may name several."""
    first = re.findall(r"^\| (`[^|]+) \|", _section(file), flags=re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


def _section(file: str) -> str:
    text = (ROOT / "docs" / "lake.md").read_text()
    sections = {unescape(part.split("\n", 1)[0]): part for part in text.split("\n## ")[1:]}
    return sections[file]


def found(schema: pa.Schema) -> Columns:
    """Return (column, type) of a stored file, in the words of the document."""
    return [(field.name, _said(field.type)) for field in schema]


def _said(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list<{kind.value_type}>[D]"
    if pa.types.is_map(kind):
        return f"map<{_said(kind.key_type)}, {_said(kind.item_type)}>"
    if pa.types.is_list(kind):
        return f"list<{_said(kind.value_type)}>"
    return "struct<…>" if pa.types.is_struct(kind) else str(kind)
