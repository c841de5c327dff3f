"""The published lake that the analyst's tests share: they read alone."""

from collections.abc import Callable
from pathlib import Path

import analysts_lake
import duckdb
import pytest
from analysts_lake import Analysed

from pipelines.lake import Lake

Open = Callable[..., duckdb.DuckDBPyConnection]


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """The lake, below a folder in which it is the only one."""
    folder = tmp_path_factory.mktemp("analyst")
    return analysts_lake.make(Lake(str(folder / "lake")), tmp_path_factory.mktemp("tables"))


@pytest.fixture
def opened(analysed: Analysed) -> Open:
    """Open the lake's own views with DuckDB alone, of the published snapshot or of another one."""

    def open_views(snapshot: str | None = None) -> duckdb.DuckDBPyConnection:
        db = duckdb.connect()
        db.execute("set variable lake = $lake", {"lake": analysed.lake.url})
        db.execute("set variable snapshot = $snapshot", {"snapshot": snapshot})
        db.execute((Path(analysed.lake.url) / "views.sql").read_text())
        return db

    return open_views
