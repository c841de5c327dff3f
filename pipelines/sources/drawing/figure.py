"""Paints a person, or a mannequin, in the garments of a picture."""

from dataclasses import dataclass

import numpy as np

from pipelines.sources.drawing import shapes
from pipelines.sources.drawing.canvas import Canvas, Colour, Placement
from pipelines.sources.drawing.fabric import colour_unlike, from_hsv, shade
from pipelines.sources.drawing.shapes import Points, curve, ellipse, limb, mirror, path_to, points

SKINS: tuple[Colour, ...] = (
    (246, 219, 196),
    (233, 194, 164),
    (214, 165, 128),
    (179, 126, 90),
    (134, 88, 60),
    (92, 60, 44),
    (232, 230, 226),
    (198, 190, 180),
)
"""Six complexions and two mannequins."""
NUM_MANNEQUINS = 2
FRAMES = {
    "full": ((0.0, 0.42), 0.79),
    "upper": ((0.0, 0.205), 1.42),
    "lower": ((0.0, 0.62), 0.98),
}
"""Framing -> the point of the body at the middle of the picture, canvas heights for a body unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Who wears the garments, and how they stand."""

    skin: Colour
    hair: Colour
    hair_style: str
    """`short`, `long`, `bun`, or `none` for a mannequin."""
    shoe: Colour
    arms: tuple[Points, Points]
    """Shoulder, elbow, wrist of the left and right arm, each [3, 2]."""
    legs: tuple[Points, Points]
    """Hip, knee, ankle of the left and right leg, each [3, 2]."""


def sample_placement(rng: np.random.Generator, framing: str) -> Placement:
    """Where the figure stands in the picture."""
    body_point, scale = FRAMES[framing]
    return Placement(
        scale=scale * float(rng.uniform(0.88, 1.05)),
        width_scale=float(rng.uniform(1.02, 1.26)),
        angle=float(np.radians(np.clip(rng.normal(0, 5.5), -15, 15))),
        sway=float(rng.uniform(-0.03, 0.03)),
        body_point=body_point,
        canvas_point=(0.5 + float(rng.uniform(-0.09, 0.09)), 0.5 + float(rng.uniform(-0.035, 0.035))),
        mirrored=bool(rng.random() < 0.5),
    )


def sample_figure(rng: np.random.Generator, skin: Colour) -> Figure:
    """A random person, or a mannequin where the skin is one's."""
    mannequin = skin in SKINS[-NUM_MANNEQUINS:]
    natural = from_hsv(
        float(rng.uniform(0.02, 0.12)), float(rng.uniform(0.2, 0.7)), float(rng.uniform(0.08, 0.8))
    )
    stance = float(rng.uniform(0.0, 0.05))
    return Figure(
        skin=skin,
        hair=natural,
        hair_style="none" if mannequin else str(rng.choice(["short", "long", "bun"])),
        shoe=colour_unlike(rng, [skin]),
        arms=(mirror(_arm(rng)), _arm(rng)),
        legs=(mirror(_leg(stance)), _leg(stance * float(rng.uniform(0.3, 1.0)))),
    )


def _arm(rng: np.random.Generator) -> Points:
    raised = float(rng.uniform(0.16, 0.62))
    bend = float(rng.uniform(-0.35, 0.35)) if rng.random() < 0.8 else float(rng.uniform(-1.5, -0.9))
    shoulder = np.array(shapes.SHOULDER)
    elbow = shoulder + 0.20 * np.array([np.sin(raised), np.cos(raised)])
    wrist = elbow + 0.195 * np.array([np.sin(raised + bend), np.cos(raised + bend)])
    return np.vstack([shoulder, elbow, wrist])


def _leg(stance: float) -> Points:
    return points((0.072, 0.42), (0.074 + 0.5 * stance, shapes.KNEE_Y), (0.070 + stance, shapes.ANKLE_Y))


