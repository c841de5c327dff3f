from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import CorruptShard
from pipelines.index import IndexOptions, read_index
from pipelines.places import CatalogRows, Places
from pipelines.retrieval import AttributeIndex, SearchThreads, live_rows, nearest_of_all
from pipelines.verified import Verified

ATTRIBUTE = "skirt_length"
KINDS = {
    "exact": IndexOptions(parts_per_group=2),
    "lists": IndexOptions(exact_rows=100, parts_per_group=2),
    "compressed": IndexOptions(exact_rows=100, parts_per_group=2, max_memory_gib=1e-6),
}


@pytest.fixture
def filled(small_lake: Any) -> Any:
    for number, size in enumerate((500, 40, 460, 7, 90)):
        small_lake.add_part(f"shard{number}", size, seed=number)
    return small_lake


def opened(filled: Any, manifest: Any, threads: SearchThreads) -> AttributeIndex:
    return AttributeIndex(Verified(filled.lake), ATTRIBUTE, manifest.groups, threads)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("dead", ["none", "some", "a group"])
def test_all_groups_answer_as_each_of_them_does_alone(filled: Any, kind: str, number: int, dead: str) -> None:
    manifest = filled.manifest(filled.places(), options=KINDS[kind])
    starts = np.cumsum([0, *(group.num_rows for group in manifest.groups)])
    is_live = np.ones(starts[-1], bool)
    if dead == "some":
        is_live[::3] = False
    if dead == "a group":
        is_live[starts[1] : starts[2]] = False
    query = next(iter(filled.vectors.values()))[1]
    expected = {}
    for group, start in zip(manifest.groups, starts[:-1], strict=True):
        index = read_index(filled.lake, group.files[ATTRIBUTE])
        scores, rows = index.search(query[None], index.ntotal)
        found = {int(r) + int(start): s for r, s in zip(rows[0], scores[0], strict=True) if r >= 0}
        alive = sorted((row for row in found if is_live[row]), key=lambda row: -found[row])
        expected |= {row: found[row] for row in alive[:6]}
    threads = SearchThreads(number)
    index = opened(filled, manifest, threads)
    rows, scores = index.search(query, 6, live_rows(is_live, starts))
    found = dict(zip(rows.tolist(), scores, strict=True))
    assert is_live[rows].all()
    if kind != "compressed":  # whose candidates are those of all groups
        assert found == pytest.approx(expected, abs=1e-6)
    best = np.sort(nearest_of_all(rows, scores, 6))
    assert len(best) == 6
    assert {row: found[row] for row in best} == pytest.approx({row: expected[row] for row in best}, abs=1e-6)
    assert index.vectors(best) @ query == pytest.approx([expected[row] for row in best], abs=1e-6)
    threads.close()


def test_the_files_of_a_local_lake_are_mapped(filled: Any) -> None:
    manifest = filled.manifest(filled.places(), options=KINDS["lists"])
    threads = SearchThreads(1)
    index = opened(filled, manifest, threads)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("only Linux tells what is mapped")
    names = [group.files[ATTRIBUTE].name for group in manifest.groups]
    assert all(name in mapped.read_text() for name in names)
    del index
    threads.close()


def test_items_come_back_in_their_order() -> None:
    threads = SearchThreads(3)
    for length in range(8):
        assert threads.map(lambda item: -item, list(range(length))) == [-item for item in range(length)]
    assert threads.map(lambda _: faiss.omp_get_max_threads(), [0, 1, 2, 3]) == [1] * 4
    threads.close()


def test_ties_with_the_last_are_kept() -> None:
    rows, scores = np.array([4, 7, 9, 11]), np.array([0.5, 0.9, 0.5, 0.1], np.float32)
    assert nearest_of_all(rows, scores, 2).tolist() == [4, 7, 9]
    assert nearest_of_all(rows, scores, 1).tolist() == [7]
    assert nearest_of_all(rows, scores, 9).tolist() == rows.tolist()


def test_a_product_is_found_from_its_index_row_and_back(filled: Any) -> None:
    rows = filled.places()
    rows = [*rows[::-2], {**rows[5], "key": "same picture"}, {**rows[9], "part": "in no group"}]
    manifest = filled.manifest(rows, options=KINDS["exact"])
    with filled.lake.checked(manifest.files["catalog.parquet"]) as path:
        places, catalog = Places(manifest, path), CatalogRows(path)
        placed = {row["part"]: [] for row in rows}
        for number, row in enumerate(rows[:-1]):
            position = places.position(row["part"], row["row"])
            assert number in places.products(position)
            assert places.alive[position]
            placed[row["part"]].append(position)
        assert places.alive.sum() == len({(row["part"], row["row"]) for row in rows[:-1]})
        assert places.count_products(places.alive) == len(rows) - 1
        first = np.zeros(len(rows), bool)
        first[0] = True
        position = places.position(rows[0]["part"], rows[0]["row"])
        assert np.flatnonzero(places.positions_of(first)).tolist() == [position]
        found = catalog.read([3, 0, len(rows) - 1])
        assert [row["key"] for row in found] == [rows[3]["key"], rows[0]["key"], rows[-1]["key"]]
        catalog.close()


def test_groups_that_do_not_hold_their_parts_are_named(filled: Any) -> None:
    manifest = filled.manifest(filled.places(), options=KINDS["exact"])
    wrong = replace(manifest.groups[1], num_rows=manifest.groups[1].num_rows + 1)
    with (
        filled.lake.checked(manifest.files["catalog.parquet"]) as path,
        pytest.raises(CorruptShard, match=wrong.name) as caught,
    ):
        Places(replace(manifest, groups=(manifest.groups[0], wrong)), path)
    assert caught.value.name == wrong.ids.name


def test_catalog_rows_are_held_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.places.CACHED_ROWS", 25)
    pq.write_table(pa.table({"key": [str(n) for n in range(95)]}), tmp_path / "c.parquet", row_group_size=10)
    catalog = CatalogRows(tmp_path / "c.parquet")
    wanted = [*range(95), 3, 94, 0, 50]
    assert [row["key"] for row in catalog.read(wanted)] == [str(n) for n in wanted]
    assert sum(map(len, catalog._decoded.values())) <= 25
    catalog.close()


@pytest.mark.parametrize("write_statistics", [True, False])
def test_a_key_is_found_in_the_row_group_that_may_hold_it(tmp_path: Path, write_statistics: bool) -> None:
    keys = sorted(["", "é", "z/", "\U0001f457", *(f"k{n:02}" for n in range(20))])
    pq.write_table(
        pa.table({"key": keys}), tmp_path / "c", row_group_size=5, write_statistics=write_statistics
    )
    catalog = CatalogRows(tmp_path / "c")
    assert [catalog.number_of(key) for key in keys] == list(range(len(keys)))
    assert [catalog.number_of(key) for key in ("k", "k2", "zz", "\U0010ffff")] == [None] * 4
    catalog.close()
