import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.index import (
    IndexOptions,
    add_rows,
    build_group,
    build_index,
    choose_kind,
    plan_groups,
    read_ids,
    read_index,
)
from pipelines.inverted_lists import imbalance_of, trained_index
from pipelines.parts import VALUE_SCHEMA, Shown, round_to_half
from pipelines.search import Searcher, attributes_had
from pipelines.storage.objects import store_file

ATTRIBUTES = ("collar_design", "skirt_length", "sleeve_length")
SIZES = (7, 1, 12, 5, 9, 3, 8, 11, 2, 6, 10, 4)


@pytest.fixture
def filled(small_lake: Any) -> Any:
    """Twelve shards of different sizes, added in shuffled order."""
    order = list(enumerate(SIZES))
    random.Random(3).shuffle(order)
    for number, size in order:
        small_lake.add_part(f"shard{number:02d}", size, seed=number)
    return small_lake


@pytest.fixture
def searcher(filled: Any) -> Iterator[Searcher]:
    with Searcher(filled.lake, filled.manifest(filled.places())) as opened:
        yield opened


def query_of(vectors: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(ATTRIBUTES, vectors, strict=True))


def test_ids_and_vectors_are_aligned_over_all_shards(filled: Any, searcher: Searcher) -> None:
    assert len(searcher.manifest.groups) == 3
    for row in filled.places():
        for attribute in ATTRIBUTES:
            (hit,) = searcher.search(query_of(filled.vectors[row["sha256"]]), {attribute: 1.0}, 1)
            assert (hit.key, hit.sha256) == (row["key"], row["sha256"])
            assert hit.score == pytest.approx(1, abs=2e-3)


def test_each_row_of_an_index_is_the_vector_its_id_names(filled: Any, searcher: Searcher) -> None:
    seen = 0
    for group in searcher.manifest.groups:
        ids = read_ids(filled.lake, group).to_pylist()
        for position, attribute in enumerate(ATTRIBUTES):
            index = read_index(filled.lake, group.files[attribute])
            assert index.ntotal == len(ids) == group.num_rows
            expected = np.stack([filled.vectors[row["sha256"]][position] for row in ids])
            assert np.array_equal(index.reconstruct_n(0, index.ntotal), expected)
        names = {part.name: filled.digests(part) for part in filled.parts}
        assert all(names[row["part"]][row["row"]] == row["sha256"] for row in ids)
        seen += len(ids)
    assert seen == sum(SIZES)


def test_groups_do_not_depend_on_the_order_of_parts(filled: Any) -> None:
    options = IndexOptions(parts_per_group=5)
    one, other = (
        [u.name for u in plan_groups("m", parts, options)] for parts in (filled.parts, filled.parts[::-1])
    )
    assert one == other
    assert len(one) == len(set(one)) == 3


def test_search_equals_brute_force(filled: Any, searcher: Searcher) -> None:
    digests = list(filled.vectors)
    matrix = np.stack(list(filled.vectors.values()))
    rng = np.random.default_rng(5)
    for attribute_index, attribute in enumerate(ATTRIBUTES):
        query = rng.standard_normal((3, 16)).astype(np.float32)
        query /= np.linalg.norm(query, axis=1, keepdims=True)
        scores = matrix[:, attribute_index] @ query[attribute_index]
        best = np.argsort(-scores)[:9]
        hits = searcher.search(query_of(query), {attribute: 1.0}, 9)
        assert [hit.sha256 for hit in hits] == [digests[i] for i in best]
        assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-5)
        assert [hit.rank for hit in hits] == list(range(1, 10))


def test_a_weighted_search_equals_brute_force(filled: Any, searcher: Searcher) -> None:
    digests = list(filled.vectors)
    matrix = np.stack(list(filled.vectors.values()))
    query = filled.vectors[digests[17]]
    weights = searcher.check_weights({"collar_design": 3, "sleeve_length": 1})
    scores = 0.75 * (matrix[:, 0] @ query[0]) + 0.25 * (matrix[:, 2] @ query[2])
    best = np.argsort(-scores)[:12]
    hits = searcher.search(query_of(query), weights, 12)
    assert [hit.sha256 for hit in hits] == [digests[i] for i in best]
    assert [hit.score for hit in hits] == pytest.approx(scores[best].tolist(), abs=1e-5)
    for hit, i in zip(hits, best, strict=True):
        assert hit.scores == pytest.approx(
            {
                "collar_design": float(matrix[i, 0] @ query[0]),
                "sleeve_length": float(matrix[i, 2] @ query[2]),
            },
            abs=1e-5,
        )


