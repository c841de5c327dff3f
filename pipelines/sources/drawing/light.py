"""What the camera adds: light and shadow, folds, exposure, blur and noise."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from pipelines.sources.drawing.canvas import Canvas, as_array

_Field = npt.NDArray[np.float32]


def develop(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """The finished picture of a canvas under a random light and camera."""
    picture = canvas.finished()
    light = _stretch(_light(canvas, rng), picture.size)
    haze = np.full(light.shape, rng.uniform(-12, 12), dtype=np.float32)
    noise = float(rng.choice([0.0, 2.0, 5.0, 9.0]))
    if noise:
        grain = np.frombuffer(rng.bytes(light.size), dtype=np.int8).reshape(light.shape)
        haze += grain * np.float32(noise / 74)  # a uniform byte has a deviation of 74
    planes = []
    for plane, balance in zip(picture.split(), rng.uniform(0.93, 1.07, size=3), strict=True):
        lit = as_array(plane) * light  # plane by plane: five times faster than [H, W, 3]
        lit *= np.float32(balance)
        lit += haze
        planes.append(Image.fromarray(np.clip(lit, 0, 255, out=lit).astype(np.uint8)))
    finished = Image.merge("RGB", planes)
    blur = float(rng.choice([0.0, 0.0, 0.5, 0.9])) * picture.width / 256
    return finished.filter(ImageFilter.BoxBlur(blur)) if blur else finished


def _stretch(field: _Field, size: tuple[int, int]) -> _Field:
    return as_array(Image.fromarray(field).resize(size, Image.Resampling.BILINEAR))


def _light(canvas: Canvas, rng: np.random.Generator) -> _Field:
    """Brightness of each place at the size of the maps: [h, w], around 1."""
    width, height = canvas.relief.size
    x, y = np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)[:, None]
    turn = float(rng.uniform(0, 2 * np.pi))
    slope = float(rng.uniform(0.0, 0.45))
    brightness = 1 + slope * ((x - 0.5) * math.cos(turn) + (y - 0.5) * math.sin(turn))
    brightness -= float(rng.uniform(0, 0.5)) * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    brightness *= float(rng.uniform(0.78, 1.15))
    brightness += _relief(canvas, turn) * float(rng.uniform(0.5, 1.0))
    folded: _Field = (brightness * _folds(canvas, rng)).astype(np.float32)
    return folded


def _relief(canvas: Canvas, turn: float) -> _Field:
    """Light on the sides that face it, shade on those that do not."""
    radius = canvas.relief.width / 40
    near = as_array(canvas.relief.filter(ImageFilter.GaussianBlur(radius))) / 255
    down, right = np.gradient(near)
    facing = -(right * math.cos(turn) + down * math.sin(turn)) * radius
    inside = as_array(canvas.relief) > 0
    lit: _Field = np.where(inside, 0.55 * np.clip(facing, -0.6, 0.35), 0.12 * np.minimum(facing, 0))
    return lit.astype(np.float32)


def _folds(canvas: Canvas, rng: np.random.Generator) -> _Field:
    """Soft creases in the cloth, longer than wide."""
    coarse = rng.normal(0, 1, size=(int(rng.integers(4, 9)), int(rng.integers(9, 18)))).astype(np.float32)
    creases = _stretch(coarse, canvas.folds.size)
    folds: _Field = 1 + creases * as_array(canvas.folds) * np.float32(rng.uniform(0.03, 0.10) / 255)
    return folds
