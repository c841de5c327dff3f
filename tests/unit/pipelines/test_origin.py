"""Where a key's embedding came from."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up_snapshots import SECONDS, Shop

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.lake import Lake, shard_tar, snapshot_file
from pipelines.origin import Origin, Quarantined, trace
from pipelines.storage.snapshots import Manifest

BAD = {"key": "torn", "uri": "torn.jpg", "stage": "shards", "kind": "truncated", "message": "ends early"}


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def nights(shop: Shop, picture: Callable[..., bytes]) -> list[Manifest]:
    """`a` stays, `b` is edited on the second night and back on the third, `c` shows the picture of `a`."""
    one = shop.night("one", {"a": picture(1), "b": picture(2)})
    two = shop.night("two", {"a": picture(1), "b": picture(3)}, parent=one)
    return [
        one,
        two,
        shop.night(
            "three", {"a": picture(1), "b": picture(2), "c": picture(1)}, parent=two, quarantine=[BAD]
        ),
    ]


def trace_key(lake: Lake, manifest: Manifest, key: str) -> Origin:
    found = trace(lake, manifest, key)
    assert isinstance(found, Origin)
    return found


def test_a_key_leads_to_its_bytes_in_the_tar_and_its_row_in_every_file(
    lake: Lake, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    found = trace_key(lake, nights[1], "b")
    start, num_bytes = found.index_row["offset"], found.index_row["num_bytes"]
    assert lake.store.read_range(found.tar.name, start, num_bytes) == picture(3)
    assert found.tar.name == shard_tar("shop", found.row["shard"])
    for entry in found.part.files.values():
        with lake.checked(entry) as path:
            assert pq.read_table(path)["sha256"][found.row["row"]].as_py() == found.row["sha256"]
    with lake.checked(found.group.ids) as path:
        ids = pq.read_table(path).to_pylist()
    assert ids[found.position]["sha256"] == found.row["sha256"]
    assert ids[found.position]["part"] == found.part.name


def test_receipts_tell_the_time_that_was_spent(lake: Lake, nights: list[Manifest]) -> None:
    found = trace_key(lake, nights[2], "a")
    assert [proof.stage for proof in found.proofs] == ["shards", "embeddings", "indexes"]
    assert all(lake.store.size(proof.name) for proof in found.proofs)
    assert found.proofs[1].seconds == SECONDS
    lake.store.delete(found.proofs[1].name)
    lake.store.delete(found.proofs[2].name)
    lake.store.put_if_absent(found.proofs[2].name, b"{")
    assert [proof.seconds for proof in trace_key(lake, nights[2], "a").proofs[1:]] == [None, None]


@pytest.mark.parametrize(("key", "since"), [("a", "one"), ("b", "three"), ("c", "three")])
def test_since_is_where_the_key_got_these_bytes_last(
    lake: Lake, nights: list[Manifest], key: str, since: str
) -> None:
    found = trace_key(lake, nights[2], key)
    assert (found.since.id, found.is_chain_whole) == (since, True)


def test_a_key_that_is_shown_by_anothers_picture_names_who_brought_it(
    lake: Lake, nights: list[Manifest]
) -> None:
    assert trace_key(lake, nights[2], "c").index_row["key"] == "a"


def test_a_new_model_has_embedded_it_later_than_its_bytes_came(
    lake: Lake, shop: Shop, nights: list[Manifest], picture: Callable[..., bytes]
) -> None:
    four = shop.night("four", {"a": picture(1)}, parent=nights[2], model="m2")
    five = shop.night("five", {"a": picture(1)}, parent=four, model="m2")
    found = trace_key(lake, five, "a")
    assert (found.since.id, found.embedded_in.id) == ("one", "four")


@pytest.mark.parametrize("is_damaged", [True, False])
def test_a_chain_that_ends_early_is_told(lake: Lake, nights: list[Manifest], is_damaged: bool) -> None:
    name = snapshot_file("one", "manifest.json")
    lake.store.delete(name)
    if is_damaged:
        lake.store.put_if_absent(name, b"{}")
    found = trace_key(lake, nights[2], "a")
    assert (found.since.id, found.is_chain_whole) == ("two", False)


def test_a_key_in_quarantine_says_why(lake: Lake, nights: list[Manifest]) -> None:
    found = trace(lake, nights[2], "torn")
    assert isinstance(found, Quarantined)
    assert [(row["kind"], row["message"]) for row in found.rows] == [("truncated", "ends early")]


def test_a_key_that_is_nowhere_names_those_nearest(
    lake: Lake, shop: Shop, picture: Callable[..., bytes]
) -> None:
    keys = ("dress-17", "dress-18", "shirt", "zip", "wool")
    manifest = shop.night("one", {key: picture(1) for key in keys})
    with pytest.raises(InvalidInput, match="nearest keys are dress-17, dress-18, shirt"):
        trace(lake, manifest, "dress-1")


@pytest.mark.parametrize("what", ["catalog", "index", "ids"])
def test_nothing_damaged_is_believed(lake: Lake, shop: Shop, nights: list[Manifest], what: str) -> None:
    manifest = nights[1]
    name = {
        "catalog": manifest.files["catalog.parquet"].name,
        "index": manifest.shards[trace_key(lake, manifest, "b").row["shard"]][1].name,
        "ids": trace_key(lake, manifest, "b").group.ids.name,
    }[what]
    shop.damage(name)
    with pytest.raises(CorruptShard) as caught:
        trace(lake, manifest, "b")
    assert caught.value.name == name
