"""Figures as places in a box: the lines, dots and ticks of an SVG that needs no script.

A page of the morning must open from a mail or a bucket, in light and dark, on paper too. So its charts are
shapes with class names, and the style sheet colours them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHART = (480, 200)
"""Width and height of a chart's box; a page scales it."""
SPARK = (120, 28)
MAP = 240
"""Side of a map's box."""
_MOST_POINTS = 160
"""Of a line: more would lie closer than a pixel."""
_MARGIN = 3
_TICKS = 4
_OUTER = 0.005
"""Share of a map's points at each end of an axis that may lie at the border."""

Point = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart, in the chart's box."""

    name: str
    points: str
    """As `points` of a polyline."""
    last: Point
    """Where it ends."""
    final: float
    """The figure there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines over a common scale."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    """Place and what is written there."""
    y_ticks: tuple[tuple[float, str], ...]
    mark: float | None
    """Place of a vertical line; None: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spark:
    """A small line without scales, and where it ends."""

    points: str
    last: Point
    bound: float | None
    """Height of a horizontal line that must not be crossed; None: none."""


def line_chart(lines: Mapping[str, Sequence[Point]], *, mark: float | None = None) -> Chart | None:
    """Lay lines out over a common scale that begins and ends at whole ticks.

    Args:
        lines: by name, points of ascending x.
        mark: x of a vertical line.

    Returns:
        None where no line has two points.
    """
    drawn = {name: thinned(points) for name, points in lines.items() if len(points) > 1}
    if not drawn:
        return None
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    y_values = ticks(min(ys), max(ys))
    x, y = _scale(min(xs), max(xs), 0, CHART[0]), _scale(y_values[0], y_values[-1], CHART[1], 0)
    return Chart(
        lines=tuple(
            Line(
                name=name,
                points=_path(points, x, y),
                last=(x(points[-1][0]), y(points[-1][1])),
                final=points[-1][1],
            )
            for name, points in drawn.items()
        ),
        x_ticks=tuple((x(v), _said(v)) for v in ticks(min(xs), max(xs)) if min(xs) <= v <= max(xs)),
        y_ticks=tuple((y(v), _said(v)) for v in y_values),
        mark=None if mark is None else x(min(max(mark, min(xs)), max(xs))),
    )


def spark(
    values: Sequence[float | None], *, bound: float | None = None, shown: Sequence[float] = ()
) -> Spark | None:
    """Lay out a small line.

    Args:
        values: a night each, the last one last; None where a night does not say.
        bound: what they are judged by; it is inside the box.
        shown: values that are inside the box as well, so that a small difference looks small.

    Returns:
        None where the last night says nothing.
    """
    if not values or values[-1] is None:
        return None
    known = [(float(place), value) for place, value in enumerate(values) if value is not None]
    seen = [*(value for _, value in known), *shown, *([] if bound is None else [bound])]
    x = _scale(0, max(len(values) - 1, 1), _MARGIN, SPARK[0] - _MARGIN)
    y = _scale(min(seen), max(seen), SPARK[1] - _MARGIN, _MARGIN)
    if len(values) == 1:
        known = [(1.0, known[0][1])]
    return Spark(
        points=_path(known, x, y),
        last=(x(known[-1][0]), y(known[-1][1])),
        bound=None if bound is None else y(bound),
    )


def dots(places: NDArray[np.float32]) -> str:
    """Return points [N, 2] of a map's box as a path of strokes without length: a few bytes a dot."""
    return "".join(f"M{x} {y}h0" for x, y in places.round().astype(int).tolist())


def in_map(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale points [N, 2] into a map's box: alike in both directions, so that distances stay comparable.

    The few that lie furthest out are drawn at the border: they would press all others together.
    """
    low, high = np.quantile(points, (_OUTER, 1 - _OUTER), axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-12)
    placed = ((points - middle) / half).clip(-1, 1) * (MAP / 2 - 2 * _MARGIN) + MAP / 2
    scaled: NDArray[np.float32] = placed.astype(np.float32)
    return scaled


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers, evenly spaced, that enclose a range: at least two."""
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most `_MOST_POINTS` points: means of neighbours, and the ends as they are."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    inner = np.array_split(np.asarray(points[1:-1], float), _MOST_POINTS - 2)
    return [
        points[0],
        *((float(x), float(y)) for x, y in (block.mean(axis=0) for block in inner)),
        points[-1],
    ]


def _scale(low: float, high: float, first: float, last: float) -> Scale:
    """Return a linear scale from a range of values to a range of places; the middle where all are alike."""
    if high <= low:
        return lambda value: (first + last) / 2
    factor = (last - first) / (high - low)
    return lambda value: round(first + (value - low) * factor, 1)


def _path(points: Iterable[Point], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(at):g},{y(value):g}" for at, value in points)


def _said(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 6):g}"
