"""Outlines of body and garments, as points in body units.

The body stands upright: x to the right, y down, the pit of the neck at (0, 0), the soles at y = 1. Every
outline is an [N, 2] float array. Differences between neighbouring values are larger than in life, so that
they survive a picture 96 pixels wide.
"""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

WAIST_Y, HIP_Y, CROTCH_Y, KNEE_Y, ANKLE_Y, SOLE_Y = 0.26, 0.40, 0.46, 0.70, 0.94, 1.0
SHOULDER = (0.150, 0.062)
"""Joint of the arm on the right side."""

SKIRT_HEM_Y = {"short": 0.50, "knee": 0.635, "midi": 0.76, "ankle": 0.885, "floor": 1.01}
PANT_HEM_Y = {"short": 0.52, "mid": 0.64, "three_quarter": 0.755, "cropped": 0.865, "full": 0.985}
COAT_HEM_Y = {
    "high_waist": 0.24,
    "regular": 0.355,
    "long": 0.47,
    "micro": 0.58,
    "knee": 0.695,
    "midi": 0.82,
    "ankle_floor": 0.96,
}
SLEEVE_END = {
    "sleeveless": 0.0,
    "cup": 0.10,
    "short": 0.27,
    "elbow": 0.45,
    "three_quarter": 0.64,
    "wrist": 0.82,
    "long": 1.0,
    "extra_long": 1.27,
}
"""Where a sleeve ends, as a share of the arm from shoulder to wrist."""

_BODY_Y = np.array([0.0, 0.07, 0.15, WAIST_Y, HIP_Y, CROTCH_Y])
_BODY_HALF_WIDTH = np.array([0.158, 0.158, 0.128, 0.098, 0.140, 0.142])
_GRID_Y = np.linspace(-0.05, 1.1, 93)
_GRID_HALF_WIDTH = np.convolve(
    np.pad(np.interp(_GRID_Y, _BODY_Y, _BODY_HALF_WIDTH), 4, mode="edge"), np.full(9, 1 / 9), mode="valid"
)
"""The body's half-width, smoothed so that an outline has no corners."""


def points(*pairs: tuple[float, float]) -> Points:
    """An outline written down by hand."""
    return np.array(pairs, dtype=np.float64)


def curve(control: Points, per_span: int = 6, closed: bool = False) -> Points:
    """A Catmull-Rom curve through the control points.

    Args:
        control: [N, 2] points the curve passes through.
        per_span: points made between two neighbours.
        closed: whether the last point joins the first.

    Returns:
        [M, 2] points.
    """
    padded = (
        np.vstack([control[-1:], control, control[:2]])
        if closed
        else np.vstack([2 * control[:1] - control[1:2], control, 2 * control[-1:] - control[-2:-1]])
    )
    t = np.linspace(0.0, 1.0, per_span, endpoint=False)[:, None, None]
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    spans = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * (start - end) + after - before) * t**3
    )
    made = spans.transpose(1, 0, 2).reshape(-1, 2)
    return made if closed else np.vstack([made, control[-1:]])


def mirror(outline: Points) -> Points:
    """The same outline on the other side of the body."""
    return outline * (-1.0, 1.0)


def both_sides(right: Points) -> Points:
    """Close a right-hand edge, given from top to bottom, with its mirror image."""
    return np.vstack([right, mirror(right[::-1])])


def half_width(y: Points, ease: float, flare: float) -> Points:
    """Half the width of a garment at heights y.

    Args:
        y: [N] heights.
        ease: how far the cloth stands off the body.
        flare: how much wider it grows for each unit below the hips.
    """
    return np.interp(y, _GRID_Y, _GRID_HALF_WIDTH) + ease + flare * np.clip(y - HIP_Y, 0.0, None)


def trunk(hem_y: float, ease: float = 0.0, flare: float = 0.0) -> Points:
    """Shoulders to hem: the body itself, a top, a dress or a coat."""
    y = np.linspace(0.075, hem_y, 18)
    side = np.column_stack([half_width(y, ease, flare), y])
    shoulder = points((0.05, -0.045), (0.075, -0.018), (0.14 + ease, 0.012), (0.163 + ease, 0.04))
    hem = points((0.6 * side[-1, 0], hem_y + 0.006), (0.0, hem_y + 0.009))
    return both_sides(np.vstack([shoulder, side, hem]))


def skirt(hem_y: float, flare: float, waves: int) -> Points:
    """Waist to hem, the hem falling in waves where the skirt is wide."""
    y = np.linspace(WAIST_Y - 0.015, hem_y, 16)
    side = np.column_stack([half_width(y, 0.008, flare), y])
    across = np.linspace(1.0, -1.0, 41)[1:-1]
    wave = 0.008 * np.cos(across * np.pi * waves) + 0.008 * (1 - across**2)
    hem = np.column_stack([across * side[-1, 0], hem_y + wave])
    return np.vstack([side, hem, mirror(side[::-1])])


def path_to(joints: Points, share: float, num: int = 14) -> Points:
    """Points along a limb from its first joint to a share of its length; beyond 1 it goes straight on."""
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=1)
    reach = np.concatenate([[0.0], np.cumsum(steps)])
    beyond = joints[-1] + (joints[-1] - joints[-2])
    reach, knots = np.append(reach, reach[-1] + steps[-1]), np.vstack([joints, beyond])
    at = np.linspace(0.0, share * reach[-2], num)
    made = np.column_stack([np.interp(at, reach, knots[:, 0]), np.interp(at, reach, knots[:, 1])])
    for _ in range(3):  # rounds the joint; a sharp one would fold the outline over itself
        made[1:-1] = (made[:-2] + 2 * made[1:-1] + made[2:]) / 4
    return made


