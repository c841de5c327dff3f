"""The benchmark of later nights embeds what changed and counts what that costs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_ray import inline_ray
from narrow_trunk import narrow

from benchmarks import second_night
from benchmarks.second_night import Cost


def test_nights_of_which_a_share_changes_embed_that_share(
    tmp_path: Path, reported: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    results = tmp_path / "figures.json"
    options = second_night.Options(num_images=30, change=0.2, nights=1, image_size=32, results=results)
    with inline_ray():
        second_night.main(options)
    last = reported()
    assert last == json.loads(results.read_text())
    figures = last["figures"]
    # Of the 6 that change, 2 are deleted, 2 edited and 2 added.
    assert (figures["first_embedded"], figures["second_embedded"]) == (30, 4)
    assert (figures["first_probed"], figures["second_probed"]) == (30, 30)
    assert last["floor"] == {"model_time_share": 0.133333}
    assert 0 < figures["second_worker_model_s"] < figures["second_embed_s"] < figures["second_s"]


def test_later_nights_count_by_their_medians() -> None:
    nights = [
        Cost(
            embedded,
            64,
            {"embed": embed, "rest": 1.0},
            {"read": 0.0, "decode": 0.0, "model": model, "write": 0.0},
        )
        for embedded, embed, model in ((20, 9.0, 0.3), (22, 3.0, 0.2), (21, 4.0, 0.9))
    ]
    later = second_night.median(nights)
    assert (later.embedded, later.seconds, later.work["model"]) == (21, 5.0, 0.3)
    first = Cost(3000, 60, {"embed": 99.0, "rest": 1.0}, {**later.work, "model": 30.0})
    figures = second_night.figures(first, later)
    assert figures["model_time_share_without_probe"] == pytest.approx(0.01)
    # The probe's 60 and 64 pictures at 10 ms each.
    assert figures["model_time_share"] == pytest.approx((0.3 + 0.64) / (30 + 0.6))
    assert figures["time_share"] == pytest.approx(0.05)


def test_a_comparison_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nights: expected at least 1, found 0"):
        second_night.Options(nights=0)
    with pytest.raises(ValueError, match="change: expected a share above 0"):
        second_night.Options(change=0)
