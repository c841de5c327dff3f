"""jobs/analyze.py: its tables against what the lake was made of, and what a person's mistake says."""

import itertools
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from analysts_lake import ATTRIBUTES, NEW, NIGHTS, OLD, WEEKS, Analysed, first_night, said, shares
from called_jobs import Ended, call

Rows = list[dict[str, Any]]
JOB = "analyze.py"


@pytest.fixture(scope="module")
def ended(analysed: Analysed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """The job, run once, and where its tables are."""
    out = tmp_path_factory.mktemp("out") / "new"
    return call(JOB, "--lake", analysed.lake.url, "--out", str(out)), out / f"snapshot={NEW}"


def table(ended: tuple[Ended, Path], name: str) -> Rows:
    return pl.read_parquet(ended[1] / f"{name}.parquet", hive_partitioning=False).to_dicts()


def ran(analysed: Analysed, out: Path, *words: str, name: str, snapshot: str = NEW) -> tuple[Rows, str]:
    """Run the job once more; return one table and what was said."""
    found = call(JOB, "--lake", analysed.lake.url, "--out", str(out), *words)
    assert (found.returncode, found.stderr) == (0, "")
    path = out / f"snapshot={snapshot}" / f"{name}.parquet"
    return pl.read_parquet(path, hive_partitioning=False).to_dicts() if path.exists() else [], found.stdout


def test_it_says_where_the_tables_are(ended: tuple[Ended, Path]) -> None:
    found, out = ended
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1] == f"8 tables: {out}/"
    assert len(list(out.iterdir())) == 8
    assert "off_shoulder" in found.stdout


def test_shares(analysed: Analysed, ended: tuple[Ended, Path]) -> None:
    expected = shares((attribute, shown.value) for _, attribute, shown in said(analysed) if shown.value)
    rows = table(ended, "value_shares")
    found = {(row["attribute"], row["value"]): (row["products"], row["share"]) for row in rows}
    assert found == {each: pytest.approx(of) for each, of in expected.items()}
    scores = [shown.score for _, _, shown in said(analysed) if shown.value == "v"]
    assert next(row for row in rows if row["value"] == "v")["mean_score"] == pytest.approx(np.mean(scores))


def test_weeks(analysed: Analysed, ended: tuple[Ended, Path]) -> None:
    expected = shares(
        (attribute, WEEKS[night], shown.value)
        for key, attribute, shown in said(analysed)
        if shown.value and (night := first_night(analysed, key)) in WEEKS
    )
    found = {
        (row["attribute"], str(row["week"]), row["value"]): (row["products"], row["share"])
        for row in table(ended, "value_weeks")
    }
    assert found == {each: pytest.approx(of) for each, of in expected.items()}


def test_weeks_by_a_date_of_the_shops_own(analysed: Analysed, tmp_path: Path) -> None:
    rows, _ = ran(analysed, tmp_path, "--week-column", "listed", name="value_weeks")
    counted = Counter((str(row["week"]), row["attribute"]) for row in rows for _ in range(row["products"]))
    others = sum(shown.value is not None for _, name, shown in said(analysed) if name == ATTRIBUTES[0]) - 1
    assert counted[("2024-03-04", ATTRIBUTES[0])] == 1  # sku-copy's, on a Tuesday
    assert counted[("2024-02-26", ATTRIBUTES[0])] == others
    assert {week for week, _ in counted} == {"2024-02-26", "2024-03-04"}


def test_coverage_and_quarantine(analysed: Analysed, ended: tuple[Ended, Path]) -> None:
    for row in table(ended, "coverage"):
        shown = [each for _, attribute, each in said(analysed) if attribute == row["attribute"]]
        applies = Counter(each.applies for each in shown)
        assert (row["products"], row["named"]) == (len(shown), sum(each.value is not None for each in shown))
        counts = (row["have_it"], row["lack_it"], row["not_known"])
        assert counts == (applies[True], applies[False], applies[None])
    kinds = {row["kind"]: row for row in table(ended, "quarantine")}
    assert {kind: (row["records"], row["since"], row["attempts"]) for kind, row in kinds.items()} == {
        "not_found": (2, NIGHTS["night-2"], 2), "truncated": (1, NIGHTS["night-1"], 3),
    }  # fmt: skip
    assert kinds["not_found"]["share_of_input"] == pytest.approx(2 / (len(analysed.catalogs[NEW]) + 3))


def centre(analysed: Analysed, brand: str, attribute: str) -> np.ndarray:
    vectors = [
        analysed.vector(NEW, key, attribute)
        for key, product in analysed.catalogs[NEW].items()
        if product.brand == brand and analysed.shown(NEW, key, attribute).applies is not False
    ]
    return np.sum(vectors, axis=0) / np.linalg.norm(np.sum(vectors, axis=0))


