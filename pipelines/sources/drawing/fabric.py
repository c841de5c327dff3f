"""Colours, cloth patterns and backdrops: everything in a picture that must not matter to an attribute."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipelines.sources.drawing.canvas import Colour

PATTERNS = ("plain", "stripes", "checks", "dots", "gradient", "flowers", "melange")
PATTERN_SHARES = (0.38, 0.15, 0.1, 0.1, 0.08, 0.1, 0.09)
BACKDROPS = ("plain", "gradient", "room", "panels", "bokeh", "shapes", "texture")
BACKDROP_SHARES = (0.22, 0.18, 0.2, 0.12, 0.1, 0.1, 0.08)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fabric:
    """A cloth: base colour, accent colour and the pattern they make."""

    base: Colour
    accent: Colour
    pattern: str
    pitch: float
    """Distance between repeats, in canvas widths."""
    angle: float
    """Radians."""


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue, saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def any_colour(rng: np.random.Generator, strength: float = 0.8) -> Colour:
    """Any hue, from near white to near black; strength is the greatest saturation."""
    saturation = float(rng.beta(1.3, 1.3)) if rng.random() < 0.8 else 0.05
    return from_hsv(float(rng.random()), strength * saturation, float(rng.uniform(0.14, 0.98)))


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (below 1) or moved towards white (above 1)."""
    if factor <= 1.0:
        mixed = [channel * factor for channel in colour]
    else:
        mixed = [channel + (255 - channel) * (factor - 1.0) for channel in colour]
    return round(mixed[0]), round(mixed[1]), round(mixed[2])


def distance(first: Colour, second: Colour) -> float:
    """Euclidean distance of two colours, 0 to 442."""
    return float(np.linalg.norm(np.subtract(first, second)))


def colour_unlike(
    rng: np.random.Generator, others: list[Colour], least: float = 70.0, strength: float = 0.8
) -> Colour:
    """A random colour that keeps its distance from others, so that edges stay visible."""
    colour = any_colour(rng, strength)
    for _ in range(12):
        if all(distance(colour, other) >= least for other in others):
            break
        colour = any_colour(rng, strength)
    return colour


def sample_fabric(rng: np.random.Generator, unlike: list[Colour]) -> Fabric:
    """A random cloth that stands out from the given colours."""
    base = colour_unlike(rng, unlike, 85.0)
    related = shade(base, float(rng.choice([0.55, 0.7, 1.35, 1.6])))
    accent = related if rng.random() < 0.5 else colour_unlike(rng, [base, *unlike], 60.0)
    return Fabric(
        base=base,
        accent=accent,
        pattern=str(rng.choice(PATTERNS, p=PATTERN_SHARES)),
        pitch=float(rng.uniform(0.035, 0.11)),
        angle=float(rng.choice([0.0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)])),
    )


