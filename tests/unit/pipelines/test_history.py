"""The parent chain, and the names that people give snapshots."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_snapshots import Shop

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.history import (
    ancestry,
    find_chain_damage,
    find_manifest,
    is_current,
    named_digest,
    read_history,
    resolve_snapshot,
)
from pipelines.lake import CURRENT, Lake, snapshot_file, to_json
from pipelines.storage.snapshots import Manifest, read_pointer, swap_pointer

REFUSED = [{"name": "recall@10 collar_design", "passed": False, "found": 0.2}]


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def nights(shop: Shop, picture: Callable[..., bytes]) -> list[Manifest]:
    """Three nights whose ids sort against their order, as after a clock was set back."""
    found: list[Manifest] = []
    for snapshot in ("zz-first", "mm-second", "aa-third"):
        found.append(shop.night(snapshot, {"a": picture(1)}, parent=found[-1] if found else None))
    return found


def overwrite(lake: Lake, name: str, body: bytes) -> None:
    (Path(lake.url) / name).write_bytes(body)


def change_manifest(lake: Lake, snapshot: str) -> str:
    """Change a manifest so that it still can be read; returns its name."""
    name = snapshot_file(snapshot, "manifest.json")
    overwrite(lake, name, to_json({**json.loads(lake.store.read(name).body), "night": 77}))
    return name


def test_the_chain_follows_parents_not_the_clock(lake: Lake, nights: list[Manifest]) -> None:
    history = read_history(lake)
    assert [found.id for found in history.chain] == ["aa-third", "mm-second", "zz-first"]
    assert [found.night for found in history.chain] == [3, 2, 1]
    assert history.apart == ()
    assert history.trouble == ()
    assert history.pointer == read_pointer(lake)
    assert history.chain[0].num_rows == 1
    assert history.chain[0].counts["reused"] == 1


def test_refused_and_rolled_back_snapshots_stand_apart_by_night(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    shop.night("refused", {"a": picture(1)}, parent=nights[2], is_published=False, gates=REFUSED)
    pointer = read_pointer(lake)
    swap_pointer(lake, replace(pointer, snapshot="zz-first", manifest_sha256=""), pointer.version)
    history = read_history(lake)
    assert [found.id for found in history.chain] == ["zz-first"]
    assert [found.id for found in history.apart] == ["mm-second", "aa-third", "refused"]
    assert history.apart[-1].failed_gates == ("recall@10 collar_design",)


def test_a_retired_parent_ends_the_chain(lake: Lake, nights: list[Manifest]) -> None:
    lake.store.delete(snapshot_file("zz-first", "manifest.json"))
    history = read_history(lake)
    assert [found.id for found in history.chain] == ["aa-third", "mm-second"]
    assert history.trouble == ()
    assert find_chain_damage(lake, nights[2]) == (1, [])


def test_a_changed_manifest_breaks_the_chain_and_is_named(lake: Lake, nights: list[Manifest]) -> None:
    name = change_manifest(lake, "mm-second")
    with pytest.raises(CorruptShard) as caught:
        list(ancestry(lake, "aa-third"))
    assert caught.value.name == name
    history = read_history(lake)
    assert [found.id for found in history.chain] == ["aa-third"]
    assert [found.id for found in history.apart] == ["zz-first"]
    assert len(history.trouble) == 1
    assert name in history.trouble[0]
    num_read, (damage,) = find_chain_damage(lake, nights[2])
    assert (num_read, damage.name) == (1, name)
    assert damage.expected == f"sha256 {nights[2].parent_sha256[:12]}…"
    assert damage.found != damage.expected


def test_a_damaged_pointer_hides_no_snapshot(lake: Lake, nights: list[Manifest]) -> None:
    assert is_current(lake, "aa-third")
    overwrite(lake, CURRENT, b"{")
    history = read_history(lake)
    assert [found.id for found in history.apart] == ["zz-first", "mm-second", "aa-third"]
    assert CURRENT in history.trouble[0]
    assert not is_current(lake, "aa-third")


def test_snapshots_are_named_by_id_beginning_and_word(lake: Lake, nights: list[Manifest]) -> None:
    names = ["aa-third", "mm", "current", "previous"]
    assert [resolve_snapshot(lake, name) for name in names] == [
        "aa-third", "mm-second", "aa-third", "mm-second",
    ]  # fmt: skip


def test_a_whole_id_wins_over_a_longer_one(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    shop.night("aa-third-again", {"a": picture(1)}, parent=nights[2])
    assert resolve_snapshot(lake, "aa-third") == "aa-third"
    with pytest.raises(InvalidInput, match="begins with 'aa', found 2"):
        resolve_snapshot(lake, "aa")


@pytest.mark.parametrize("name", ["q", "current", "previous"])
def test_a_snapshot_that_is_not_there_is_a_persons_mistake(lake: Lake, name: str) -> None:
    with pytest.raises(InvalidInput, match=lake.url):
        resolve_snapshot(lake, name)


def test_a_manifest_is_held_against_the_digest_that_its_child_names(
    lake: Lake, nights: list[Manifest]
) -> None:
    assert find_manifest(lake, "previous") == nights[1]
    assert named_digest(lake, "zz-first") == nights[1].parent_sha256
    change_manifest(lake, "zz-first")
    with pytest.raises(CorruptShard, match="zz-first"):
        find_manifest(lake, "zz")
    change_manifest(lake, "mm-second")  # now nothing that can be believed names the first
    assert named_digest(lake, "zz-first") == ""


def test_pins_are_shown_with_their_snapshot(lake: Lake, nights: list[Manifest]) -> None:
    lake.store.put_if_absent("pins/mm-second/audit.json", b"{}")
    assert [found.pins for found in read_history(lake).chain] == [(), ("audit",), ()]