def test_brands(analysed: Analysed, ended: tuple[Ended, Path]) -> None:
    rows = table(ended, "brand_similarity")
    brands = sorted({product.brand for product in analysed.catalogs[NEW].values()})
    expected = {
        (attribute, one, other): centre(analysed, one, attribute) @ centre(analysed, other, attribute)
        for attribute in ATTRIBUTES
        for one, other in itertools.permutations(brands, 2)
    }
    found = {(row["attribute"], row["brand"], row["other_brand"]): row["cosine"] for row in rows}
    assert found == pytest.approx(expected, abs=1e-5)
    for row in rows:
        better = [
            cosine
            for (attribute, one, _), cosine in expected.items()
            if (attribute, one) == (row["attribute"], row["brand"]) and cosine > row["cosine"] + 1e-5
        ]
        assert row["rank"] == len(better) + 1
    como = next(row for row in rows if (row["attribute"], row["brand"]) == (ATTRIBUTES[0], "Como"))
    assert como["products"] == 3  # of four: the trousers have no neckline


def test_small_brands_and_far_ones_are_left_out(analysed: Analysed, tmp_path: Path) -> None:
    words = ("--brands.min-products", "4", "--brands.nearest", "1")
    rows, _ = ran(analysed, tmp_path, *words, name="brand_similarity")
    necks = [row for row in rows if row["attribute"] == ATTRIBUTES[0]]
    assert {(row["brand"], row["other_brand"]) for row in necks} == {("Arno", "Bari"), ("Bari", "Arno")}


def copies(analysed: Analysed, min_cosine: float) -> dict[tuple[str, str], float]:
    found = {}
    for one, other in itertools.combinations(sorted(analysed.catalogs[NEW]), 2):
        cosines = [analysed.vector(NEW, one, name) @ analysed.vector(NEW, other, name) for name in ATTRIBUTES]
        a, b = analysed.catalogs[NEW][one], analysed.catalogs[NEW][other]
        if a.brand != b.brand and np.mean(cosines) >= min_cosine:
            found[one, other] = 1.0 if a.picture == b.picture else float(np.mean(cosines))
    return found


def unordered(rows: Rows) -> dict[tuple[str, ...], float]:
    return {tuple(sorted((row["key"], row["other_key"]))): row["cosine"] for row in rows}


@pytest.mark.parametrize("min_cosine", [0.95, 0.8, -1])
def test_likely_copies(analysed: Analysed, tmp_path: Path, min_cosine: float) -> None:
    rows, said_so = ran(analysed, tmp_path, "--copies.min-cosine", str(min_cosine), name="likely_copies")
    expected = copies(analysed, min_cosine)
    assert unordered(rows) == pytest.approx(expected, abs=1e-5)
    assert len(rows) == len(expected)
    same = [row for row in rows if row["same_picture"]]
    assert [(row["key"], row["other_key"]) for row in same] == [("sku-1", "sku-1-again")]
    others = [row["cosine"] for row in rows if not row["same_picture"]]
    assert others == sorted(others, reverse=True)
    assert "--copies.max-pictures" not in said_so
    for row in rows:
        if not row["same_picture"]:
            by_attribute = {
                name: analysed.vector(NEW, row["key"], name) @ analysed.vector(NEW, row["other_key"], name)
                for name in ATTRIBUTES
            }
            assert row["lowest"] == pytest.approx(min(by_attribute.values()), abs=1e-5)
            assert by_attribute[row["lowest_attribute"]] == pytest.approx(row["lowest"], abs=1e-5)


def test_new_pictures_are_searched_with_first(analysed: Analysed, tmp_path: Path) -> None:
    new = {
        key
        for key, product in analysed.catalogs[NEW].items()
        if product.picture not in {old.picture for old in analysed.catalogs[OLD].values()}
    }
    words = ("--copies.max-pictures", "3", "--copies.min-cosine", "-1", "--copies.neighbours", "30")
    rows, said_so = ran(analysed, tmp_path, *words, name="likely_copies")
    asked = {pair: cosine for pair, cosine in copies(analysed, -1).items() if new & set(pair)}
    assert unordered([row for row in rows if not row["same_picture"]]) == pytest.approx(asked, abs=1e-5)
    assert "searched with 3 of 13 pictures" in said_so


def test_drift(analysed: Analysed, ended: tuple[Ended, Path]) -> None:
    old, new = (
        shares((attribute, shown.value) for _, attribute, shown in said(analysed, name) if shown.value)
        for name in (OLD, NEW)
    )
    found = {
        (row["attribute"], row["value"]): (row["old_share"], row["new_share"])
        for row in table(ended, "value_drift")
    }
    assert found == {each: pytest.approx((old[each][1], new[each][1])) for each in old | new}
    (change,) = table(ended, "value_changes")
    assert change == {
        "attribute": "sleeve_length", "old_value": analysed.shown(OLD, "sku-3", "sleeve_length").value,
        "new_value": analysed.shown(NEW, "sku-3", "sleeve_length").value, "products": 1, "by_picture": 1,
        "by_model": 0, "example": "sku-3",
    }  # fmt: skip


