"""The file that DuckDB opens a lake with, as views of what is published; it is the same in every lake."""

from pathlib import Path

from pipelines.lake import VIEWS, Lake

VIEWS_FILE = Path(__file__).with_name(VIEWS)


def put_views(lake: Lake) -> None:
    """Put the file into a lake where none stands: one that a shop changed stays."""
    if lake.store.size(VIEWS) is None:
        lake.store.put_if_absent(VIEWS, VIEWS_FILE.read_bytes())
