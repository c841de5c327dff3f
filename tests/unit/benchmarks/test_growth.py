"""The benchmark of growing catalogs tells start-up from what a picture costs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_ray import inline_ray
from narrow_trunk import narrow

from benchmarks import growth


def test_nights_of_growing_catalogs_are_fitted_by_a_line(
    tmp_path: Path, reported: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    monkeypatch.setattr(growth, "FACTORS", (1, 2))
    with inline_ray():
        growth.main(growth.Options(num_images=4, picture_width=32, image_size=32))
    figures = reported()["figures"]
    assert figures["seconds_2x"] > figures["read_source_s_2x"] > 0
    assert figures["work_ms_per_image_1x"] > 0


def test_start_up_is_what_a_night_without_pictures_would_cost() -> None:
    nights = [growth.Night(n, {"read source": 1.0, "rest": 9.0 + 0.5 * n}, 0.1 * n) for n in (10, 20, 40, 80)]
    start_s, image_s = growth.fitted(nights)
    assert (start_s, image_s) == (pytest.approx(10), pytest.approx(0.5))
    found = growth.figures(nights, start_s, image_s)
    assert found["per_image_8x_over_1x"] == pytest.approx(1)
    assert found["work_ms_per_image_8x"] == pytest.approx(100)
