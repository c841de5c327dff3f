"""When a variant has reached another in the benchmark of trainings."""

import pytest

from benchmarks import quality
from benchmarks.quality import BATCH, PAPER, Curve


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ([0.1, 0.2, 0.5, 0.6], 2 / 3),
        ([0.1, 0.5, 0.2, 0.6], 1.0),
        ([0.1, 0.2, 0.3, 0.3], None),
        ([0.9] * 4, 0),
    ],
)
def test_a_variant_has_reached_the_paper_when_it_stays_there(
    scores: list[float], share: float | None
) -> None:
    paper = [Curve(PAPER, seed, ((0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4 + 0.02 * seed)), 9) for seed in (0, 1)]
    batch = [Curve(BATCH, 0, tuple(enumerate(scores)), 9)]
    assert quality.time_share([*paper, *batch], BATCH) == share
