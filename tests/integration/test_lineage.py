"""Lineage and rollback on every kind of store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_up_snapshots import Shop
from PIL import Image
from stored_bytes import overwrite

from pipelines.errors import CorruptShard
from pipelines.history import read_history
from pipelines.lake import CURRENT, Lake
from pipelines.lineage import find_damage
from pipelines.origin import Origin, trace
from pipelines.rollback import roll_back
from pipelines.storage.snapshots import current_manifest, read_pointer

pytestmark = pytest.mark.integration


def pictures(folder: Path) -> Iterator[bytes]:
    for seed in range(3):
        path = folder / f"{seed}.png"
        noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(path)
        yield path.read_bytes()


def test_a_lake_is_read_back_and_rolled_back(lake_url: str, tmp_path: Path) -> None:
    lake = Lake(lake_url)
    shop = Shop(lake, tmp_path)
    first, second, third = pictures(tmp_path)
    one = shop.night("one", {"a": first, "b": second})
    two = shop.night("two", {"a": first, "b": third}, parent=one)
    assert [found.id for found in read_history(lake).chain] == ["two", "one"]

    found = trace(lake, two, "a")
    assert isinstance(found, Origin)
    start, num_bytes = found.index_row["offset"], found.index_row["num_bytes"]
    assert lake.store.read_range(found.tar.name, start, num_bytes) == first
    assert found.since == one

    assert find_damage(lake, two) == []
    edited = trace(lake, two, "b")
    assert isinstance(edited, Origin)
    gone, changed = edited.part.files["skirt_length"].name, edited.group.ids.name
    lake.store.delete(gone)
    shop.damage(changed)
    assert sorted(damage.name for damage in find_damage(lake, two)) == sorted([gone, changed])

    overwrite(lake, CURRENT, b"{")
    with pytest.raises(CorruptShard, match=CURRENT):
        read_pointer(lake)
    assert roll_back(lake, "one").replaced is None
    assert current_manifest(lake) == one
