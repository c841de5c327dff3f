from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pytest

from pipelines.index import IndexOptions, build_index
from pipelines.inverted_lists import imbalance_of, plan_template, trained_index
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Group, Part, Template
from pipelines.upkeep import decide, mean_imbalance, small_parts

ENTRY = FileEntry("indexes/x", 1, "0" * 64)
OPTIONS = IndexOptions(exact_rows=1000, parts_per_group=8, max_small_groups=3)
LISTS = Template(
    name="template-1",
    kind="IVF8,Flat",
    num_rows=2000,
    imbalance=1.5,
    files={"a": FileEntry("indexes/m/a/template-a.faiss", 1, "0" * 64)},
)


def group(name: str, parts: list[str], rows: int = 10, **changes: Any) -> Group:
    made = Group(
        name=name, kind="flat", parts=tuple(parts), num_rows=rows * len(parts), ids=ENTRY, files={"a": ENTRY}
    )
    return replace(made, **changes)


def names(found: Any) -> list[str]:
    return [each.name for each in found.kept]


def test_groups_that_live_are_kept_without_a_word() -> None:
    groups = [group("g1", ["p1", "p2"]), group("g2", ["p3"])]
    found = decide(groups, None, {"p1": 10, "p2": 9, "p3": 10, "new": 5}, (), OPTIONS)
    assert (found.kind, found.template, names(found), found.reasons) == ("flat", None, ["g1", "g2"], ())


def test_a_dead_group_is_dropped_and_one_that_is_mostly_dead_built_anew() -> None:
    groups = [group("alive", ["p1", "p2"]), group("half", ["p3", "p4"]), group("dead", ["p5"])]
    found = decide(groups, None, {"p1": 10, "p2": 10, "p3": 4}, (), OPTIONS)
    assert names(found) == ["alive"]
    assert found.reasons == ("1 groups built anew: 4 of their 20 rows live, bound 50%",)
    exactly_half = decide(groups, None, {"p1": 10, "p2": 10, "p3": 10}, (), OPTIONS)
    assert (names(exactly_half), exactly_half.reasons) == (["alive", "half"], ())


def test_a_group_that_would_be_built_of_the_same_parts_is_kept() -> None:
    found = decide([group("g", ["p1", "p2"])], None, {"p1": 1, "p2": 1}, (), OPTIONS)
    assert (names(found), found.reasons) == (["g"], ())


def test_small_and_thinned_parts_are_merged_once_there_are_too_many() -> None:
    options = IndexOptions(max_small_parts=2, min_live_share=0.5)
    parts = [Part(name=f"p{n}", shard="", num_rows=400, files={"a": ENTRY}) for n in range(4)]
    live = {"p0": 400, "p1": 127, "p2": 199, "p3": 200}
    assert small_parts(parts, live, 512, options) == []
    assert small_parts(parts, {**live, "p3": 199}, 512, options) == parts[1:]
    whole = [replace(part, num_rows=live[part.name]) for part in parts]
    assert small_parts(whole, live, 512, replace(options, max_small_parts=0)) == [whole[1]]


def test_small_groups_are_joined_once_there_are_too_many() -> None:
    large = group("large", [f"l{n}" for n in range(8)])
    small = [group(f"g{n}", [f"p{n}"]) for n in range(4)]
    live = {part: 10 for each in (large, *small) for part in each.parts}
    few = decide([large, *small[:3]], None, live, (), OPTIONS)
    assert (names(few), few.reasons) == (["large", "g0", "g1", "g2"], ())
    many = decide([large, *small], None, live, (), OPTIONS)
    assert names(many) == ["large"]
    assert many.reasons == (
        "4 small groups of 40 rows joined: each is a file that every search opens, bound 3",
    )


@pytest.mark.parametrize("damaged", ["g1", "p1"])
def test_a_group_of_which_something_is_damaged_is_built_anew(damaged: str) -> None:
    groups = [group("g1", ["p1", "p2"]), group("g2", ["p3"])]
    found = decide(groups, None, {"p1": 10, "p2": 10, "p3": 10}, {damaged}, OPTIONS)
    assert names(found) == ["g2"]