def paint_hair_behind(canvas: Canvas, figure: Figure) -> None:
    """Hair that hangs behind the shoulders."""
    if figure.hair_style == "long":
        fall = curve(points((0.0, -0.29), (0.085, -0.24), (0.10, -0.12), (0.115, 0.02), (0.06, 0.05)), 5)
        canvas.fill(shapes.both_sides(fall), shade(figure.hair, 0.8))
    elif figure.hair_style == "bun":
        canvas.fill(ellipse(0.0, -0.295, 0.045, 0.04), figure.hair)


def paint_head(canvas: Canvas, figure: Figure) -> None:
    """Head and the hair around the face; a mannequin has a plain head."""
    face = curve(points((0.0, -0.275), (0.066, -0.235), (0.068, -0.165), (0.04, -0.103), (0.0, -0.088)), 5)
    canvas.fill(shapes.both_sides(face), figure.skin, level=190)
    if figure.hair_style == "none":
        return
    fringe = curve(
        points(
            (0.0, -0.292), (0.076, -0.25), (0.079, -0.16), (0.062, -0.17), (0.055, -0.215), (0.012, -0.232)
        ),
        5,
    )
    canvas.fill(np.vstack([fringe, mirror(fringe[::-1])]), figure.hair, level=200)
    for side in (-1.0, 1.0):
        canvas.fill(ellipse(0.027 * side, -0.178, 0.008, 0.005, 10), shade(figure.skin, 0.35))
    canvas.line(points((-0.014, -0.122), (0.0, -0.118), (0.014, -0.122)), (176, 72, 74), 0.007)


def paint_body(canvas: Canvas, figure: Figure) -> None:
    """Legs, feet, trunk and neck in skin."""
    for leg, side in zip(figure.legs, (-1.0, 1.0), strict=True):
        width = np.interp(np.linspace(0, 1, 14), [0, 0.25, 0.52, 0.7, 1], [0.075, 0.066, 0.046, 0.045, 0.025])
        canvas.fill(limb(path_to(leg, 1.0), width), figure.skin, level=110)
        x = leg[-1, 0]
        foot = points(
            (-0.028, -0.02), (0.024, -0.02), (0.04, 0.038), (0.03, 0.052), (-0.026, 0.052), (-0.036, 0.035)
        )
        canvas.fill(curve(foot * (side, 1.0) + (x, shapes.ANKLE_Y), 3, closed=True), figure.shoe, level=110)
    canvas.fill(shapes.trunk(shapes.CROTCH_Y), figure.skin, level=130)
    neck = points((0.045, -0.14), (0.046, -0.05), (0.062, -0.01), (0.03, 0.03))
    canvas.fill(shapes.both_sides(neck), shade(figure.skin, 0.93), level=140)
    for side in (-1.0, 1.0):
        bone = curve(points((0.018 * side, 0.018), (0.06 * side, 0.008), (0.11 * side, 0.014)), 4)
        canvas.line(bone, shade(figure.skin, 0.8), 0.005, alpha=120)


def paint_arms(canvas: Canvas, figure: Figure) -> None:
    """Both arms and hands in skin."""
    for arm in figure.arms:
        width = np.interp(np.linspace(0, 1, 14), [0, 0.15, 0.5, 1], [0.034, 0.036, 0.03, 0.021])
        start = arm[:1] + np.array([0.0, -0.018])
        canvas.fill(limb(path_to(np.vstack([start, arm[1:]]), 1.0), width), figure.skin, level=170)
        canvas.fill(
            limb(path_to(arm, 1.2)[-5:], np.array([0.02, 0.026, 0.027, 0.024, 0.012])), figure.skin, level=170
        )


def sleeve_outline(arm: Points, value: str, ease: float, flare: float) -> Points:
    """The cloth of one sleeve around an arm [3, 2]."""
    end = shapes.SLEEVE_END[value]
    inner = points((0.118 * np.sign(arm[0, 0]), 0.022))
    centre = np.vstack([inner, path_to(arm, end)])
    grown = np.linspace(0, 1, len(centre))
    taper = 0.047 - 0.017 * min(end, 1.0) * grown
    opening = 0.035 * grown if value == "cup" else flare * grown**2
    width = taper + ease + opening
    width[0] = 0.03
    return limb(centre, width)
