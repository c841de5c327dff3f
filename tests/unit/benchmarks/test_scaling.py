"""The benchmark of workers gives each its pictures and its share of the cores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_ray import inline_ray
from narrow_trunk import narrow

from benchmarks import scaling


def test_workers_that_wait_for_their_model_embed_every_picture(
    tmp_path: Path, reported: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    results = tmp_path / "figures.json"
    options = scaling.Options(
        images_per_worker=4,
        images_per_shard=2,
        model_ms=1,
        image_size=32,
        rounds=1,
        lake=str(tmp_path / "lake"),
        results=results,
    )
    with inline_ray():
        scaling.main(options)
    last = reported()
    assert last == json.loads(results.read_text())
    # Within one process four workers are as slow as one.
    assert 0.1 < last["figures"]["efficiency_4"] < 0.6
    receipts = [*(tmp_path / "lake" / "receipts" / "embeddings").rglob("*.json")]
    assert len(receipts) == 2 * 2 * sum(scaling.COUNTS)  # rounds with the one to warm up, units a worker


def test_efficiency_is_of_one_worker_and_its_floor_of_the_cores() -> None:
    measured = {1: scaling.Measured(10, 100, 2.0), 4: scaling.Measured(12.5, 400, 12.0)}
    found = scaling.figures(measured)
    assert (found["images_per_s_4"], found["efficiency_4"]) == (32, 0.8)
    assert (found["work_ms_per_image_1"], found["work_ms_per_image_4"]) == (20, 30)
    # A worker keeps a core busy for 20 of 100 ms: 2 cores carry 10 workers, half a core 2.5.
    assert scaling.floors(measured, 80, 2) == {"efficiency_1": 1, "efficiency_4": 1}
    assert scaling.floors(measured, 80, 0.5)["efficiency_4"] == pytest.approx(0.625)