def test_a_catalog_that_outgrows_exact_search_gets_lists_for_all_groups() -> None:
    found = decide([group("g1", ["p1"], rows=600)], None, {"p1": 600, "p2": 600}, (), OPTIONS)
    assert (found.kind, found.template, names(found)) == ("IVF138,SQfp16", None, [])
    assert found.reasons == ("inverted lists trained: 1200 rows, exact search up to 1000",)
    assert decide((), None, {"p1": 1200}, (), OPTIONS).reasons == ()
    shrunk = decide([group("g1", ["p1"], template=LISTS.name)], LISTS, {"p1": 10}, (), OPTIONS)
    assert (shrunk.kind, shrunk.template, names(shrunk)) == ("flat", None, [])
    assert shrunk.reasons == ("exact search again: 10 rows, bound 1000",)


def test_trained_lists_are_kept_while_they_fit() -> None:
    groups = [group("g1", ["p1"], rows=2000, template=LISTS.name, imbalance=1.6)]
    found = decide(groups, LISTS, {"p1": 2000, "p2": 500}, (), OPTIONS)
    assert (found.kind, found.template, names(found), found.reasons) == (LISTS.kind, LISTS, ["g1"], ())


@pytest.mark.parametrize(
    ("rows", "imbalance", "damaged", "said"),
    [
        (8100, 1.5, "", "8100 rows are 4.0 times those of the training, bound 4"),
        (2000, 3.1, "", "their imbalance is 3.10, 2.1 times that of the training, bound 2"),
        (2000, 1.5, "template-a", "a file of template-1 is damaged"),
    ],
)
def test_lists_that_no_longer_fit_are_trained_anew_and_all_groups_with_them(
    rows: int, imbalance: float, damaged: str, said: str
) -> None:
    groups = [group("g1", ["p1"], rows=rows, template=LISTS.name, imbalance=imbalance)]
    found = decide(groups, LISTS, {"p1": rows}, {damaged} - {""}, OPTIONS)
    assert (found.template, names(found)) == (None, [])
    assert found.kind.startswith("IVF")
    assert found.reasons == (f"inverted lists trained anew: {said}",)


def test_lists_are_trained_anew_once_their_vectors_no_longer_fit_the_memory() -> None:
    groups = [group("g1", ["p1"], rows=2000, template=LISTS.name)]
    bounded = replace(OPTIONS, max_memory_gib=0.002)
    assert decide(groups, LISTS, {"p1": 2000}, (), bounded, dim=64).template is LISTS
    found = decide(groups, LISTS, {"p1": 2000}, (), bounded, dim=512)
    assert (found.kind, found.template, names(found)) == ("IVF178,PQ64x8,Refine(SQfp16)", None, [])
    assert found.reasons == ("inverted lists trained anew: 2000 vectors no longer fit 0.002 GiB",)
    compressed = replace(LISTS, kind=found.kind)
    again = decide(groups, compressed, {"p1": 2000}, (), replace(OPTIONS, max_memory_gib=1), dim=512)
    assert again.reasons == ("inverted lists trained anew: 2000 vectors fit again 1 GiB",)


def test_imbalance_does_not_depend_on_how_many_rows_show_it() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((16, 8))

    def draw(number: int, share: float) -> np.ndarray:
        chosen = np.where(rng.random(number) < share, 0, rng.integers(0, 16, number))
        rows = (centres[chosen] + 0.05 * rng.standard_normal((number, 8))).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    trained = trained_index(draw(4000, 0), "IVF16,Flat")
    at_training = imbalance_of(build_index(draw(4000, 0), faiss.clone_index(trained)))
    few = [imbalance_of(build_index(draw(12, 0), faiss.clone_index(trained))) for _ in range(40)]
    assert np.mean(few) == pytest.approx(at_training, rel=0.25)
    assert imbalance_of(build_index(draw(4000, 0.6), faiss.clone_index(trained))) > 3 * at_training
    assert imbalance_of(build_index(draw(10, 0))) == 0


def test_large_groups_count_more_for_the_imbalance() -> None:
    groups = [group("g1", ["p1"], rows=300, imbalance=1.0), group("g2", ["p2"], rows=100, imbalance=3.0)]
    assert mean_imbalance(groups) == 1.5
    assert mean_imbalance([]) == 0


def test_a_template_is_trained_on_as_many_parts_as_its_lists_need() -> None:
    parts = [Part(name=f"p{n}", shard=f"p{n}", num_rows=100, files={"a": ENTRY}) for n in range(50)]
    unit = plan_template("m", "a", parts, "IVF10,Flat")
    assert (unit.num_images, len(unit.payload.files)) == (700, 7)
    assert plan_template("m", "a", parts[::-1], "IVF10,Flat").name == unit.name
    assert (
        plan_template("m", "b", [replace(p, files={"b": ENTRY}) for p in parts], "IVF10,Flat").name
        != unit.name
    )
