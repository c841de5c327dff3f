"""Decoding in tasks beside the workers gives the bytes that decoding in the workers gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_ray import inline_ray
from PIL import Image

from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """23 pictures, and two that only a decoder finds broken."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for number in range(25):
        noise = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02}.png")
    for name in ("03.png", "17.png"):
        whole = bytearray((folder / name).read_bytes())
        middle = len(whole) // 2
        whole[middle : middle + 40] = bytes(40)
        (folder / name).write_bytes(whole)
    return folder


def embed(lake: Lake, shop: Path, model: Path, **options: Any) -> dict[str, tuple[Any, ...]]:
    """Embed a shop; returns the digest of every file of embeddings, and of each receipt what it counts."""
    config = NightConfig(
        lake=lake.url,
        source=str(shop),
        model=str(model),
        shards=ShardOptions(images_per_shard=5),
        embed=EmbedOptions(num_workers=1, batch_size=3, precision="float32", **options),
    )
    run_night(config, Run("embed_catalog", config, lake), until="embeddings")
    found = {}
    for name in lake.store.list_names("receipts/embeddings"):
        receipt = json.loads(lake.store.read(name).body)
        assert set(receipt["seconds"]) == {"read", "decode", "model", "write"}
        found[name] = (receipt["files"], receipt["counts"], receipt["detail"])
    return found


def test_the_same_embeddings(
    local_ray: None, new_lake: Callable[[], Lake], shop: Path, tiny_model: Path
) -> None:
    with inline_ray():
        beside = embed(new_lake(), shop, tiny_model)
    ahead = embed(new_lake(), shop, tiny_model, decoders=2)
    assert ahead == beside
    assert len(beside) == 5
    assert sum(counts["quarantined"] for _, counts, _ in beside.values()) == 2
    assert sum(counts["embedded"] for _, counts, _ in beside.values()) == 23