def limb(centre: Points, width: Points) -> Points:
    """An outline of half-width [N] around a centre line [N, 2]."""
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    normal = np.column_stack([-along[:, 1], along[:, 0]]) * width[:, None]
    return np.vstack([centre + normal, (centre - normal)[::-1]])


def ellipse(x: float, y: float, half_x: float, half_y: float, num: int = 28) -> Points:
    """An ellipse around (x, y)."""
    turn = np.linspace(0.0, 2 * np.pi, num, endpoint=False)
    return np.column_stack([x + half_x * np.cos(turn), y + half_y * np.sin(turn)])


def cut_above(edge: Points) -> Points:
    """The area a neckline leaves bare: all above its edge, out past a shoulder where the edge ends low."""
    left, right = edge[0], edge[-1]
    above = [(right[0], -0.2), (left[0], -0.2)]
    if right[1] > 0.055:
        above[:1] = [(0.4, right[1]), (0.4, -0.2)]
    if left[1] > 0.055:
        above[-1:] = [(-0.4, -0.2), (-0.4, left[1])]
    return np.vstack([edge, points(*above)])


NECKLINES: dict[str, Points] = {
    "strapless": curve(points((-0.16, 0.105), (-0.07, 0.118), (0.0, 0.124), (0.07, 0.118), (0.16, 0.105))),
    "deep_v": points((-0.066, -0.06), (-0.058, 0.02), (0.0, 0.275), (0.058, 0.02), (0.066, -0.06)),
    "straight": points((-0.128, -0.06), (-0.122, 0.028), (0.122, 0.028), (0.128, -0.06)),
    "v": points((-0.088, -0.06), (-0.078, -0.01), (0.0, 0.142), (0.078, -0.01), (0.088, -0.06)),
    "square": points((-0.098, -0.06), (-0.094, 0.108), (0.094, 0.108), (0.098, -0.06)),
    "off_shoulder": curve(points((-0.26, 0.098), (-0.12, 0.082), (0.0, 0.09), (0.12, 0.082), (0.26, 0.098))),
    "round": ellipse(0.0, -0.01, 0.078, 0.088, 40)[20::-1],
    "sweetheart": np.vstack(
        [
            points((-0.116, -0.06)),
            curve(points((-0.112, 0.085), (-0.075, 0.075), (-0.03, 0.095), (0.0, 0.148)), 5),
            curve(points((0.0, 0.148), (0.03, 0.095), (0.075, 0.075), (0.112, 0.085)), 5),
            points((0.116, -0.06)),
        ]
    ),
    "one_shoulder": points((-0.06, -0.06), (-0.04, 0.0), (0.165, 0.125)),
}
"""The lower edge of each neckline, from left to right."""
NECKLINES["round"] = curve(
    points((-0.082, -0.06), (-0.072, 0.025), (0.0, 0.075), (0.072, 0.025), (0.082, -0.06))
)

COLLAR_LEAVES: dict[str, Points] = {
    "shirt_collar": points((0.052, -0.06), (0.002, 0.03), (0.072, 0.145), (0.118, 0.01)),
    "peter_pan": np.vstack(
        [
            points((0.056, -0.05), (0.003, 0.035)),
            curve(points((0.010, 0.078), (0.042, 0.112), (0.092, 0.108), (0.130, 0.065), (0.126, 0.005))),
        ]
    ),
    "puritan": points((0.056, -0.05), (0.002, 0.035), (0.028, 0.215), (0.215, 0.125), (0.168, 0.005)),
}
"""The right half of each collar that lies on the shoulders."""

LAPEL_LEAVES: dict[str, tuple[Points, ...]] = {
    "notched": (
        points((0.05, -0.06), (0.116, -0.012), (0.136, 0.042), (0.060, 0.044)),
        points((0.052, 0.064), (0.172, 0.088), (0.130, 0.16), (0.0, 0.27)),
    ),
    "shawl": (
        np.vstack(
            [
                curve(points((0.05, -0.06), (0.094, 0.01), (0.100, 0.10), (0.066, 0.20), (0.0, 0.27))),
                points((0.05, 0.03)),
            ]
        ),
    ),
    "plus_size_shawl": (
        np.vstack(
            [
                curve(
                    points(
                        (0.05, -0.07),
                        (0.16, -0.015),
                        (0.205, 0.09),
                        (0.175, 0.22),
                        (0.085, 0.33),
                        (0.0, 0.37),
                    )
                ),
                points((0.05, 0.06)),
            ]
        ),
    ),
    "collarless": (),
}
"""The right half of each lapel, piece by piece."""
FRONT_END_Y = {"notched": 0.27, "shawl": 0.27, "plus_size_shawl": 0.37, "collarless": 0.06}
"""Where the opening of a coat's front closes."""


def coat_opening(lapel: str, hem_y: float) -> Points:
    """The bare front of a coat, where the inner top shows."""
    if lapel == "collarless":
        return cut_above(NECKLINES["round"])
    end_y = min(FRONT_END_Y[lapel], hem_y + 0.02)
    return points((0.056, -0.2), (0.056, -0.03), (0.0, end_y), (-0.056, -0.03), (-0.056, -0.2))


def neck_edge(drawn: dict[str, str]) -> Points:
    """The upper edge of a garment without lapels; collars and necks sit on a small opening of their own."""
    if "neckline_design" in drawn:
        return NECKLINES[drawn["neckline_design"]]
    if "collar_design" in drawn:
        return points((-0.05, -0.06), (-0.045, -0.03), (0.0, 0.045), (0.045, -0.03), (0.05, -0.06))
    return points((-0.055, -0.06), (0.0, -0.03), (0.055, -0.06))
