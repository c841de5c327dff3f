"""A supersampled canvas that takes outlines in body units and keeps what the light needs to know.

Beside the colours it holds two small maps: `relief`, how near each part is to the viewer, and `folds`, where
there is cloth. The light reads them once at the end, which costs less than shading each part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipelines.sources.drawing.shapes import Points

Colour = tuple[int, int, int]
SUPERSAMPLING = 2
MAP_REDUCTION = 4
"""Relief and folds are this much smaller than the supersampled canvas."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """How body units become pixels of a canvas of height 1."""

    scale: float
    """Canvas heights for one body unit."""
    width_scale: float
    """Extra width of the figure; people differ."""
    angle: float
    """Rotation in radians."""
    sway: float
    """Sideways bend of the figure, body units at half height."""
    body_point: tuple[float, float]
    """The point of the body that lands on `canvas_point`."""
    canvas_point: tuple[float, float]
    """In canvas widths and canvas heights."""
    mirrored: bool

    def pixels(self, outline: Points, width: int, height: int) -> Points:
        """Map an outline [N, 2] to pixels of a width x height canvas."""
        x = (outline[:, 0] - self.body_point[0]) * self.width_scale
        x = (x + self.sway * np.sin(np.pi * outline[:, 1])) * (-1.0 if self.mirrored else 1.0)
        y = outline[:, 1] - self.body_point[1]
        cos, sin = np.cos(self.angle) * self.scale * height, np.sin(self.angle) * self.scale * height
        return np.column_stack(
            [
                x * cos - y * sin + self.canvas_point[0] * width,
                x * sin + y * cos + self.canvas_point[1] * height,
            ]
        )


class Canvas:
    """Paints outlines over a backdrop."""

    def __init__(self, backdrop: Image.Image, placement: Placement) -> None:
        """Start from a backdrop at the final size."""
        width, height = backdrop.size
        self.size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self.placement = placement
        self.image = backdrop.resize(self.size, Image.Resampling.NEAREST)  # undone by the reduction
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        map_size = (self.size[0] // MAP_REDUCTION, self.size[1] // MAP_REDUCTION)
        self.relief = Image.new("L", map_size)
        self.folds = Image.new("L", map_size)
        self._relief_draw = ImageDraw.Draw(self.relief)
        self._folds_draw = ImageDraw.Draw(self.folds)
        self._mask = Image.new("L", self.size)
        self._mask_draw = ImageDraw.Draw(self._mask)

    def pixels(self, outline: Points) -> Points:
        """Where an outline lies on the supersampled canvas."""
        return self.placement.pixels(outline, *self.size)

    def fill(self, outline: Points, colour: Colour, alpha: int = 255, level: int = 0) -> None:
        """Fill an outline with one colour; a level above 0 also raises it in the relief."""
        at = self.pixels(outline)
        self._draw.polygon(at.ravel().tolist(), fill=(*colour, alpha))
        if level:
            small = (at / MAP_REDUCTION).ravel().tolist()
            self._relief_draw.polygon(small, fill=level)
            self._folds_draw.polygon(small, fill=0)

    def line(
        self, path: Points, colour: Colour, width: float, alpha: int = 255, closed: bool = False
    ) -> None:
        """Draw a line; its width is in body units, and at least one final pixel."""
        at = self.pixels(np.vstack([path, path[:1]]) if closed else path)
        num_pixels = max(SUPERSAMPLING, round(width * self.placement.scale * self.size[1]))
        joint = (
            "curve" if num_pixels > 5 else None
        )  # rounding costs more than the line, and a thin one hides it
        self._draw.line(at.ravel().tolist(), fill=(*colour, alpha), width=num_pixels, joint=joint)

    def cloth(
        self, shapes: list[Points], fabric: Image.Image, level: int, holes: tuple[Points, ...] = ()
    ) -> None:
        """Fill shapes with fabric, except for the holes."""
        solid, bare = [self.pixels(shape) for shape in shapes], [self.pixels(hole) for hole in holes]
        corners = np.vstack(solid)
        limits = np.array(self.size)
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, limits - 1)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, low + 1, limits)
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        self._mask.paste(0, box)
        for outlines, value in ((solid, 255), (bare, 0)):
            for at in outlines:
                self._mask_draw.polygon(at.ravel().tolist(), fill=value)
        mask = self._mask.crop(box)
        self.image.paste(fabric.crop(box), box[:2], mask)
        small = mask.resize(
            (max(1, mask.width // MAP_REDUCTION), max(1, mask.height // MAP_REDUCTION)),
            Image.Resampling.NEAREST,
        )
        corner = (box[0] // MAP_REDUCTION, box[1] // MAP_REDUCTION)
        self.relief.paste(level, (*corner, corner[0] + small.width, corner[1] + small.height), small)
        self.folds.paste(255, (*corner, corner[0] + small.width, corner[1] + small.height), small)

    def finished(self) -> Image.Image:
        """The picture at its final size."""
        return self.image.reduce(SUPERSAMPLING)


def as_array(image: Image.Image) -> npt.NDArray[np.float32]:
    """Pixels as float32 in [0, 255]."""
    return np.asarray(image, dtype=np.float32)
