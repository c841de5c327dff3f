from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_up_snapshots import Shop

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.lake import Lake, receipt
from pipelines.lineage import find_damage
from pipelines.pins import pin, read_pins, unpin
from pipelines.retention import Plan, apply, plan
from pipelines.rollback import roll_back
from pipelines.storage.snapshots import Manifest, current_manifest

GRACE = timedelta(hours=48)
DAY_0 = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = [DAY_0 + number * GRACE for number in range(8)]


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def nights(shop: Shop, picture: Callable[..., bytes]) -> list[Manifest]:
    """Four nights of a picture each, and so of a shard, a part and a group each."""
    found: list[Manifest] = []
    for number in range(4):
        parent = found[-1] if found else None
        found.append(shop.night(f"night-{number}", {f"k{number}": picture(number)}, parent=parent))
    return found


def clean(lake: Lake, now: datetime, keep_last: int = 1) -> Plan:
    found = plan(lake, keep_last=keep_last, grace=GRACE, now=now)
    apply(lake, found)
    return found


def names(lake: Lake) -> set[str]:
    return {name for name in lake.store.list_names("") if not name.startswith("retention/")}


def test_a_lake_of_kept_snapshots_needs_everything(lake: Lake, nights: list[Manifest]) -> None:
    found = plan(lake, keep_last=4, grace=GRACE, now=DAY_0)
    assert found.kept == ("night-3", "night-2", "night-1", "night-0")
    assert (found.seen, found.due) == ({}, ())


def test_a_plan_changes_nothing(lake: Lake, nights: list[Manifest]) -> None:
    before = {name: lake.store.read(name).body for name in lake.store.list_names("")}
    assert plan(lake, keep_last=1, grace=GRACE, now=DAY_0).seen
    assert {name: lake.store.read(name).body for name in lake.store.list_names("")} == before


def test_what_is_not_needed_goes_in_three_steps(lake: Lake, nights: list[Manifest]) -> None:
    before = names(lake)
    first = clean(lake, DAYS[0])
    assert first.kept == ("night-3", "night-2")  # the one that a rollback goes to stays
    assert (first.due, names(lake)) == ((), before)
    second = clean(lake, DAYS[1])
    assert second.due
    assert all(name.startswith("receipts/") or name.endswith("manifest.json") for name in second.due)
    third = clean(lake, DAYS[2])
    assert names(lake) == before - set(first.seen)
    assert third.due_by_folder["shards"] == 4  # tar and index of two shards
    assert clean(lake, DAYS[3]).seen == {}
    for manifest in nights[2:]:
        assert find_damage(lake, manifest) == []
        for shard in manifest.shards:
            assert lake.store.size(receipt(f"shards/{manifest.dataset}", shard)) is not None
    assert len(list(lake.store.list_names("retention"))) == 1


def test_nothing_is_due_before_its_grace_is_over(lake: Lake, nights: list[Manifest]) -> None:
    before = names(lake)
    for hours in (0, 1, 20, 47.9):
        clean(lake, DAY_0 + timedelta(hours=hours))
    assert names(lake) == before


@pytest.mark.parametrize(
    ("before", "at"),
    [([0], 3.5), ([0, 0.95], 1.95)],
    ids=["the second call comes after three graces", "just before the second grace is over"],
)
def test_files_outlive_their_proof_by_a_grace(
    lake: Lake, nights: list[Manifest], before: list[float], at: float
) -> None:
    """A run may have taken the unit for done at the last moment, whenever that was."""
    manifest = nights[0]
    proof = receipt(f"shards/{manifest.dataset}", *manifest.shards)
    files = {entry.name for entry in manifest.entries()}
    for graces in before:
        clean(lake, DAY_0 + graces * GRACE)
    assert lake.store.size(proof) is not None
    clean(lake, DAY_0 + at * GRACE)
    assert lake.store.size(proof) is None
    clean(lake, DAY_0 + (at + 0.99) * GRACE)
    assert files <= names(lake)
    clean(lake, DAY_0 + (at + 1) * GRACE)
    assert not files & names(lake)


def test_files_that_no_proof_lists_go_after_a_grace(lake: Lake, nights: list[Manifest]) -> None:
    lake.store.put_if_absent("shards/shop/half-of-a-unit.tar", b"tar")
    lake.store.put_if_absent("receipts/shards/shop/damaged.json", b"{")
    clean(lake, DAYS[0], keep_last=4)
    assert lake.store.size("shards/shop/half-of-a-unit.tar") == 3
    found = clean(lake, DAYS[1], keep_last=4)
    assert found.due == ("receipts/shards/shop/damaged.json", "shards/shop/half-of-a-unit.tar")
    assert found.due_bytes_by_folder == {"receipts": 1, "shards": 3}
    assert plan(lake, keep_last=4, grace=GRACE, now=DAYS[2]).seen == {}


def test_pins_keep_a_snapshot_until_they_expire(lake: Lake, nights: list[Manifest]) -> None:
    pin(lake, "night-0", "christmas", DAYS[0])
    pin(lake, "night-1", "reader", DAYS[0], days=3)
    for day in DAYS[:5]:
        clean(lake, day)
    assert find_damage(lake, nights[0]) == []
    assert lake.store.size("snapshots/night-1/manifest.json") is None
    assert unpin(lake, "night-0", "christmas") == "night-0"
    for day in DAYS[5:]:
        clean(lake, day)
    assert lake.store.size("snapshots/night-0/manifest.json") is None


