import numpy as np
import pytest

from pipelines.morning import drawn
from pipelines.morning.drawn import CHART, MAP, SPARK, dots, in_map, line_chart, spark, thinned, ticks


def places(points: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in points.split()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.5, 1]),
        (0.12, 0.43, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (-3, 12, [-5, 0, 5, 10, 15]),
        (10, 1200, [0, 500, 1000, 1500]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.0, 1e6])
def test_a_range_without_width_has_two_ticks_around_it(value: float) -> None:
    found = ticks(value, value)
    assert found[0] <= value <= found[-1]
    assert len(found) >= 2


def test_a_chart_spans_its_box_and_ends_at_the_last_figure() -> None:
    chart = line_chart({"loss": [(0, 4.0), (50, 2.0), (100, 0.0)]}, mark=50)
    assert chart is not None
    (line,) = chart.lines
    assert places(line.points) == [(0, 0), (CHART[0] / 2, CHART[1] / 2), (CHART[0], CHART[1])]
    assert (line.last, line.final, chart.mark) == ((CHART[0], CHART[1]), 0.0, CHART[0] / 2)
    assert [said for _, said in chart.y_ticks] == ["0", "1", "2", "3", "4"]
    assert chart.x_ticks[-1] == (CHART[0], "100")


def test_one_point_is_no_chart() -> None:
    assert line_chart({"loss": [(0, 1.0)], "other": []}) is None


def test_long_lines_are_thinned_and_keep_their_ends_and_mean() -> None:
    points = [(float(step), float(step % 2)) for step in range(10_001)]
    kept = thinned(points)
    assert len(kept) == drawn._MOST_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert np.mean([y for _, y in kept[1:-1]]) == pytest.approx(0.5, abs=0.01)
    assert thinned(points[:100]) == points[:100]


def test_a_spark_has_its_bound_inside_and_leaves_out_nights_that_do_not_say() -> None:
    found = spark([0.99, None, 0.97], bound=0.95)
    assert found is not None
    (first, last) = places(found.points)
    assert first[1] < last[1] < found.bound < SPARK[1]
    assert found.last == last
    assert spark([0.9, None]) is None
    assert spark([]) is None


def test_a_single_night_is_a_dot_at_the_end_of_its_line() -> None:
    found = spark([1.0])
    assert found is not None
    assert found.last[0] == SPARK[0] - drawn._MARGIN
    assert found.last[1] == SPARK[1] / 2


def test_a_map_keeps_distances_and_stays_in_its_box() -> None:
    placed = in_map(np.array([[0, 0], [10, 0], [10, 5]], np.float32))
    sides = [np.linalg.norm(placed[a] - placed[b]) for a, b in ((0, 1), (1, 2))]
    assert sides[0] == pytest.approx(2 * sides[1], rel=0.02)
    assert placed.min() >= 0
    assert placed.max() <= MAP
    assert dots(np.array([[1.2, 3.7]], np.float32)) == "M1 4h0"
    assert (in_map(np.zeros((3, 2), np.float32)) == MAP / 2).all()