def test_any_two_snapshots_are_compared(analysed: Analysed, tmp_path: Path) -> None:
    words = ("--snapshot", "night-1", "--since", "night-3")
    rows, said_so = ran(analysed, tmp_path, *words, name="value_changes", snapshot="night-1")
    assert [row["example"] for row in rows] == ["sku-3"]
    assert "than in night-3" in said_so


def test_the_first_night_has_no_drift_and_no_weeks(analysed: Analysed, tmp_path: Path) -> None:
    rows, said_so = ran(analysed, tmp_path, "--snapshot", "night-1", name="value_weeks", snapshot="night-1")
    assert rows == []
    assert "no snapshot before night-1 is kept, so drift is left out; --since names one" in said_so
    assert "What arrived, week by week: none" in said_so
    assert not (tmp_path / "snapshot=night-1" / "value_drift.parquet").exists()


def test_the_rows_shown_are_shared_by_the_attributes(analysed: Analysed, tmp_path: Path) -> None:
    rows, said_so = ran(analysed, tmp_path, "--rows", "2", name="value_shares")
    assert "What the products show, 2 of 6 rows" in said_so
    _, _, shown = said_so.partition("What the products show")
    shown, _, _ = shown.partition("What arrived")
    first = {row["attribute"]: row["value"] for row in reversed(rows)}
    assert len(first) == 2
    for attribute, value in first.items():
        assert re.search(rf"{attribute} +│ {value}", shown)


def test_without_brands_all_products_are_compared(
    analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.analyze.BRAND", "maker")
    rows, said_so = ran(analysed, tmp_path, name="likely_copies")
    assert "the catalog has no column maker: brands are left out; --brand-column names another one" in said_so
    assert {row["brand"] for row in rows} == {None}
    assert ("sku-1", "sku-copy") in unordered(rows)
    assert not (tmp_path / f"snapshot={NEW}" / "brand_similarity.parquet").exists()


def test_a_second_call_replaces_its_tables(analysed: Analysed, tmp_path: Path) -> None:
    ran(analysed, tmp_path, name="likely_copies")
    rows, _ = ran(analysed, tmp_path, "--copies.min-cosine", "1", name="likely_copies")
    assert [row["same_picture"] for row in rows] == [True]


def test_nothing_is_written_where_nothing_is_asked_for(
    analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(Path(analysed.lake.url).rglob("*"))
    found = call(JOB, "--lake", analysed.lake.url, "--out", "")
    assert found.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path(analysed.lake.url).rglob("*")) == before


MISTAKES = {
    "no lake": ("--lake {tmp}/none", "has no current snapshot"),
    "no snapshot": ("--lake {lake} --snapshot nights", "begins with 'nights', found 0"),
    "no older one": ("--lake {lake} --since 2023", "begins with '2023', found 0"),
    "no brand": ("--lake {lake} --brand-column maker", "column maker: not in the catalog, which has key"),
    "no week": ("--lake {lake} --week-column born", "column born: not in the catalog"),
    "no date": ("--lake {lake} --week-column brand", "--week-column brand: expected dates such as"),
    "no attribute": ("--lake {lake} --copies.attributes collar", "attribute 'collar'"),
    "no cosine": ("--lake {lake} --copies.min-cosine 2", "--copies.min-cosine: expected -1 to 1, found 2"),
    "no folder": ("--lake {lake} --out {file}/tables", "is the path right?"),
    "no flag": ("--lake {lake} --brand maker", "see analyze.py --help"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(analysed: Analysed, tmp_path: Path, mistake: str) -> None:
    words, expected = MISTAKES[mistake]
    (tmp_path / "file").write_text("")
    here = {"lake": analysed.lake.url, "tmp": tmp_path, "file": tmp_path / "file"}
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    found = call(JOB, *words.format(**here).split(), *out)
    assert found.returncode == 2, found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert expected in found.stderr


def test_a_flipped_bit_is_told(analysed: Analysed, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(analysed.lake.url, lake)
    name = analysed.manifests[NEW].groups[0].ids.name
    body = bytearray((lake / name).read_bytes())
    body[len(body) // 2] ^= 1
    (lake / name).chmod(0o644)
    (lake / name).write_bytes(body)
    found = call(JOB, "--lake", str(lake), "--out", "")
    assert found.returncode == 1
    assert name in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
