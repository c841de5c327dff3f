"""views.sql: what the lake's own views show, against what the lake was made of."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from analysts_lake import ATTRIBUTES, MODEL, NIGHTS, QUARANTINE, Analysed

from pipelines.lake import VIEWS, Lake
from pipelines.parts import Shown
from pipelines.views import put_views

Open = Callable[..., duckdb.DuckDBPyConnection]
DUCKDB = Path(sys.executable).parent / "duckdb"


def rows(db: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    return db.sql(query).to_arrow_table().to_pylist(maps_as_pydicts="strict")


@pytest.mark.parametrize("snapshot", NIGHTS)
def test_the_catalog_is_the_snapshots(analysed: Analysed, opened: Open, snapshot: str) -> None:
    found = rows(opened(snapshot), "select key, brand, price, sha256 from catalog")
    assert {row["key"]: (row["brand"], row["price"], row["sha256"]) for row in found} == {
        key: (product.brand, product.price, analysed.pictures[product.picture].sha256)
        for key, product in analysed.catalogs[snapshot].items()
    }


def test_the_published_snapshot_is_opened_and_the_one_before(analysed: Analysed, opened: Open) -> None:
    for asked, meant in ((None, "night-3"), ("current", "night-3"), ("previous", "night-2")):
        found = {row["key"] for row in rows(opened(asked), "select key from catalog")}
        assert found == set(analysed.catalogs[meant])


@pytest.mark.parametrize("snapshot", NIGHTS)
def test_embeddings_are_of_live_products_and_the_snapshots_model(
    analysed: Analysed, opened: Open, snapshot: str
) -> None:
    found = rows(opened(snapshot), "from embeddings")
    assert {(row["key"], row["attribute"]) for row in found} == {
        (key, attribute) for key in analysed.catalogs[snapshot] for attribute in ATTRIBUTES
    }
    assert len(found) == len(analysed.catalogs[snapshot]) * len(ATTRIBUTES)
    for row in found:
        said = analysed.shown(snapshot, row["key"], row["attribute"])
        assert Shown(row["value"], row["score"], row["applies"]) == pytest.approx(said)
        expected = analysed.vector(snapshot, row["key"], row["attribute"])
        np.testing.assert_array_equal(np.array(row["embedding"]), expected)
        assert row["model"] == MODEL


@pytest.mark.parametrize("snapshot", NIGHTS)
def test_latest_says_the_same_in_a_row_a_product(analysed: Analysed, opened: Open, snapshot: str) -> None:
    db = opened(snapshot)
    found = {row["key"]: row["shows"] for row in rows(db, "select key, shows from latest")}
    assert len(rows(db, "from latest")) == len(found) == len(analysed.catalogs[snapshot])
    for key, shows in found.items():
        assert list(shows) == list(ATTRIBUTES)
        for attribute, shown in shows.items():
            assert Shown(**shown) == pytest.approx(analysed.shown(snapshot, key, attribute))


def test_the_chain_and_what_came_when(analysed: Analysed, opened: Open) -> None:
    db = opened()
    assert [row["id"] for row in rows(db, "from snapshots")] == ["night-3", "night-2", "night-1"]
    assert [row["counts"]["input"] for row in rows(db, "from snapshots")] == [
        analysed.manifests[name].counts["input"] for name in ("night-3", "night-2", "night-1")
    ]
    first = {
        key: next(name for name in NIGHTS if key in analysed.catalogs[name])
        for catalog in analysed.catalogs.values()
        for key in catalog
    }
    found = {row["key"]: (row["snapshot"], row["is_known"]) for row in rows(db, "from arrivals")}
    assert found == {key: (name, name != "night-1") for key, name in first.items()}
    assert {row["key"] for row in rows(opened("night-2"), "from arrivals")} == set(
        analysed.catalogs["night-2"]
    )


def test_the_quarantine_is_the_nights(opened: Open) -> None:
    assert [row["key"] for row in rows(opened(), "from quarantine order by key")] == [
        "lost",
        "lost-too",
        "torn",
    ]
    assert [row["key"] for row in rows(opened("night-1"), "from quarantine")] == ["torn"]
    assert opened().table("quarantine").columns == QUARANTINE.names


def test_duckdbs_own_command_line_needs_nothing_but_the_file(analysed: Analysed) -> None:
    lake = Path(analysed.lake.url)
    query = "select count(*) from latest"
    for folder, file, first in (
        (lake.parent, f"{lake.name}/views.sql", ""),
        (lake, "views.sql", ""),
        (Path("/"), f"{lake}/views.sql", f"set variable lake = '{lake}/';"),
    ):
        words = [DUCKDB, "-noheader", "-list", "-c", first, "-c", f".read {file}", "-c", query]
        ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.split() == [str(len(analysed.catalogs["night-3"]))]


def test_a_file_that_is_gone_is_an_error_and_no_smaller_answer(analysed: Analysed, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(analysed.lake.url, lake)
    (lake / analysed.manifests["night-3"].parts[0].files[ATTRIBUTES[0]].name).unlink()
    db = duckdb.connect()
    db.execute("set variable lake = $lake", {"lake": str(lake)})
    db.execute((lake / VIEWS).read_text().split("create or replace temp view embeddings")[0])
    with pytest.raises(duckdb.IOException, match="No files found"):
        db.execute((lake / VIEWS).read_text())


def test_where_no_lake_is_a_line_says_what_to_do(
    analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = (Path(analysed.lake.url) / VIEWS).read_text()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(duckdb.InvalidInputException, match="found 0; name it first: set variable lake"):
        duckdb.connect().execute(sql)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "CURRENT.json").write_text(json.dumps({"snapshot": "x", "previous": None}))
    with pytest.raises(duckdb.InvalidInputException, match="found 2"):
        duckdb.connect().execute(sql)


def test_a_file_of_a_shops_own_stays(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.store.put_if_absent(VIEWS, b"select 1")
    put_views(lake)
    assert lake.store.read(VIEWS).body == b"select 1"