def weave(fabric: Fabric, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A sheet of cloth of the given size in pixels."""
    sheet = Image.new("RGB", size, fabric.base)
    if fabric.pattern in ("stripes", "checks"):
        draw = ImageDraw.Draw(sheet, "RGBA")
        _stripes(draw, fabric, size, fabric.angle, 255 if fabric.pattern == "stripes" else 130)
        if fabric.pattern == "checks":
            _stripes(draw, fabric, size, fabric.angle + np.pi / 2, 130)
    elif fabric.pattern in ("dots", "flowers"):
        _scatter(sheet, fabric, rng)
    elif fabric.pattern == "gradient":
        sheet.paste(fabric.accent, mask=_ramp(fabric.angle, (size[0] // 4, size[1] // 4)).resize(size))
    elif fabric.pattern == "melange":
        grain = rng.integers(0, 150, size=(size[1] // 4, size[0] // 4), dtype=np.uint8)
        sheet.paste(fabric.accent, mask=Image.fromarray(grain).resize(size, Image.Resampling.BILINEAR))
    return sheet


def _ramp(angle: float, size: tuple[int, int]) -> Image.Image:
    """A mask that grows from 0 to 255 in one direction."""
    y, x = np.ogrid[-0.5 : 0.5 : size[1] * 1j, -0.5 : 0.5 : size[0] * 1j]
    ramp = 127.5 + 180 * (
        np.float32(np.cos(angle)) * x.astype(np.float32) + np.float32(np.sin(angle)) * y.astype(np.float32)
    )
    return Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8))


def _stripes(
    draw: ImageDraw.ImageDraw, fabric: Fabric, size: tuple[int, int], angle: float, alpha: int
) -> None:
    along = np.array([np.cos(angle), np.sin(angle)]) * sum(size)
    across = np.array([-np.sin(angle), np.cos(angle)])
    pitch = fabric.pitch * size[0]
    centre = np.array(size) / 2
    for index in range(-int(size[1] / pitch), int(size[1] / pitch) + 1):
        middle = centre + across * pitch * index
        ends = [*(middle - along).tolist(), *(middle + along).tolist()]
        draw.line(ends, fill=(*fabric.accent, alpha), width=max(2, round(pitch * 0.4)))


def _scatter(sheet: Image.Image, fabric: Fabric, rng: np.random.Generator) -> None:
    """Dots on a slanted grid, or flowers strewn about: one tile, repeated, so that it costs one paste."""
    pitch = max(8, round(fabric.pitch * sheet.width * 1.1))
    if fabric.pattern == "dots":
        tile = Image.new("L", (pitch, 2 * pitch))
        _discs(tile, pitch, [(0.5, 0.5), (0.0, 1.5), (1.0, 1.5)], 0.27, 255)
    else:
        tile = Image.new("L", (3 * pitch, 3 * pitch))
        for cell in rng.permutation(9)[:5]:
            x, y = cell % 3 + 0.5, cell // 3 + 0.5
            turns = np.linspace(0, 2 * np.pi, 5, endpoint=False) + float(rng.uniform(0, np.pi))
            _discs(
                tile, pitch, [(x + 0.22 * np.cos(turn), y + 0.22 * np.sin(turn)) for turn in turns], 0.18, 235
            )
            _discs(tile, pitch, [(x, y)], 0.1, 90)
    repeats = (-(-sheet.height // tile.height), -(-sheet.width // tile.width))
    mask = np.tile(np.asarray(tile), repeats)[: sheet.height, : sheet.width]
    sheet.paste(fabric.accent, mask=Image.fromarray(mask))


def _discs(
    tile: Image.Image, pitch: int, centres: list[tuple[float, float]], radius: float, value: int
) -> None:
    """Draw discs on a tile; centres and radius are in pitches."""
    draw = ImageDraw.Draw(tile)
    for x, y in centres:
        box = (x - radius) * pitch, (y - radius) * pitch, (x + radius) * pitch, (y + radius) * pitch
        draw.ellipse(box, fill=value)


def sample_backdrop(rng: np.random.Generator, size: tuple[int, int], unlike: list[Colour]) -> Image.Image:
    """What stands behind the figure, at the final size."""
    kind = str(rng.choice(BACKDROPS, p=BACKDROP_SHARES))
    base = colour_unlike(rng, unlike, 75.0, 0.55)
    if rng.random() < 0.35:  # a studio
        base = from_hsv(float(rng.random()), float(rng.uniform(0, 0.12)), float(rng.uniform(0.75, 0.98)))
    other = (
        shade(base, float(rng.uniform(0.6, 1.5)))
        if rng.random() < 0.7
        else colour_unlike(rng, unlike, 60.0, 0.55)
    )
    sheet = Image.new("RGB", size, base)
    if kind == "plain":
        return sheet
    if kind == "gradient":
        sheet.paste(other, mask=_ramp(float(rng.uniform(0, 2 * np.pi)), size))
        return sheet
    if kind == "texture":
        grain = rng.integers(0, 130, size=(size[1] // int(rng.integers(2, 9)), size[0] // 4), dtype=np.uint8)
        sheet.paste(other, mask=Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC))
        return sheet
    half = sheet.resize(
        (size[0] // 2, size[1] // 2), Image.Resampling.NEAREST
    )  # out of focus, so half will do
    _furnish(half, kind, other, rng)
    half = half.filter(ImageFilter.BoxBlur(float(rng.uniform(0.2, 2.0)) * size[0] / 256))
    return half.resize(size, Image.Resampling.BILINEAR)


def _furnish(sheet: Image.Image, kind: str, other: Colour, rng: np.random.Generator) -> None:
    width, height = sheet.size
    draw = ImageDraw.Draw(sheet, "RGBA")
    if kind == "room":
        floor_y = height * float(rng.uniform(0.68, 0.9))
        draw.rectangle((0, floor_y, width, height), fill=other)
        draw.rectangle((0, floor_y - height * 0.025, width, floor_y), fill=shade(other, 1.4))
        if rng.random() < 0.6:
            x, y = width * float(rng.uniform(-0.1, 0.8)), height * float(rng.uniform(0.0, 0.35))
            frame = (
                x,
                y,
                x + width * float(rng.uniform(0.15, 0.4)),
                y + height * float(rng.uniform(0.15, 0.45)),
            )
            draw.rectangle(
                frame, fill=any_colour(rng, 0.6), outline=shade(other, 0.6), width=max(1, width // 80)
            )
    elif kind == "panels":
        step = width / int(rng.integers(3, 8))
        for index in range(0, int(width / step) + 1, 2):
            draw.rectangle((index * step, 0, (index + 1) * step, height), fill=(*other, 150))
    else:
        for _ in range(int(rng.integers(6, 16))):
            x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
            half = width * float(rng.uniform(0.03, 0.2))
            box = (x - half, y - half, x + half, y + half)
            colour = (*any_colour(rng, 0.6), int(rng.integers(60, 200)))
            if kind == "bokeh" or rng.random() < 0.4:
                draw.ellipse(box, fill=colour)
            else:
                draw.rectangle(box, fill=colour)
