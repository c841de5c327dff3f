"""An earlier snapshot published again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_snapshots import Shop

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard, StaleSnapshot
from pipelines.lake import CURRENT, Lake, snapshot_file, to_json
from pipelines.rollback import roll_back
from pipelines.storage.snapshots import Manifest, current_manifest, read_pointer, swap_pointer

FAILED = [{"name": "recall@10 collar_design", "passed": False, "found": 0.2}]


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def nights(shop: Shop, picture: Callable[..., bytes]) -> list[Manifest]:
    one = shop.night("one", {"a": picture(1)})
    two = shop.night("two", {"a": picture(2)}, parent=one)
    return [one, two, shop.night("three", {"a": picture(3)}, parent=two)]


def test_without_a_name_the_one_before_serves_and_again_undoes_it(lake: Lake, nights: list[Manifest]) -> None:
    before = read_pointer(lake)
    done = roll_back(lake)
    assert (done.published, done.replaced) == (nights[1], "three")
    pointer = read_pointer(lake)
    assert (pointer.snapshot, pointer.previous) == ("two", "three")
    assert pointer.manifest_sha256 == nights[2].parent_sha256
    assert pointer.commit_uuid not in (before.commit_uuid, nights[1].commit_uuid)
    assert current_manifest(lake) == nights[1]
    roll_back(lake)
    assert current_manifest(lake) == nights[2]


def test_any_earlier_snapshot_can_be_named(lake: Lake, nights: list[Manifest]) -> None:
    assert roll_back(lake, "on").published == nights[0]
    assert current_manifest(lake) == nights[0]


def test_a_promotion_does_not_outlive_a_rollback(lake: Lake, nights: list[Manifest]) -> None:
    pointer = read_pointer(lake)
    swap_pointer(lake, replace(pointer, next_model="m9", commit_uuid="x"), pointer.version)
    roll_back(lake)
    assert read_pointer(lake).next_model == ""


@pytest.mark.parametrize(("name", "said"), [("three", "serves now"), ("none", "begins with 'none'")])
def test_a_name_that_is_of_no_use_changes_nothing(
    lake: Lake, nights: list[Manifest], name: str, said: str
) -> None:
    before = lake.store.read(CURRENT)
    with pytest.raises(InvalidInput, match=said):
        roll_back(lake, name)
    assert lake.store.read(CURRENT) == before


def test_the_first_night_has_nothing_before_it(lake: Lake, shop: Shop, picture: Callable[..., bytes]) -> None:
    with pytest.raises(InvalidInput, match="nothing was published before"):
        roll_back(lake)
    shop.night("one", {"a": picture(1)})
    with pytest.raises(InvalidInput, match="nothing was published before"):
        roll_back(lake)


def test_a_retired_snapshot_is_refused_by_its_first_missing_file(lake: Lake, nights: list[Manifest]) -> None:
    gone = [
        entry.name for entry in nights[1].entries() if entry.name not in {e.name for e in nights[2].entries()}
    ]
    for name in gone[1:]:
        lake.store.delete(name)
    with pytest.raises(InvalidInput, match=f"{len(gone) - 1} of its files.*first {gone[1]}.*found nothing"):
        roll_back(lake)
    assert read_pointer(lake).snapshot == "three"


def test_a_snapshot_whose_model_is_gone_is_refused(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    shop.night("four", {"a": picture(3)}, parent=nights[2], model="m2")
    lake.store.delete("models/m1/weights.safetensors")
    with pytest.raises(InvalidInput, match=r"models/m1/weights\.safetensors"):
        roll_back(lake)


@pytest.mark.parametrize("forced", [None, {"who": "ada", "why": "sale"}])
def test_what_a_gate_refused_is_published_by_no_rollback_unless_it_was_forced(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes], forced: dict | None
) -> None:
    pictures = {"a": picture(3)}
    shop.night("odd", pictures, parent=nights[2], is_published=False, gates=FAILED, forced=forced)
    if forced:
        assert roll_back(lake, "odd").published.forced == forced
    else:
        with pytest.raises(InvalidInput, match=r"refused by gate recall@10 collar_design"):
            roll_back(lake, "odd")


def test_a_changed_manifest_is_not_published(lake: Lake, nights: list[Manifest]) -> None:
    name = snapshot_file("two", "manifest.json")
    changed = {**json.loads(lake.store.read(name).body), "night": 77}
    (Path(lake.url) / name).write_bytes(to_json(changed))
    with pytest.raises(CorruptShard) as caught:
        roll_back(lake)
    assert caught.value.name == name


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", None])
def test_a_pointer_that_cannot_be_read_is_replaced_by_a_named_snapshot(
    lake: Lake, nights: list[Manifest], body: bytes | None
) -> None:
    path = Path(lake.url) / CURRENT
    if body is None:
        path.unlink()
    else:
        path.write_bytes(body)
    with pytest.raises((CorruptShard, InvalidInput), match="SNAPSHOT"):
        roll_back(lake)
    done = roll_back(lake, "two")
    assert done.replaced is None
    assert current_manifest(lake) == nights[1]
    assert read_pointer(lake).previous is None


def test_who_publishes_meanwhile_wins(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    class Overtaken(Lake):
        """A lake in which a night ends between the look at the pointer and the swap."""

        @property
        def store(self):
            store = Lake(self.url).store
            swap = store.compare_and_swap

            def late(name: str, body: bytes, version: str | None) -> bool:
                shop.night("four", {"a": picture(4)}, parent=nights[2])
                return swap(name, body, version)

            store.compare_and_swap = late
            return store

    with pytest.raises(StaleSnapshot):
        roll_back(Overtaken(lake.url))
    assert read_pointer(lake).snapshot == "four"