def test_pins_are_refused_by_one_line(lake: Lake, nights: list[Manifest]) -> None:
    pin(lake, "current", "a", DAY_0, why="reads it")
    assert [(each.snapshot, each.name, each.why) for each in read_pins(lake)] == [
        ("night-3", "a", "reads it")
    ]
    with pytest.raises(InvalidInput, match="remove it first"):
        pin(lake, "night-3", "a", DAY_0, why="other")
    with pytest.raises(InvalidInput, match="expected a name"):
        pin(lake, "night-3", "../a", DAY_0)
    with pytest.raises(InvalidInput, match="it has a"):
        unpin(lake, "night-3", "b")
    lake.store.put_if_absent("pins/night-2/x.json", b"{")
    with pytest.raises(CorruptShard, match=r"pins/night-2/x\.json"):
        plan(lake, keep_last=1, grace=GRACE, now=DAY_0)


def test_a_run_at_work_keeps_what_it_made_and_what_it_took(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    """Its units have receipts and no manifest: they look like what a dead run left, and may be one's."""
    unpublished = shop.night("at-work", {"new": picture(50)}, parent=nights[-1], is_published=False)
    lake.store.delete("snapshots/at-work/manifest.json")
    for hours in (0, 10, 40):
        clean(lake, DAY_0 + timedelta(hours=hours))
    assert find_damage(lake, unpublished) == []


def test_a_unit_that_is_done_again_is_not_deleted_under_the_run(lake: Lake, nights: list[Manifest]) -> None:
    (gone,) = nights[0].shards
    name = receipt(f"shards/{nights[0].dataset}", gone)
    body = lake.store.read(name).body
    clean(lake, DAYS[0])
    clean(lake, DAYS[1])
    assert lake.store.size(name) is None
    lake.store.put_if_absent(name, body)  # a run met the files and proved them again
    clean(lake, DAYS[2])
    assert all(lake.store.size(entry.name) == entry.num_bytes for entry in nights[0].shards[gone])
    for day in DAYS[3:6]:
        clean(lake, day)
    assert all(lake.store.size(entry.name) is None for entry in nights[0].shards[gone])


def test_a_snapshot_that_is_rolled_back_to_lives_again(lake: Lake, nights: list[Manifest]) -> None:
    pin(lake, "night-0", "p", DAYS[0])
    clean(lake, DAYS[0])
    roll_back(lake, "night-0")
    for day in DAYS[1:4]:
        clean(lake, day)
    assert current_manifest(lake).id == "night-0"
    assert find_damage(lake, nights[0]) == []
    assert find_damage(lake, nights[3]) == []  # to undo the rollback


@pytest.mark.parametrize("after", range(1, 12, 2))
def test_a_call_that_is_broken_off_has_done_less(
    lake: Lake, nights: list[Manifest], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    class Stop(Exception):
        pass

    clean(lake, DAYS[0])
    clean(lake, DAYS[1])
    count = 0
    delete = type(lake.store).delete

    def broken(store: object, name: str) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Stop
        delete(store, name)

    monkeypatch.setattr(type(lake.store), "delete", broken)
    with pytest.raises(Stop):
        clean(lake, DAYS[2])
    monkeypatch.undo()
    for day in DAYS[2:5]:
        clean(lake, day)
    assert plan(lake, keep_last=1, grace=GRACE, now=DAYS[5]).seen == {}
    for manifest in nights[2:]:
        assert find_damage(lake, manifest) == []


def test_a_clock_that_was_set_back_deletes_nothing(lake: Lake, nights: list[Manifest]) -> None:
    before = names(lake)
    clean(lake, DAYS[3])
    found = clean(lake, DAYS[0])
    assert found.ahead == len(found.seen) > 0
    assert names(lake) == before


def test_a_lake_without_a_pointer_is_left_alone(lake: Lake, nights: list[Manifest]) -> None:
    clean(lake, DAYS[0])
    lake.store.delete("CURRENT.json")
    before = names(lake)
    with pytest.raises(InvalidInput, match="nothing is published"):
        clean(lake, DAYS[4])
    assert names(lake) == before


def test_a_pin_of_what_is_gone_does_not_stand_in_the_way(lake: Lake, nights: list[Manifest]) -> None:
    pin(lake, "night-0", "late", DAYS[0])
    lake.store.delete("snapshots/night-0/manifest.json")
    assert clean(lake, DAYS[0]).kept == ("night-3", "night-2")


def test_nothing_is_deleted_while_a_manifest_cannot_be_read(lake: Lake, nights: list[Manifest]) -> None:
    clean(lake, DAYS[0])
    path = Path(lake.url) / "snapshots" / "night-2" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"night-1", b"night-0"))
    before = names(lake)
    with pytest.raises(CorruptShard, match="night-2"):
        clean(lake, DAYS[4], keep_last=2)
    assert names(lake) == before