def test_deleted_products_are_never_an_answer(filled: Any) -> None:
    rows = filled.places()
    gone = {row["key"] for row in rows[::3]}
    kept = [row for row in rows if row["key"] not in gone]
    with Searcher(filled.lake, filled.manifest(kept)) as searcher:
        for row in rows[::3][:8]:
            query = query_of(filled.vectors[row["sha256"]])
            for weights in ({"skirt_length": 1.0}, {"skirt_length": 0.5, "collar_design": 0.5}):
                hits = searcher.search(query, weights, 1000)
                assert {hit.key for hit in hits} == {each["key"] for each in kept}


def test_an_edited_picture_answers_with_its_new_bytes_alone(filled: Any) -> None:
    rows = filled.places()
    old = dict(rows[0])
    rows[0] = {**rows[1], "key": old["key"]}  # the product now shows another picture
    with Searcher(filled.lake, filled.manifest(rows)) as searcher:
        hits = searcher.search(query_of(filled.vectors[old["sha256"]]), {"collar_design": 1.0}, 1000)
        assert old["sha256"] not in {hit.sha256 for hit in hits}
        again = searcher.search(query_of(filled.vectors[rows[1]["sha256"]]), {"collar_design": 1.0}, 2)
        assert [hit.key for hit in again] == sorted([rows[1]["key"], old["key"]])
        assert again[0].score == again[1].score


def test_a_picture_embedded_twice_answers_from_its_place_alone(filled: Any) -> None:
    twin = filled.parts[0]
    filled.parts.append(replace(twin, name="zz-again"))  # another part with the same pictures
    digests = filled.digests(twin)
    rows = [row for row in filled.places() if row["part"] != "zz-again"]
    manifest = filled.manifest(rows)
    assert sum(group.num_rows for group in manifest.groups) == len(rows) + len(digests)
    with Searcher(filled.lake, manifest) as searcher:
        hits = searcher.search(query_of(filled.vectors[digests[0]]), {"collar_design": 1.0}, 1000)
    assert sorted(hit.key for hit in hits) == sorted(row["key"] for row in rows)


def test_more_is_asked_than_there_is(filled: Any, searcher: Searcher) -> None:
    query = query_of(next(iter(filled.vectors.values())))
    assert len(searcher.search(query, {"collar_design": 1.0}, 10_000)) == sum(SIZES)


def test_the_query_can_be_left_out(filled: Any, searcher: Searcher) -> None:
    digest, vectors = next(iter(filled.vectors.items()))
    hits = searcher.search(query_of(vectors), {"collar_design": 1.0}, 5, exclude=[digest])
    assert len(hits) == 5
    assert digest not in {hit.sha256 for hit in hits}


def test_stored_embeddings_are_those_of_the_key(filled: Any, searcher: Searcher) -> None:
    for row in filled.places()[::9]:
        found = searcher.embedding_of(row["key"])
        assert np.array_equal(np.stack([found[name] for name in ATTRIBUTES]), filled.vectors[row["sha256"]])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"neck": 1}, "neck"),
        ({}, "at least one"),
        ({"collar_design": 0}, "above zero"),
        ({"collar_design": -1, "skirt_length": 3}, "none below"),
    ],
)
def test_useless_weights_are_the_persons_mistake(searcher: Searcher, weights: dict, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        searcher.check_weights(weights)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(searcher: Searcher, weight: float) -> None:
    with pytest.raises(InvalidInput):
        searcher.check_weights({"collar_design": weight, "skirt_length": 1.0})


def test_a_page_is_rows_in_the_order_of_the_catalog(filled: Any, searcher: Searcher) -> None:
    keys = [row["key"] for row in filled.places()]
    rows, total = searcher.page("", 5, 3)
    assert ([row["key"] for row in rows], total) == (keys[3:8], len(keys))
    rows, total = searcher.page("SHARD01-", 2, 1)
    like = [key for key in keys if key.startswith("shard01-")]
    assert ([row["key"] for row in rows], total) == (like[1:3], len(like))
    assert searcher.page("", 5, len(keys)) == ([], len(keys))
    assert searcher.find(keys[4]) == searcher.row_of(keys[4])
    assert searcher.find("none") is None
    assert searcher.shown_on_all(rows[::-1]) == [searcher.shown_on(row) for row in rows[::-1]]


def test_an_unknown_key_names_its_nearest(searcher: Searcher) -> None:
    with pytest.raises(InvalidInput, match="shard03-1"):
        searcher.row_of("shard03-1x")
    with pytest.raises(InvalidInput, match="k: "):
        searcher.search({}, {"collar_design": 1.0}, 0)


def test_a_flipped_bit_in_an_index_is_found_before_faiss_loads_it(filled: Any, searcher: Searcher) -> None:
    entry = searcher.manifest.groups[0].files["collar_design"]
    path = Path(filled.lake.url) / entry.name
    body = bytearray(path.read_bytes())
    body[-3] ^= 1
    path.write_bytes(body)
    with pytest.raises(CorruptShard, match=entry.name):
        searcher.search(query_of(next(iter(filled.vectors.values()))), {"collar_design": 1.0}, 1)


def test_parts_whose_rows_differ_between_attributes_are_refused(filled: Any) -> None:
    one, other = (part for part in filled.parts if part.num_rows in (7, 8))
    mixed = replace(one, files={**one.files, "skirt_length": other.files["skirt_length"]})
    (unit,) = plan_groups("m", [mixed], IndexOptions())
    with pytest.raises(CorruptShard, match="skirt_length"):
        build_group(filled.lake, unit)


def test_a_group_built_again_is_byte_identical(filled: Any) -> None:
    first = filled.manifest(filled.places(), "one").groups
    for name in list(filled.lake.store.list_names("indexes")):
        filled.lake.store.delete(name)
    assert filled.manifest(filled.places(), "two").groups == first


def test_inverted_lists_find_what_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 16))
    vectors = (centres[rng.integers(0, 40, 4000)] + 0.1 * rng.standard_normal((4000, 16))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kind = choose_kind(len(vectors), IndexOptions(exact_rows=1000))
    assert kind == "IVF252,SQfp16"
    trained = trained_index(vectors, kind)
    assert trained.ntotal == 0
    index = build_index(vectors, trained)
    assert 1 < imbalance_of(index) < 10
    _, exact = build_index(vectors).search(vectors[:50], 10)
    _, found = index.search(vectors[:50], 10)
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]
    assert np.mean(shares) > 0.9
    assert (found[:, 0] == np.arange(50)).all()


