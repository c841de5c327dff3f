"""From a garment to a picture: backdrop, person, clothes, things in the way, light, JPEG."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipelines.sources.drawing import figure as people
from pipelines.sources.drawing import shapes
from pipelines.sources.drawing.canvas import Canvas, Colour
from pipelines.sources.drawing.details import paint_collar, paint_lapel, paint_neck
from pipelines.sources.drawing.fabric import (
    any_colour,
    colour_unlike,
    sample_backdrop,
    sample_fabric,
    shade,
    weave,
)
from pipelines.sources.drawing.light import develop
from pipelines.sources.drawing.shapes import Points, curve, limb, path_to, points
from pipelines.sources.drawing.spec import Garment, sample_garment


@dataclass(frozen=True, kw_only=True, slots=True)
class Outfit:
    """Cloth and cut of one picture's garments."""

    upper: Image.Image
    upper_colour: Colour
    lower: Image.Image
    lower_colour: Colour
    trim: Colour
    """Edges, and collars of another colour."""
    ease: float
    flare: float
    sleeve_flare: float
    waves: int


def draw_jpeg(key: str, seed: int, revision: int = 0, size: int = 256) -> bytes:
    """Draw the picture of a key as a JPEG of varying quality.

    Args:
        key: the image's stable id.
        seed: the generated catalog's seed.
        revision: another number gives another picture of the same product.
        size: width in pixels; the height is a quarter more.
    """
    garment = sample_garment(key, seed, revision)
    buffer = io.BytesIO()
    quality = 60 + garment.look_seed % 36
    draw(garment, size).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def draw(garment: Garment, size: int = 256) -> Image.Image:
    """Draw a garment.

    Args:
        garment: what to draw.
        size: width in pixels; the height is a quarter more.

    Returns:
        An RGB picture, size x size * 5 // 4.
    """
    product, look = np.random.default_rng(garment.product_seed + 1), np.random.default_rng(garment.look_seed)
    figure = people.sample_figure(look, people.SKINS[int(product.integers(len(people.SKINS)))])
    placement = people.sample_placement(look, garment.framing)
    fabrics = [sample_fabric(product, [figure.skin])]
    fabrics.append(sample_fabric(product, [figure.skin, fabrics[0].base]))
    backdrop = sample_backdrop(look, (size, size * 5 // 4), [fabrics[0].base, fabrics[1].base, figure.skin])
    canvas = Canvas(backdrop, placement)
    upper, lower = (weave(fabric, canvas.size, product) for fabric in fabrics)
    outfit = Outfit(
        upper=upper,
        upper_colour=fabrics[0].base,
        lower=lower,
        lower_colour=fabrics[1].base,
        trim=colour_unlike(product, [fabrics[0].base, figure.skin], 90.0),
        ease=float(product.uniform(0.004, 0.022)),
        flare=float(product.choice([0.0, 0.12, 0.3, 0.45])),
        sleeve_flare=float(product.choice([0.0, 0.0, 0.012, 0.04])),
        waves=2 * int(product.integers(1, 7)),
    )
    _paint(canvas, garment, figure, outfit, look)
    return develop(canvas, look)


def _paint(
    canvas: Canvas, garment: Garment, figure: people.Figure, outfit: Outfit, look: np.random.Generator
) -> None:
    """Everything in front of the backdrop, from back to front."""
    drawn = garment.drawn
    canvas.fill(shapes.ellipse(0.02, 1.0, 0.24, 0.022), (20, 20, 25), alpha=70)
    people.paint_hair_behind(canvas, figure)
    people.paint_body(canvas, figure)
    if garment.category == "coat":
        _paint_inner(canvas, drawn, figure, outfit)
        _paint_coat(canvas, drawn, figure, outfit)
    else:
        _paint_lower(canvas, garment, figure, outfit)
        _paint_upper(canvas, garment, figure, outfit)
    people.paint_head(canvas, figure)
    _paint_in_the_way(canvas, figure, look)


def _paint_inner(canvas: Canvas, drawn: dict[str, str], figure: people.Figure, outfit: Outfit) -> None:
    """What a coat is worn over."""
    if "pant_length" in drawn:
        _paint_trousers(canvas, drawn["pant_length"], figure, outfit)
    else:
        canvas.cloth([shapes.skirt(shapes.SKIRT_HEM_Y["short"], 0.0, 0)], outfit.lower, 140)
    canvas.cloth([shapes.trunk(0.42)], outfit.lower, 140, (shapes.cut_above(shapes.NECKLINES["round"]),))


def _paint_coat(canvas: Canvas, drawn: dict[str, str], figure: people.Figure, outfit: Outfit) -> None:
    hem_y, lapel = shapes.COAT_HEM_Y[drawn["coat_length"]], drawn["lapel_design"]
    body = shapes.trunk(hem_y, 0.012 + outfit.ease, 0.5 * outfit.flare)
    opening = shapes.coat_opening(lapel, hem_y)
    canvas.cloth([body], outfit.upper, 150, (opening,))
    canvas.line(body, shade(outfit.upper_colour, 0.55), 0.005, 150, closed=True)
    people.paint_arms(canvas, figure)
    _paint_sleeves(canvas, drawn["sleeve_length"], figure, outfit, ())
    paint_lapel(canvas, lapel, hem_y, outfit.upper_colour, outfit.trim)


def _paint_lower(canvas: Canvas, garment: Garment, figure: people.Figure, outfit: Outfit) -> None:
    if "pant_length" in garment.drawn:
        _paint_trousers(canvas, garment.drawn["pant_length"], figure, outfit)
    if "skirt_length" not in garment.drawn:
        return
    dress = garment.category == "dress"
    sheet, colour = (outfit.upper, outfit.upper_colour) if dress else (outfit.lower, outfit.lower_colour)
    hem_y = shapes.SKIRT_HEM_Y[garment.drawn["skirt_length"]]
    outline = shapes.skirt(hem_y, outfit.flare, outfit.waves)
    canvas.cloth([outline], sheet, 150)
    canvas.line(outline, shade(colour, 0.55), 0.005, 150, closed=True)
    for place in np.linspace(-0.7, 0.7, outfit.waves // 2 + 1):
        x = place * shapes.half_width(np.array([shapes.HIP_Y, hem_y]), 0.0, outfit.flare)
        canvas.line(points((x[0], shapes.HIP_Y), (x[1], hem_y - 0.01)), shade(colour, 0.6), 0.005, 90)


def _paint_trousers(canvas: Canvas, value: str, figure: people.Figure, outfit: Outfit) -> None:
    hem_y = shapes.PANT_HEM_Y[value]
    wide = 0.004 + 0.12 * outfit.flare
    legs = []
    for leg in figure.legs:
        share = (hem_y - leg[0, 1]) / (leg[-1, 1] - leg[0, 1])
        at = np.linspace(0, share, 14)
        width = np.interp(at, [0, 0.25, 0.52, 1.1], [0.078, 0.074, 0.058 + 0.5 * wide, 0.044 + wide])
        legs.append(limb(path_to(leg, share), width))
    y = np.linspace(shapes.WAIST_Y, 0.48, 10)
    hips = shapes.both_sides(np.column_stack([shapes.half_width(y, 0.006, 0.0), y]))
    canvas.cloth([*legs, hips], outfit.lower, 150)
    dark = shade(outfit.lower_colour, 0.55)
    for leg in legs:
        canvas.line(leg, dark, 0.005, 120)
    canvas.line(points((0.0, shapes.WAIST_Y), (0.0, 0.47)), dark, 0.006, 150)


def _paint_upper(canvas: Canvas, garment: Garment, figure: people.Figure, outfit: Outfit) -> None:
    drawn, dress = garment.drawn, garment.category == "dress"
    edge = shapes.neck_edge(drawn)
    holes = (shapes.cut_above(edge),)
    hem_y = 0.285 if dress or "skirt_length" in drawn else 0.375
    body = shapes.trunk(hem_y, 0.3 * outfit.ease if dress else outfit.ease)
    canvas.cloth([body], outfit.upper, 160, holes)
    dark = shade(outfit.upper_colour, 0.55)
    canvas.line(body[6:-6], dark, 0.005, 130)
    if dress:
        canvas.line(points((-0.1, 0.27), (0.0, 0.275), (0.1, 0.27)), dark, 0.012, 140)
    people.paint_arms(canvas, figure)
    one_sided = drawn.get("neckline_design") == "one_shoulder"
    _paint_sleeves(canvas, drawn["sleeve_length"], figure, outfit, holes, one_sided)
    _paint_trim(canvas, drawn, edge, outfit)
    if "collar_design" in drawn:
        paint_collar(canvas, drawn["collar_design"], hem_y, outfit.upper_colour, outfit.trim)
    if "neck_design" in drawn:
        paint_neck(canvas, drawn["neck_design"], outfit.upper_colour)


def _paint_trim(canvas: Canvas, drawn: dict[str, str], edge: Points, outfit: Outfit) -> None:
    """A seam along the neckline, in the trim colour or in shadow."""
    inside = edge[np.abs(edge[:, 0]) < 0.185]
    if "neckline_design" in drawn:
        canvas.line(inside[inside[:, 1] > -0.05], outfit.trim, 0.012)


def _paint_sleeves(
    canvas: Canvas,
    value: str,
    figure: people.Figure,
    outfit: Outfit,
    holes: tuple[Points, ...],
    one_sided: bool = False,
) -> None:
    if value == "sleeveless":
        return
    for arm in figure.arms[:1] if one_sided else figure.arms:
        outline = people.sleeve_outline(arm, value, 0.3 * outfit.ease, outfit.sleeve_flare)
        canvas.cloth([outline], outfit.upper, 200, holes)
        num = len(outline) // 2
        dark = shade(outfit.upper_colour, 0.5)
        sides = outline[(outline[:, 1] > 0.1) | (not holes)]
        if len(sides) > 2:
            canvas.line(sides, dark, 0.005, 130)
        cuff = outline[[num - 1, num]]
        canvas.line(cuff, outfit.trim, 0.012)


def _paint_in_the_way(canvas: Canvas, figure: people.Figure, look: np.random.Generator) -> None:
    """A bag on one hand, a strand of hair over a shoulder, or nothing."""
    kind = look.choice(["none", "bag", "strand", "scarf"], p=[0.55, 0.2, 0.15, 0.1])
    side = int(look.integers(2))
    if kind == "bag":
        x, y = figure.arms[side][-1] + (0.0, 0.05)
        half, colour = float(look.uniform(0.04, 0.075)), any_colour(look)
        canvas.line(
            points((x - 0.5 * half, y + 0.06), (x, y), (x + 0.5 * half, y + 0.06)), shade(colour, 0.7), 0.01
        )
        box = points(
            (x - half, y + 0.06),
            (x + half, y + 0.06),
            (x + 1.15 * half, y + 0.17),
            (x - 1.15 * half, y + 0.17),
        )
        canvas.fill(box, colour, level=220)
    elif kind == "strand" and figure.hair_style != "none":
        flip = -1.0 if side else 1.0
        lock = curve(points((0.055, -0.2), (0.085, -0.1), (0.10, 0.02), (0.12, 0.12)), 4) * (flip, 1.0)
        canvas.fill(limb(path_to(lock, 1.0), np.linspace(0.02, 0.008, 14)), figure.hair, level=210)
