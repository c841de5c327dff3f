"""Software that embeds otherwise than last night: found by the probe, and nothing that it made is used."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import make_model
from inline_ray import inline_ray
from narrow_trunk import narrow
from PIL import Image
from served import served

from agman.taxonomy import FASHIONAI, Taxonomy
from agman.transforms import normalise
from pipelines import nightly
from pipelines.embedding import EmbedOptions
from pipelines.errors import GateFailed
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.quality import GateOptions
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

PROBED = 12


class Shop:
    """A folder of pictures, and the nights that publish it with one of two models."""

    def __init__(self, folder: Path, new_lake: Callable[[], Lake]) -> None:
        self.lake, self.other = new_lake(), new_lake()
        self.source = folder / "pictures"
        self.source.mkdir()
        self.models = [
            make_model(folder / f"model-{seed}", Taxonomy(FASHIONAI.attributes[:2]), seed=seed)
            for seed in (0, 1)
        ]

    def draw(self, number: int, seed: int | None = None) -> None:
        noise = np.random.default_rng(seed or number).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(noise).resize((40, 40)).save(self.source / f"{number}.png")

    def night(self, model: int = 0, lake: Lake | None = None) -> Manifest | None:
        config = NightConfig(
            lake=(lake or self.lake).url,
            source=str(self.source),
            model=str(self.models[model]),
            shards=ShardOptions(images_per_shard=4),
            embed=EmbedOptions(num_workers=1, precision="float32"),
            gates=GateOptions(probe_images=PROBED),
        )
        with inline_ray():
            return run_night(config, Run("nightly", config, Lake(config.lake)))

    def check(self) -> None:
        """Compare what is served with what a lake without a past would serve."""
        self.night(lake=self.other)
        assert served(self.lake) == served(self.other)


@pytest.fixture
def shop(tmp_path: Path, new_lake: Callable[[], Lake], monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    shop = Shop(tmp_path, new_lake)
    for number in range(20):
        shop.draw(number)
    shop.night()
    return shop


def drifted():
    """Stand for a decoder that gives the colours in another order."""
    return patch("agman.lanes.normalise", lambda pixels, how: normalise(pixels.flip(1), how))


def test_a_drifted_night_is_refused_and_the_next_uses_nothing_of_it(shop: Shop) -> None:
    shop.draw(40)
    with drifted(), pytest.raises(GateFailed, match=r"probe cosine skirt_length: expected >= 0\.999"):
        shop.night()
    published = shop.night()
    assert published is not None
    assert published.counts["images_embedded"] == 1
    shop.check()


def test_what_a_drifted_attempt_left_is_found_by_the_next(shop: Shop) -> None:
    shop.draw(40)
    with drifted(), patch.object(nightly, "publish_night", lambda night: None):
        shop.night()  # it was stopped before its gates
    with pytest.raises(GateFailed, match=r"1 of .* gates failed.* probe new parts"):
        shop.night()
    assert shop.night() is not None
    shop.check()


def test_the_pictures_stay_the_same_and_a_new_model_is_compared(shop: Shop) -> None:
    shop.draw(40)
    shop.draw(3, seed=77)
    (shop.source / "5.png").unlink()
    second = shop.night()
    third = shop.night(model=1)
    assert second is not None
    assert third is not None
    assert len(second.probe) == PROBED
    assert third.probe == second.probe
    names = [gate["name"] for gate in third.gates if gate["name"].startswith("model ")]
    assert names == ["model overlap@10 skirt_length", "model overlap@10 sleeve_length"]
    assert not any(gate["name"].startswith("model ") for gate in second.gates)
