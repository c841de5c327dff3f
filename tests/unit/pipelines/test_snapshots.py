import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agman.errors import InvalidInput
from pipelines.errors import CommitUnknown, CorruptShard, StaleSnapshot, StorageUnavailable
from pipelines.lake import CURRENT, Lake, snapshot_file
from pipelines.storage.local import LocalStore
from pipelines.storage.objects import FileEntry, Versioned
from pipelines.storage.snapshots import (
    Group,
    Manifest,
    Part,
    current_manifest,
    list_snapshots,
    new_snapshot_id,
    publish,
    read_manifest,
    read_pointer,
)

ENTRY = FileEntry("embeddings/x.parquet", 10, "0" * 64, 3)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "pipe:cat x", "s3://other/x", "a\nb"])
def test_a_manifest_that_names_what_is_not_in_the_lake_is_damaged(tmp_path: Path, name: str) -> None:
    lake = Lake(str(tmp_path))
    value = make("one").to_json()
    value["groups"][0]["files"]["x"]["name"] = name
    lake.store.put_if_absent(snapshot_file("one", "manifest.json"), json.dumps(value).encode())
    with pytest.raises(CorruptShard, match="not a manifest"):
        read_manifest(lake, "one")


def make(snapshot: str, **changes: Any) -> Manifest:
    part = Part(name="p", shard="s", num_rows=3, files={"x": ENTRY})
    group = Group(name="g", kind="flat", parts=("p",), num_rows=3, ids=ENTRY, files={"x": ENTRY})
    manifest = Manifest(
        id=snapshot, parent=None, night=1, created="now", dataset="catalog", source="s", model="m",
        attributes=("x",), taxonomy_digest="t", config={"k": [1]}, config_digest="c", versions={"ray": "2"},
        counts={"input": 3}, gates=[{"name": "g", "passed": True}], files={"catalog.parquet": ENTRY},
        shards={"s": (ENTRY, ENTRY)}, parts=(part,), groups=(group,),
    )  # fmt: skip
    return replace(manifest, **changes)


class Flaky(LocalStore):
    """A disk behind a bad network: swaps happen or not, their replies are lost."""

    swaps = True
    reads = True

    def compare_and_swap(self, name: str, body: bytes, version: str | None) -> bool:
        if self.swaps:
            super().compare_and_swap(name, body, version)
        raise StorageUnavailable("the reply was lost")

    def read(self, name: str) -> Versioned:
        if not self.reads:
            raise StorageUnavailable("no route")
        return super().read(name)


class FlakyLake(Lake):
    """A lake on a `Flaky` store."""

    swaps = True
    reads = True

    @property
    def store(self) -> Flaky:

        store = Flaky(Path(self.url))
        store.swaps, store.reads = type(self).swaps, type(self).reads
        return store


def test_a_manifest_comes_back_as_it_was(lake: Lake) -> None:
    manifest = make("one")
    publish(lake, manifest, None)
    assert read_manifest(lake, "one") == manifest
    assert current_manifest(lake) == manifest


def test_each_publication_names_the_one_before(lake: Lake) -> None:
    publish(lake, make("one"), None)
    publish(lake, make("two"), read_pointer(lake))
    pointer = read_pointer(lake)
    assert (pointer.snapshot, pointer.previous) == ("two", "one")
    assert list(list_snapshots(lake)) == ["one", "two"]
    assert current_manifest(lake).id == "two"


def test_a_stale_pointer_changes_nothing(lake: Lake) -> None:
    publish(lake, make("one"), None)
    seen = read_pointer(lake)
    publish(lake, make("two"), seen)
    before = lake.store.read(CURRENT)
    for expected in (seen, None):
        with pytest.raises(StaleSnapshot, match="three"):
            publish(lake, make("three"), expected)
    assert lake.store.read(CURRENT) == before


def test_of_racing_publishers_exactly_one_wins(lake: Lake) -> None:
    publish(lake, make("one"), None)
    expected = read_pointer(lake)
    gate = threading.Barrier(6)
    outcomes: list[str] = []

    def attempt(name: str) -> None:
        gate.wait()
        try:
            publish(lake, make(name), expected)
            outcomes.append(name)
        except StaleSnapshot:
            pass

    threads = [threading.Thread(target=attempt, args=(f"racer{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [read_pointer(lake).snapshot]


def test_a_lost_reply_of_a_swap_that_happened_is_success(lake: Lake) -> None:
    flaky = type("L", (FlakyLake,), {})(lake.url)
    manifest = make("one")
    publish(flaky, manifest, None)
    assert read_pointer(lake).commit_uuid == manifest.commit_uuid


def test_a_swap_that_did_not_happen_is_storage_trouble_and_not_another_run(lake: Lake) -> None:
    publish(lake, make("one"), None)
    flaky = type("L", (FlakyLake,), {"swaps": False})(lake.url)
    with pytest.raises(StorageUnavailable):
        publish(flaky, make("two"), read_pointer(lake))
    assert read_pointer(lake).snapshot == "one"


def test_what_cannot_be_read_back_is_unknown(lake: Lake) -> None:
    flaky = type("L", (FlakyLake,), {"reads": False})(lake.url)
    with pytest.raises(CommitUnknown, match=r"CURRENT\.json"):
        publish(flaky, make("one"), None)


def test_an_empty_lake_says_how_to_publish(lake: Lake) -> None:
    assert read_pointer(lake) is None
    with pytest.raises(InvalidInput, match="nothing is published"):
        current_manifest(lake)
    with pytest.raises(InvalidInput, match="no snapshot none"):
        read_manifest(lake, "none")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b"null"])
def test_a_damaged_manifest_is_told_by_name(lake: Lake, body: bytes) -> None:
    lake.store.put_if_absent(snapshot_file("one", "manifest.json"), body)
    with pytest.raises(CorruptShard, match=r"snapshots/one/manifest\.json"):
        read_manifest(lake, "one")


def test_another_format_is_not_guessed_at(lake: Lake) -> None:
    body = json.dumps({**make("one").to_json(), "format": 2}).encode()
    lake.store.put_if_absent(snapshot_file("one", "manifest.json"), body)
    with pytest.raises((InvalidInput, CorruptShard), match="expected format 1, found 2"):
        read_manifest(lake, "one")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"snapshot": "one"}'])
def test_a_damaged_pointer_is_told_by_name(lake: Lake, body: bytes) -> None:
    lake.store.put_if_absent(CURRENT, body)
    with pytest.raises(CorruptShard, match=r"CURRENT\.json"):
        read_pointer(lake)


def test_ids_of_snapshots_differ_with_the_commit() -> None:
    one, other = make("one"), make("one")
    assert one.commit_uuid != other.commit_uuid
    assert new_snapshot_id(one.commit_uuid) != new_snapshot_id(other.commit_uuid)
