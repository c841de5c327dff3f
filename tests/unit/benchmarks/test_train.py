"""The benchmark of training gives its sides the pictures that they ask for."""

from collections.abc import Callable
from typing import Any

import pytest
from inline_ray import inline_ray
from narrow_trunk import narrow

from benchmarks import train


def test_training_sides_see_the_pictures_of_their_triplets(
    reported: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    options = train.Options(
        num_images=60, buffer_samples=30, image_size=32, trunk="resnet18", triplets=2, rounds=1
    )
    with inline_ray():
        train.main(options)
    figures = reported()["figures"]
    assert 0 < figures["waiting_share"] < 1
    assert figures["ratio_plain_loop_float32"] > 0
