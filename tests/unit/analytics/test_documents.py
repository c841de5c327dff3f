"""Every SQL block of the documents on the made-up lake: through DuckDB, and its rows again through Polars."""

import csv
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from analysts_lake import ATTRIBUTES, NEW, NIGHTS, OLD, WEEKS, Analysed, first_night, said, shares
from documents import Block, blocks, run_sql

NECKLINE = "neckline_design"
KEY = "sku-1"
DUCKDB = Path(sys.executable).parent / "duckdb"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def answers(analysed: Analysed, tmp_path_factory: pytest.TempPathFactory) -> dict[Block, pl.DataFrame]:
    """What every block below docs/ says: run in its document's order, kept as Parquet, read by Polars."""
    folder = tmp_path_factory.mktemp("answers")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(analysed.lake.url).parent)
        for document, of_one in itertools.groupby(
            (block for block in blocks("sql") if block.document.startswith("docs/")),
            lambda block: block.document,
        ):
            db = duckdb.connect()
            for number, block in enumerate(of_one):
                rows = run_sql(db, as_here(block.text))
                path = folder / f"{Path(document).stem}-{number}.parquet"
                if rows is not None:
                    rows.write_parquet(str(path))
                    found[block] = pl.read_parquet(path)
    return found


def as_here(text: str) -> str:
    """Put the made-up lake's names for those of the documents."""
    return text.replace("demo-lake", "lake").replace("SKU-17", KEY).replace("style-000007", KEY)


def answer(answers: dict[Block, pl.DataFrame], heading: str, number: int = 0) -> Rows:
    """Return the rows of a block below a heading of docs/analytics.md that says anything."""
    found = [
        rows
        for block, rows in answers.items()
        if (block.document, block.heading) == ("docs/analytics.md", heading)
    ]
    return found[number].to_dicts()


def test_every_block_is_asked_below(answers: dict[Block, pl.DataFrame]) -> None:
    known = {
        "Analytics: the lake in SQL": 1, "Shares of values": 1, "By week of arrival": 1, "Coverage": 1,
        "Quarantine": 1, "The nearest products": 1, "Brands with the most similar necklines": 1,
        "The same picture twice": 1, "Likely copies across brands": 1, "Drift between two snapshots": 3,
    }  # fmt: skip
    here = Counter(block.heading for block in answers if block.document == "docs/analytics.md")
    assert here == known


