"""An analyst's lake on S3: the job reads it by the lake's own storage code, DuckDB by the same views."""

from pathlib import Path

import analysts_lake
import duckdb
import polars as pl
import pytest
import s3fs
from analysts_lake import ATTRIBUTES, NEW
from called_jobs import call

from pipelines.lake import VIEWS, Lake

pytestmark = pytest.mark.integration


def test_s3_says_what_a_disk_says(lake: Lake, tmp_path: Path) -> None:
    local = Lake(str(tmp_path / "lake"))
    (tmp_path / "made").mkdir()
    for each in (lake, local):
        analysed = analysts_lake.make(each, tmp_path / "made")
    for each, out in ((lake, f"{lake.url}-tables"), (local, str(tmp_path / "tables"))):
        ended = call("analyze.py", "--lake", each.url, "--out", out)
        assert (ended.returncode, ended.stderr) == (0, "")
    stored = Lake(f"{lake.url}-tables").store
    names = list(stored.list_names(f"snapshot={NEW}"))
    assert len(names) == 8
    for name in names:
        with stored.local_copy(name) as path:
            assert pl.read_parquet(path).equals(pl.read_parquet(tmp_path / "tables" / name)), name

    db = duckdb.connect()
    db.register_filesystem(s3fs.S3FileSystem(use_listings_cache=False))  # in the place of httpfs
    db.execute("set variable lake = $lake", {"lake": lake.url})
    db.execute(lake.store.read(VIEWS).body.decode())
    count = len(analysed.catalogs[NEW])
    for view, rows in (("embeddings", len(ATTRIBUTES) * count), ("latest", count), ("arrivals", count + 1)):
        assert db.sql(f"select count(*) from {view}").fetchall() == [(rows,)]