def test_deleted_products_stay_out_of_inverted_lists_too(small_lake: Any) -> None:
    for number in range(3):
        small_lake.add_part(f"shard{number}", 300, seed=number)
    rows = small_lake.places()
    manifest = small_lake.manifest(rows[::2], options=IndexOptions(exact_rows=100, parts_per_group=2))
    assert [group.kind for group in manifest.groups] == ["IVF120,SQfp16"] * 2
    with Searcher(small_lake.lake, manifest) as searcher:
        hits = searcher.search(query_of(small_lake.vectors[rows[1]["sha256"]]), {"collar_design": 1.0}, 20)
        assert {hit.key for hit in hits} <= {row["key"] for row in rows[::2]}
        assert len(hits) == 20


def test_a_small_group_is_exact() -> None:
    options = IndexOptions(exact_rows=10)
    assert (choose_kind(10, options), choose_kind(11, options)) == ("flat", "IVF2,SQfp16")
    with pytest.raises(ValueError, match="parts_per_group"):
        IndexOptions(parts_per_group=0)


def test_a_catalog_that_memory_does_not_hold_gets_compressed_lists() -> None:
    bounded = IndexOptions(max_memory_gib=1.0)
    # 1,040 bytes a row, and the centres.
    assert choose_kind(1_000_000, bounded, 512) == "IVF4000,SQfp16"
    assert choose_kind(1_100_000, bounded, 512) == "IVF4195,PQ64x8,Refine(SQfp16)"
    assert choose_kind(1_100_000, IndexOptions(), 512) == "IVF4195,SQfp16"
    small = IndexOptions(max_memory_gib=1e-6)
    assert choose_kind(999, small, 512) == "flat"
    assert choose_kind(1000, small, 512) == "IVF126,PQ64x8,Refine(SQfp16)"
    with pytest.raises(ValueError, match="max_memory_gib: expected 0 or more"):
        IndexOptions(max_memory_gib=-1)


def test_compressed_lists_find_what_exact_search_finds_with_its_scores() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 16))
    vectors = (centres[rng.integers(0, 40, 4000)] + 0.1 * rng.standard_normal((4000, 16))).astype(np.float32)
    vectors = round_to_half(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    kind = choose_kind(len(vectors), IndexOptions(exact_rows=1000, max_memory_gib=1e-6), 16)
    assert kind == "IVF252,PQ2x8,Refine(SQfp16)"
    trained = trained_index(vectors, kind)
    assert trained.ntotal == 0
    index = build_index(vectors, trained)
    assert 1 < imbalance_of(index) < 10
    best, _ = build_index(vectors).search(vectors[:50], 10)
    scores, _ = index.search(vectors[:50], 10)
    assert (scores >= best[:, 9:] - 1e-6).mean() > 0.95
    assert np.array_equal(index.reconstruct_batch(np.arange(50)), vectors[:50])


def test_vectors_that_are_no_halves_are_held_as_they_are() -> None:
    vectors = np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32)
    halves = round_to_half(vectors)
    index = add_rows(add_rows(None, halves), vectors)
    assert np.array_equal(index.reconstruct_n(0, 18), np.concatenate([halves, vectors]))
    assert isinstance(index, faiss.IndexFlatIP)
    assert index.sa_code_size() == 2 * build_index(halves).sa_code_size()


