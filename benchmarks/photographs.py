"""Pictures with the size and the decoding cost of shop photographs, made quickly and all different."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.sources.drawing import draw_jpeg

NUM_GARMENTS = 16
GRAIN = 5.0
"""Standard deviation of a pixel's noise, of 255: at quality 85 it brings 512 x 640 pixels to some 80 kB."""
QUALITY = 85


def photographs(count: int, width: int = 512) -> Iterator[bytes]:
    """Yield JPEGs of drawn garments, shifted and grained, of width x 5/4 width pixels.

    Args:
        count: how many.
        width: in pixels.
    """
    generator = np.random.default_rng(0)
    garments = [
        np.asarray(Image.open(io.BytesIO(draw_jpeg(f"garment-{number}", 0, revision=0, size=width))))
        for number in range(min(count, NUM_GARMENTS))
    ]
    height = garments[0].shape[0]
    grain = generator.normal(0, GRAIN, (height + 256, width + 256, 3)).astype(np.int16)
    for number in range(count):
        garment = np.roll(garments[number % len(garments)], generator.integers(-32, 33, 2), (0, 1))
        top, left = generator.integers(0, 256, 2)
        noisy = garment + grain[top : top + height, left : left + width]
        encoded = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=QUALITY)
        yield encoded.getvalue()


def write_photographs(folder: Path, count: int, width: int = 512) -> int:
    """Write photographs as files `<number>.jpg`; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    num_bytes = 0
    for number, body in enumerate(photographs(count, width)):
        (folder / f"{number:07d}.jpg").write_bytes(body)
        num_bytes += len(body)
    return num_bytes
