"""Pictures with the size and the decoding cost of shop photographs, made quickly and no two alike."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 512, 640
QUALITY = 85
CANVAS = 2048
"""Side in pixels of the noise that the pictures are cut from."""
OCTAVES = ((256, 60), (32, 25), (8, 12), (2, 10))
"""Cell in pixels and deviation of each layer of noise: large forms, then folds, then cloth."""


def write_photographs(folder: Path, count: int, width: int = WIDTH) -> list[Path]:
    """Write JPEGs that compress as photographs of clothes do; returns their paths.

    Args:
        folder: a new one.
        count: how many.
        width: in pixels; they are a quarter higher. 512 x 640 pixels take some 75 KB.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    canvas = _canvas(random)
    height = width * HEIGHT // WIDTH
    columns = CANVAS - width
    paths = [folder / f"{number:07d}.jpg" for number in range(count)]
    places = random.choice(columns * (CANVAS - height), count, replace=False).tolist()
    for path, place in zip(paths, places, strict=True):
        left, top = place % columns, place // columns
        canvas.crop((left, top, left + width, top + height)).save(path, "JPEG", quality=QUALITY)
    return paths


def _canvas(random: np.random.Generator) -> Image.Image:
    """Return smoothed noise in colours, CANVAS pixels square."""
    levels = np.full((CANVAS, CANVAS, 3), 128, np.float32)
    for cell, deviation in OCTAVES:
        coarse = random.normal(0, deviation, (CANVAS // cell, CANVAS // cell, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel]).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
            levels[..., channel] += np.asarray(layer)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
