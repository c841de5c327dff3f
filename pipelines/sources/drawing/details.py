"""Collars, necks and lapels: the small parts that carry an attribute."""

import numpy as np

from pipelines.sources.drawing import shapes
from pipelines.sources.drawing.canvas import Canvas, Colour
from pipelines.sources.drawing.fabric import distance, shade
from pipelines.sources.drawing.shapes import curve, mirror, points


def contrast(colour: Colour, strength: float = 0.45) -> Colour:
    """The same colour, darker if it is light and lighter if it is dark."""
    return shade(colour, 1 - strength) if sum(colour) > 330 else shade(colour, 1 + strength)


def paint_collar(canvas: Canvas, value: str, hem_y: float, cloth: Colour, trim: Colour) -> None:
    """A collar that lies on the shoulders, or a ribbed band around the neck."""
    if value == "rib_collar":
        _paint_rib(canvas, trim)
        return
    seam = contrast(cloth)
    if value == "shirt_collar":
        canvas.line(points((0.0, 0.04), (0.0, hem_y)), seam, 0.006)
        for y in np.arange(0.075, hem_y - 0.02, 0.055):
            canvas.fill(shapes.ellipse(0.0, float(y), 0.009, 0.008, 10), seam)
    leaf = shapes.COLLAR_LEAVES[value]
    fill = trim if distance(trim, cloth) > 60 else contrast(cloth)
    for outline in (leaf, mirror(leaf)):
        canvas.fill(outline, fill, level=215)
        canvas.line(outline, contrast(fill, 0.55), 0.007, closed=True)


def _paint_rib(canvas: Canvas, trim: Colour) -> None:
    outer = curve(points((-0.120, -0.05), (-0.112, 0.045), (0.0, 0.122), (0.112, 0.045), (0.120, -0.05)))
    inner = curve(points((-0.062, -0.06), (-0.052, 0.012), (0.0, 0.045), (0.052, 0.012), (0.062, -0.06)))
    canvas.fill(np.vstack([outer, inner[::-1]]), trim, level=215)
    rib = contrast(trim, 0.45)
    for index in range(1, len(outer) - 1, 2):
        canvas.line(np.vstack([outer[index], inner[index]]), rib, 0.007)


def paint_neck(canvas: Canvas, value: str, cloth: Colour) -> None:
    """A neck that stands up, or folds that hang down."""
    light, dark = shade(cloth, 1.22), contrast(cloth, 0.6)
    if value == "turtle":
        _band(canvas, light, dark, -0.122, 0.035, 0.080, 0.118)
        canvas.line(curve(points((-0.096, -0.035), (0.0, -0.012), (0.096, -0.035))), dark, 0.014)
    elif value == "low_turtle":
        _band(canvas, light, dark, -0.022, 0.028, 0.072, 0.098)
    elif value == "ruffle_semi_high":
        for y, half in ((0.125, 0.165), (0.045, 0.145), (-0.045, 0.110)):
            _ruffle(canvas, light, dark, y, half)
    else:
        for depth, tone in ((0.285, 0.72), (0.23, 1.25), (0.175, 0.72), (0.12, 1.25)):
            _drape(canvas, shade(cloth, tone), dark, depth)


def _band(
    canvas: Canvas, fill: Colour, seam: Colour, top_y: float, base_y: float, top: float, base: float
) -> None:
    upper = curve(points((-top, top_y), (0.0, top_y + 0.012), (top, top_y)))
    lower = curve(points((base, base_y), (0.0, base_y + 0.028), (-base, base_y)))
    outline = np.vstack([upper, lower])
    canvas.fill(outline, fill, level=205)
    canvas.line(outline, seam, 0.007, closed=True)


def _ruffle(canvas: Canvas, fill: Colour, seam: Colour, y: float, half: float) -> None:
    across = np.linspace(-1.0, 1.0, 49)
    wave = 0.016 * np.cos(across * np.pi * 6)
    lower = np.column_stack([half * across, y + 0.036 + wave - 0.012 * across**2])
    upper = np.column_stack(
        [half * 0.9 * across[::-1], y - 0.012 - 0.6 * wave[::-1] - 0.012 * across[::-1] ** 2]
    )
    outline = np.vstack([lower, upper])
    canvas.fill(outline, fill, level=215)
    canvas.line(outline, seam, 0.009, closed=True)


def _drape(canvas: Canvas, fill: Colour, seam: Colour, depth: float) -> None:
    half = 0.112 + 0.18 * (depth - 0.12)
    lower = curve(
        points((-half, -0.012), (-0.07, 0.62 * depth), (0.0, depth), (0.07, 0.62 * depth), (half, -0.012))
    )
    upper = curve(
        points(
            (0.088, -0.03), (0.04, 0.45 * depth), (0.0, 0.62 * depth), (-0.04, 0.45 * depth), (-0.088, -0.03)
        )
    )
    canvas.fill(np.vstack([lower, upper]), fill, level=190)
    canvas.line(lower, seam, 0.010)


def paint_lapel(canvas: Canvas, value: str, hem_y: float, cloth: Colour, trim: Colour) -> None:
    """The front of a coat: lapels, closing line and buttons."""
    seam = contrast(cloth, 0.55)
    start_y = min(shapes.FRONT_END_Y[value], hem_y)
    canvas.line(points((0.0, start_y), (0.0, hem_y)), seam, 0.007)
    if value == "collarless":
        edge = curve(points((-0.078, -0.05), (-0.066, 0.025), (0.0, 0.066), (0.066, 0.025), (0.078, -0.05)))
        canvas.line(edge, trim, 0.014)
    for y in np.arange(start_y + 0.035, min(hem_y, 0.56) - 0.02, 0.075):
        canvas.fill(shapes.ellipse(0.022, float(y), 0.010, 0.009, 10), seam)
    fill = contrast(cloth, 0.28)
    for piece in shapes.LAPEL_LEAVES[value]:
        for outline in (piece, mirror(piece)):
            canvas.fill(outline, fill, level=215)
            canvas.line(outline, seam, 0.010, closed=True)
