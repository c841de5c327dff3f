"""The fenced blocks of the documents, and SQL as DuckDB's command line takes it."""

import re
from pathlib import Path
from typing import NamedTuple

import duckdb

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "infra" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """A fenced block."""

    document: str
    """Path below the repository."""
    heading: str
    """The last one before it."""
    language: str
    text: str


def blocks(language: str | None = None) -> list[Block]:
    """Return the blocks of all documents in their order, or those of one language ("": of none)."""
    found = []
    for path in DOCUMENTS:
        name, heading = str(path.relative_to(ROOT)), ""
        for level, fence, text in re.findall(
            r"^(#+ .*)$|^```(.*)\n((?:.*\n)*?)```$", path.read_text(), flags=re.MULTILINE
        ):
            heading = level.strip("# ") or heading
            if not level:
                found.append(Block(name, heading, fence, text))
    return [block for block in found if language is None or block.language == language]


def run_sql(db: duckdb.DuckDBPyConnection, text: str) -> duckdb.DuckDBPyRelation | None:
    """Run a block as DuckDB's command line would; return the last statement's rows, if it has any."""
    text = re.sub(r"^\.read (\S+)$", lambda found: Path(found[1]).read_text(), text, flags=re.MULTILINE)
    *before, last = duckdb.extract_statements(text)
    for statement in before:
        db.execute(statement)
    if last.type == duckdb.StatementType.SELECT:
        return db.sql(last.query)
    db.execute(last)
    return None
