"""What changed between two snapshots."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_snapshots import Shop

from pipelines.differences import KINDS, Differences, Said, changed_values, compare
from pipelines.errors import CorruptShard
from pipelines.lake import Lake

VALUES = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.lists(st.integers(), max_size=2))
NESTED = st.recursive(
    VALUES, lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
)


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


def found(differences: Differences) -> dict[str, tuple[int, tuple[str, ...]]]:
    assert [change.kind for change in differences.keys] == list(KINDS)
    return {change.kind: (change.num_keys, change.examples) for change in differences.keys if change.num_keys}


def test_each_key_counts_once_in_the_way_it_changed(
    lake: Lake, shop: Shop, picture: Callable[..., bytes]
) -> None:
    before = {"edited": picture(1), "gone": picture(2), "moved": picture(3), "same": picture(4)}
    after = {
        "edited@here": picture(5), "moved@there": picture(3), "new": picture(6), "same": picture(4),
    }  # fmt: skip
    one = shop.night("one", before)
    two = shop.night("two", after, parent=one)
    differences = compare(lake, one, two)
    assert found(differences) == {
        "added": (1, ("new",)),
        "removed": (1, ("gone",)),
        "bytes changed": (1, ("edited",)),
        "uri changed": (1, ("moved",)),
        "unchanged": (1, ("same",)),
    }
    assert differences.num_embedded_anew == 0
    assert found(compare(lake, two, one))["added"] == (1, ("gone",))


def test_examples_are_a_few_of_many(lake: Lake, shop: Shop, picture: Callable[..., bytes]) -> None:
    one = shop.night("one", {"a": picture(1)})
    two = shop.night("two", {f"key{number}": picture(1) for number in range(9)}, parent=one)
    assert found(compare(lake, one, two)) == {
        "added": (9, ("key0", "key1", "key2")), "removed": (1, ("a",)),
    }  # fmt: skip


def test_a_shops_own_column_counts_although_its_type_changed(
    lake: Lake, shop: Shop, picture: Callable[..., bytes]
) -> None:
    pictures = {"a": picture(1)}
    one = shop.night("one", pictures, columns={"price": 5, 'an "odd" name': "x"})
    same = shop.night("same", pictures, columns={"price": "5", 'an "odd" name': "x"}, parent=one)
    other = shop.night("other", pictures, columns={"price": 5, 'an "odd" name': None}, parent=same)
    assert found(compare(lake, one, same)) == {"unchanged": (1, ("a",))}
    assert found(compare(lake, one, other)) == {"columns changed": (1, ("a",))}


def test_another_model_embeds_every_picture_anew(
    lake: Lake, shop: Shop, picture: Callable[..., bytes]
) -> None:
    pictures = {"a": picture(1), "b": picture(2)}
    one = shop.night("one", pictures)
    two = shop.night("two", {**pictures, "c": picture(3)}, parent=one, model="m2")
    differences = compare(lake, one, two)
    assert differences.num_embedded_anew == 2
    assert Said("model", "m1", "m2") in differences.said


def test_what_the_manifests_say_is_compared_by_path(
    lake: Lake, shop: Shop, picture: Callable[..., bytes]
) -> None:
    pictures = {"a": picture(1)}
    one = shop.night("one", pictures)
    two = shop.night(
        "two",
        pictures,
        parent=one,
        config={"gates": {"min_recall": 0.8}, "dataset": "shop", "force": "sale"},
        versions={"ray": "3"},
        code="0.2",
        gates=[{"name": "reconciliation", "passed": False, "found": 2}],
    )
    assert compare(lake, one, two).said == (
        Said("code", "", "0.2"),
        Said("config.force", "-", "sale"),
        Said("config.gates.min_recall", "0.9", "0.8"),
        Said("counts.embedded", "1", "0"),
        Said("counts.reused", "0", "1"),
        Said("gates.reconciliation", "1", "2 failed"),
        Said("versions.ray", "2", "3"),
    )


def test_a_changed_catalog_is_not_compared(lake: Lake, shop: Shop, picture: Callable[..., bytes]) -> None:
    one = shop.night("one", {"a": picture(1)})
    shop.damage(one.files["catalog.parquet"].name)
    with pytest.raises(CorruptShard, match=r"one/catalog\.parquet"):
        compare(lake, one, one)


@given(NESTED, NESTED)
def test_values_differ_where_and_only_where_they_are_not_equal(old: object, new: object) -> None:
    said = changed_values(old, new)
    assert bool(said) == (old != new)
    assert [(each.path, each.new, each.old) for each in said] == [
        (each.path, each.old, each.new) for each in changed_values(new, old)
    ]