WEARS = (Shown("v", 0.75, True), Shown(None, None, False), Shown())
"""What rows say in turn: a value, that the attribute does not apply, nothing."""


@pytest.fixture
def spoken(small_lake: Any) -> Any:
    """Parts whose rows say in turn what WEARS says, of one attribute after the other."""
    for number, size in enumerate((7, 5, 9)):
        values = {
            attribute: pa.Table.from_pylist(
                [WEARS[(row + shift) % 3]._asdict() for row in range(size)], schema=VALUE_SCHEMA
            )
            for shift, attribute in enumerate(ATTRIBUTES)
        }
        small_lake.add_part(f"shard{number}", size, seed=number, values=values)
    return small_lake


def says(key: str, attribute: str) -> Shown:
    return WEARS[(int(key.rpartition("-")[2]) + ATTRIBUTES.index(attribute)) % 3]


def test_hits_say_what_their_parts_say(spoken: Any) -> None:
    with Searcher(spoken.lake, spoken.manifest(spoken.places())) as searcher:
        for row in spoken.places():
            expected = {attribute: says(row["key"], attribute) for attribute in ATTRIBUTES}
            assert searcher.shown_on(row) == expected
            (hit,) = searcher.search(query_of(spoken.vectors[row["sha256"]]), {"skirt_length": 1.0}, 1)
            assert (hit.key, hit.shows) == (row["key"], expected)


@pytest.mark.parametrize("weights", [{"skirt_length": 1.0}, {"skirt_length": 0.5, "sleeve_length": 0.5}])
def test_what_is_known_to_lack_an_attribute_is_left_out_on_demand(spoken: Any, weights: dict) -> None:
    with Searcher(spoken.lake, spoken.manifest(spoken.places())) as searcher:
        query = query_of(next(iter(spoken.vectors.values())))
        every = searcher.search(query, weights, 1000)
        having = searcher.search(query, weights, 1000, having=weights)
        kept = [hit for hit in every if not any(says(hit.key, name).applies is False for name in weights)]
        assert 0 < len(kept) < len(every)
        assert [(hit.key, hit.score) for hit in having] == [(hit.key, hit.score) for hit in kept]


def test_a_product_whose_labels_carry_an_attribute_is_never_left_out(spoken: Any) -> None:
    rows = spoken.places()
    lacking = [row for row in rows if says(row["key"], "skirt_length").applies is False]
    assert len(lacking) > 5
    lacking[0]["labels"] = {"skirt_length": ["mini"]}
    lacking[1]["labels"] = {"skirt_length": ["invisible"], "sleeve_length": ["long"]}
    rows.append({**lacking[2], "key": "twin", "labels": {"skirt_length": ["midi"]}})  # it is the same picture
    rows.append({**lacking[3], "key": "sold twice"})
    with Searcher(spoken.lake, spoken.manifest(rows)) as searcher:
        query = query_of(next(iter(spoken.vectors.values())))
        weights = {"skirt_length": 1.0}
        found = {hit.key for hit in searcher.search(query, weights, 1000, having=weights)}
        hidden = {row["key"] for row in rows} - found
        assert hidden == {row["key"] for row in lacking[3:]} | {lacking[1]["key"], "sold twice"}
        assert searcher.count_hidden(weights) == len(hidden)
        assert searcher.count_hidden(()) == 0


def test_a_query_asks_for_what_it_is_known_to_have() -> None:
    shows = dict(zip("abc", WEARS, strict=True))
    assert attributes_had(shows, "abc") == ["a"]
    assert attributes_had(shows, "bc") == []


def test_an_index_of_before_there_were_values_is_searched_as_it_was(filled: Any, tmp_path: Path) -> None:
    manifest = filled.manifest(filled.places())
    groups = []
    for group in manifest.groups:
        ids = read_ids(filled.lake, group).select(["part", "row", "sha256"])
        pq.write_table(ids, tmp_path / "ids.parquet")
        entry = store_file(filled.lake.store, tmp_path / "ids.parquet", f"old/{group.name}", len(ids))
        groups.append(replace(group, ids=entry))
    assert read_ids(filled.lake, groups[0], ["shows", "sha256"]).column_names == ["sha256"]
    with Searcher(filled.lake, replace(manifest, groups=tuple(groups))) as searcher:
        query = query_of(next(iter(filled.vectors.values())))
        hits = searcher.search(query, {"collar_design": 1.0}, 1000, having=["collar_design"])
        assert len(hits) == sum(SIZES)
        assert {shown for hit in hits for shown in hit.shows.values()} == {Shown()}
        assert searcher.shown_on(filled.places()[0]) == dict.fromkeys(ATTRIBUTES, Shown())