def test_the_first_look(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    rows = answer(answers, "Analytics: the lake in SQL")
    assert len(rows) == 10
    for row in rows:
        shown = analysed.shown(NEW, row["key"], NECKLINE)
        assert (row["value"], row["score"], row["brand"]) == (
            shown.value,
            shown.score,
            analysed.catalogs[NEW][row["key"]].brand,
        )


def test_shares_of_values(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    rows = answer(answers, "Shares of values")
    expected = shares((attribute, shown.value) for _, attribute, shown in said(analysed) if shown.value)
    found = {(row["attribute"], row["value"]): (row["products"], row["share"]) for row in rows}
    assert found == {each: pytest.approx(of) for each, of in expected.items()}
    assert rows == sorted(rows, key=lambda row: (row["attribute"], -row["products"], row["value"]))


def test_shares_by_week(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    expected = shares(
        (attribute, WEEKS[night], shown.value)
        for key, attribute, shown in said(analysed)
        if shown.value and (night := first_night(analysed, key)) in WEEKS
    )
    rows = answer(answers, "By week of arrival")
    found = {
        (row["attribute"], str(row["week"]), row["value"]): (row["products"], row["share"]) for row in rows
    }
    assert found == {each: pytest.approx(of) for each, of in expected.items()}
    assert {week for _, week, _ in found} == set(WEEKS.values())


def test_coverage(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    for row in answer(answers, "Coverage"):
        shown = [each for _, attribute, each in said(analysed) if attribute == row["attribute"]]
        assert row["products"] == len(analysed.catalogs[NEW])
        assert row["named"] == sum(each.value is not None for each in shown)
        applies = Counter(each.applies for each in shown)
        assert (row["have_it"], row["lack_it"], row["not_known"]) == (
            applies[True],
            applies[False],
            applies[None],
        )
        scores = [each.score for each in shown if each.score is not None]
        assert row["mean_score"] == pytest.approx(np.mean(scores))


def test_quarantine(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    num_records = len(analysed.catalogs[NEW]) + 3
    rows = [tuple(row.values()) for row in answer(answers, "Quarantine")]
    assert rows == [
        ("shards", "not_found", 2, pytest.approx(2 / num_records), NIGHTS["night-2"], 2, "lost"),
        ("shards", "truncated", 1, pytest.approx(1 / num_records), NIGHTS["night-1"], 3, "torn"),
    ]


def nearest(analysed: Analysed, key: str) -> list[tuple[str, float]]:
    query = analysed.vector(NEW, key, NECKLINE)
    cosines = {other: analysed.vector(NEW, other, NECKLINE) @ query for other in analysed.catalogs[NEW]}
    return sorted(((other, cosine) for other, cosine in cosines.items() if other != key), key=lambda p: -p[1])


def test_nearest_products(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    rows = answer(answers, "The nearest products")
    expected = nearest(analysed, KEY)[:5]
    assert [row["key"] for row in rows] == [key for key, _ in expected]
    assert [row["cosine"] for row in rows] == pytest.approx([cosine for _, cosine in expected], abs=1e-5)
    assert rows[0]["key"] == "sku-1-again"


def test_brands_with_similar_necklines(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    vectors: dict[str, list[np.ndarray]] = {}
    for key, product in analysed.catalogs[NEW].items():
        if analysed.shown(NEW, key, NECKLINE).applies is not False:
            vectors.setdefault(product.brand, []).append(analysed.vector(NEW, key, NECKLINE))
    centres = {brand: np.mean(each, axis=0) for brand, each in vectors.items() if len(each) >= 3}
    expected = {
        (a, b): centres[a] @ centres[b] / np.linalg.norm(centres[a]) / np.linalg.norm(centres[b])
        for a, b in itertools.combinations(sorted(centres), 2)
    }
    rows = answer(answers, "Brands with the most similar necklines")
    assert {(row["brand"], row["other_brand"]): row["cosine"] for row in rows} == pytest.approx(
        expected, abs=1e-5
    )
    assert len(rows) == 3


def test_the_same_picture_twice(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    (row,) = answer(answers, "The same picture twice")
    assert row == {
        "sha256": analysed.pictures["picture-1"].sha256,
        "keys": ["sku-1", "sku-1-again"],
        "brands": ["Arno", "Bari"],
    }


def test_likely_copies(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    expected = {}
    for one, other in itertools.combinations(sorted(analysed.catalogs[NEW]), 2):
        a, b = analysed.catalogs[NEW][one], analysed.catalogs[NEW][other]
        cosines = [analysed.vector(NEW, one, name) @ analysed.vector(NEW, other, name) for name in ATTRIBUTES]
        if a.picture != b.picture and a.brand != b.brand and np.mean(cosines) >= 0.95:
            expected[one, other] = (np.mean(cosines), min(cosines))
    rows = answer(answers, "Likely copies across brands")
    found = {(row["key"], row["other_key"]): (row["cosine"], row["lowest"]) for row in rows}
    assert found == {pair: pytest.approx(cosines, abs=1e-5) for pair, cosines in expected.items()}
    assert {("sku-1", "sku-copy"), ("sku-1-again", "sku-copy")} <= set(found)


def test_products_that_came_and_went(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    old, new = analysed.catalogs[OLD], analysed.catalogs[NEW]
    same = sum(old[key].picture == new[key].picture for key in old.keys() & new.keys())
    assert answer(answers, "Drift between two snapshots", 0) == [
        {
            "added": len(new.keys() - old.keys()),
            "removed": len(old.keys() - new.keys()),
            "other_picture": len(old.keys() & new.keys()) - same,
            "same_picture": same,
        }
    ]


def test_values_that_changed(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    both = analysed.catalogs[OLD].keys() & analysed.catalogs[NEW].keys()
    expected = Counter(
        (attribute, old, new)
        for key, attribute in itertools.product(both, ATTRIBUTES)
        if (old := analysed.shown(OLD, key, attribute).value)
        != (new := analysed.shown(NEW, key, attribute).value)
    )
    rows = answer(answers, "Drift between two snapshots", 1)
    assert {
        (row["attribute"], row["old_value"], row["new_value"]): row["products"] for row in rows
    } == expected
    assert all((row["by_picture"], row["by_model"]) == (row["products"], 0) for row in rows)
    assert expected


def test_shares_that_moved(analysed: Analysed, answers: dict[Block, pl.DataFrame]) -> None:
    old, new = (
        shares((attribute, shown.value) for _, attribute, shown in said(analysed, name) if shown.value)
        for name in (OLD, NEW)
    )
    rows = answer(answers, "Drift between two snapshots", 2)
    found = {(row["attribute"], row["value"]): (row["old_share"], row["new_share"]) for row in rows}
    nothing = (0, 0.0)
    assert found == {
        each: pytest.approx((old.get(each, nothing)[1], new.get(each, nothing)[1])) for each in old | new
    }
    assert [abs(row["moved"]) for row in rows] == sorted((abs(row["moved"]) for row in rows), reverse=True)


def test_the_readmes_lines_in_duckdbs_own_command_line(analysed: Analysed) -> None:
    (block,) = [block for block in blocks("sql") if block.document == "README.md"]
    ended = subprocess.run(
        [DUCKDB, "-csv", "-noheader", "-nullvalue", ""],
        input=as_here(block.text),
        cwd=Path(analysed.lake.url).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = list(csv.reader(ended.stdout.splitlines()))
    shown = Counter(shown.value or "" for _, attribute, shown in said(analysed) if attribute == NECKLINE)
    assert {name: int(count) for name, count in rows[: len(shown)]} == shown
    products = analysed.catalogs[NEW]
    expected = [
        (key, products[key].brand, products[key].price, pytest.approx(cosine, abs=1e-5))
        for key, cosine in nearest(analysed, KEY)[:5]
    ]
    found = [(key, brand, float(price), float(cosine)) for key, brand, price, cosine in rows[len(shown) :]]
    assert found == expected


def test_polars_takes_a_result(
    analysed: Analysed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (block,) = [block for block in blocks("python") if block.document == "docs/analytics.md"]
    monkeypatch.chdir(Path(analysed.lake.url).parent)
    names: dict[str, Any] = {}
    exec(block.text, names)
    expected = Counter(shown.value for _, attribute, shown in said(analysed) if attribute == NECKLINE)
    assert dict(names["necklines"]["value"].value_counts().iter_rows()) == expected
    assert "off_shoulder" in capsys.readouterr().out
