"""Who is compared with whom, from what a data set says of its pictures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agman.taxonomy import Attribute, Taxonomy
from pipelines.dataset import Dataset, Description, ListedTriplets
from pipelines.held_out import HeldOut, Lines, by_tar, first_pictures, select_held_out

TAXONOMY = Taxonomy((Attribute("cut", ("a", "b")), Attribute("hem", ("x", "y", "z"))))


def dataset(described: dict[str, list[tuple[str, dict[str, list[str]]]]], **more) -> Dataset:
    uses = {
        sha256: tuple(Description(role, labels) for role, labels in found)
        for sha256, found in described.items()
    }
    return Dataset("shop", ("one.tar",), uses, **more)


def listed(held_out: HeldOut) -> dict[int, list[list[tuple[str, int]]]]:
    """Return the lines of each attribute by picture: queries, candidates."""
    return {
        attribute: [
            [(held_out.pictures[p], v) for p, v in zip(lines.pictures, lines.values, strict=True)]
            for lines in pair
        ]
        for attribute, pair in held_out.lists.items()
    }


def test_a_picture_asks_under_one_attribute_and_stands_under_another() -> None:
    held_out = select_held_out(
        dataset(
            {
                "p1": [("query", {"cut": ["a"]}), ("candidate", {"hem": ["z"]})],
                "p2": [("candidate", {"cut": ["a", "b"]}), ("query", {"hem": ["y"]})],
                "p3": [("train", {"cut": ["a"], "hem": ["x"]})],
                "p4": [("candidate", {"cut": ["b"]}), ("candidate", {"cut": ["b"], "hem": ["x"]})],
            }
        ),
        TAXONOMY,
        "test",
    )
    assert held_out.pictures == ("p1", "p2", "p4")
    assert listed(held_out) == {
        0: [[("p1", 0)], [("p2", 0), ("p2", 1), ("p4", 1)]],
        1: [[("p2", 1)], [("p1", 2), ("p4", 0)]],
    }


def test_an_attribute_without_candidates_is_not_judged_and_its_pictures_are_not_read() -> None:
    held_out = select_held_out(
        dataset(
            {
                "p1": [("query", {"cut": ["a"]})],
                "p2": [("candidate", {"cut": ["a"]})],
                "p3": [("query", {"hem": ["x"]})],
            }
        ),
        TAXONOMY,
        "test",
    )
    assert held_out.attributes == [0]
    assert held_out.pictures == ("p1", "p2")


def test_what_the_taxonomy_does_not_know_is_counted() -> None:
    held_out = select_held_out(
        dataset(
            {
                "p1": [("query", {"cut": ["a", "bias"], "sole": ["flat"]})],
                "p2": [("candidate", {"cut": ["a"], "sole": ["flat"]})],
            }
        ),
        TAXONOMY,
        "test",
    )
    assert listed(held_out) == {0: [[("p1", 0)], [("p2", 0)]]}
    assert held_out.unknown == {"cut=bias": 1, "sole=flat": 2}


def test_validation_lists_come_before_undivided_pictures() -> None:
    own = {
        "p1": [("valid_query", {"cut": ["a"]})],
        "p2": [("valid_candidate", {"cut": ["b"]})],
        "p3": [("valid", {"cut": ["a"]})],
        "p4": [("query", {"cut": ["a"]})],
    }
    assert listed(select_held_out(dataset(own), TAXONOMY, "valid")) == {0: [[("p1", 0)], [("p2", 1)]]}


def test_every_fourth_undivided_picture_asks_whatever_its_uses() -> None:
    undivided = {f"p{i:02}": [("valid", {"cut": ["a"]}), ("valid", {"hem": ["x"]})] for i in range(9)}
    found = listed(select_held_out(dataset(undivided), TAXONOMY, "valid"))
    for attribute in (0, 1):
        assert found[attribute][0] == [("p03", 0), ("p07", 0)]
        assert len(found[attribute][1]) == 7
    assert not select_held_out(dataset(undivided), TAXONOMY, "test").attributes


def shoes(names: tuple[str, ...], rows: list[tuple[int, int, int, int]], num_pictures: int) -> Dataset:
    table = np.array(rows, np.int64)
    triplets = ListedTriplets(tuple(f"p{i}" for i in range(num_pictures)), table[:, 0], table[:, 1:])
    named = Taxonomy(tuple(Attribute(name, ("unknown",)) for name in names))
    return dataset({}, taxonomy=named, triplets={"test": triplets})


def test_triplets_are_found_by_the_name_of_their_attribute() -> None:
    rows = [(0, 1, 2, 3), (1, 4, 3, 2), (2, 5, 4, 3), (2, 1, 5, 4)]
    held_out = select_held_out(shoes(("hem", "heel", "cut"), rows, 7), TAXONOMY, "test")
    assert held_out.pictures == ("p1", "p2", "p3", "p4", "p5")  # p0 and p6 are in no triplet that counts
    assert {a: t.tolist() for a, t in held_out.triplets.items()} == {
        1: [[0, 1, 2]],
        0: [[4, 3, 2], [0, 4, 3]],
    }
    assert held_out.attributes == [0, 1]
    assert held_out.unknown == {"heel": 1}
    assert held_out.under(1).tolist() == [True, True, True, False, False]


def test_what_remains_of_the_lists_without_some_pictures() -> None:
    lists = {
        0: (Lines(np.array([0, 2]), np.array([1, 1])), Lines(np.array([1, 3]), np.array([0, 1]))),
        1: (Lines(np.array([1]), np.array([0])), Lines(np.array([0]), np.array([0]))),
    }
    held_out = HeldOut(("p0", "p1", "p2", "p3"), lists, {5: np.array([[0, 2, 3], [1, 2, 3]])})
    left = held_out.only(np.array([True, False, True, True]))
    assert left.pictures == ("p0", "p2", "p3")
    assert listed(left) == {0: [[("p0", 1), ("p2", 1)], [("p3", 1)]]}
    assert {a: t.tolist() for a, t in left.triplets.items()} == {5: [[0, 1, 2]]}


def test_a_limit_takes_the_first_pictures_of_lists() -> None:
    pictures = {f"p{i}": [("query" if i % 2 else "candidate", {"cut": ["a"]})] for i in range(8)}
    held_out = first_pictures(select_held_out(dataset(pictures), TAXONOMY, "test"), 3)
    assert held_out.pictures == ("p0", "p1", "p2")
    assert listed(held_out) == {0: [[("p1", 0)], [("p0", 0), ("p2", 0)]]}


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8)), min_size=1
    ),
    st.integers(3, 9),
)
def test_a_limit_takes_triplets_from_all_attributes_in_turn(rows, limit: int) -> None:
    whole = select_held_out(shoes(TAXONOMY.names, rows, 9), TAXONOMY, "test")
    held_out = first_pictures(whole, limit)
    in_turn = sorted(
        ((turn, attribute, tuple(whole.pictures[p] for p in triplet))
         for attribute, found in whole.triplets.items() for turn, triplet in enumerate(found)),
        key=lambda item: (item[0], list(whole.triplets).index(item[1])),
    )  # fmt: skip
    taken: set[str] = set()
    for _, _, triplet in in_turn:
        if len(taken | set(triplet)) > limit:
            break
        taken |= set(triplet)
    assert set(held_out.pictures) == taken
    expected = {
        attribute: [t for _, a, t in in_turn if a == attribute and set(t) <= taken] for attribute in (0, 1)
    }
    found = {
        attribute: [tuple(held_out.pictures[p] for p in triplet) for triplet in rows]
        for attribute, rows in held_out.triplets.items()
    }
    assert found == {attribute: triplets for attribute, triplets in expected.items() if triplets}


def test_a_picture_is_read_from_its_home_and_tars_of_others_stay_closed() -> None:
    described = {
        "p1": [("query", {"cut": ["a"]})],
        "p2": [("candidate", {"cut": ["a"]})],
        "p3": [("train", {})],
    }
    told = replace(
        dataset(described),
        urls=("a.tar", "b.tar", "c.tar"),
        homes={"p1": "c.tar", "p2": "a.tar", "p3": "b.tar"},
    )
    held_out = select_held_out(told, TAXONOMY, "test")
    assert held_out.pictures == ("p1", "p2")
    positions = {url: found.tolist() for url, found in by_tar(told, held_out.pictures).items()}
    assert positions == {"a.tar": [1], "c.tar": [0]}
    assert list(by_tar(replace(told, urls=("b.tar", "c.tar")), held_out.pictures)) == ["c.tar"]
    homeless = by_tar(replace(told, homes={}), held_out.pictures)
    assert {url: found.tolist() for url, found in homeless.items()} == {key: [0, 1] for key in told.urls}


@pytest.mark.parametrize("split", ["test", "valid"])
def test_nothing_to_compare_is_no_error_here(split: str) -> None:
    held_out = select_held_out(dataset({"p1": [("train", {"cut": ["a"]})]}), TAXONOMY, split)
    assert held_out.attributes == []
    assert held_out.pictures == ()
