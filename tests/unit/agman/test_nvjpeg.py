"""The GPU's reading rule against the usual one; where there is no GPU, libjpeg-turbo stands for nvJPEG."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from agman.errors import BadSample
from agman.nvjpeg import read_on_gpu
from agman.transforms import Preprocess, read_pixels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PREPROCESS = Preprocess(image_size=64, decoder="nvjpeg")
MAX_MEAN_LEVELS = 1.0
"""Of 255, that a square is off on average: rounding, and on a GPU the spreading of colours."""


def photograph(width: int = 160, height: int = 200) -> Image.Image:
    """Return smooth forms with some texture."""
    coarse = np.random.default_rng(width).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def by_the_other_rule(encoded: bytes) -> str:
    try:
        read_pixels(encoded, PREPROCESS)
    except BadSample as error:
        return error.kind
    return "a picture"


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(photograph(), exif=exif)


KINDS = {
    "4:2:0": jpeg(photograph(), subsampling=2),
    "4:2:2": jpeg(photograph(), subsampling=1),
    "4:4:4": jpeg(photograph(), subsampling=0),
    "progressive": jpeg(photograph(), progressive=True),
    "grey": jpeg(photograph().convert("L")),
    "cmyk": jpeg(photograph().convert("CMYK")),
    "rgb": jpeg(photograph(), keep_rgb=True),
    "odd size": jpeg(photograph().crop((0, 0, 91, 133))),
    "landscape": jpeg(photograph(240, 120)),
    "smaller than the square": jpeg(photograph(40, 60)),
    "large": jpeg(photograph(800, 1000)),
    "strip": jpeg(photograph(40, 2000)),
    "restarts": jpeg(photograph(), restart_marker_rows=1),
    "turned": turned(),
    "png": png(photograph()),
}


@pytest.mark.parametrize("encoded", KINDS.values(), ids=KINDS)
def test_a_square_is_nearly_that_of_the_other_rule(encoded: bytes) -> None:
    (found,) = read_on_gpu([encoded], PREPROCESS, DEVICE)
    assert isinstance(found, torch.Tensor)
    assert found.device.type == DEVICE.type
    assert found.dtype == torch.uint8
    off = (found.cpu().float() - read_pixels(encoded, PREPROCESS).float()).abs()
    assert off.mean() < MAX_MEAN_LEVELS


def test_a_batch_of_all_kinds_keeps_their_order() -> None:
    batch = [*KINDS.values()] * 2
    alone = [read_on_gpu([encoded], PREPROCESS, DEVICE)[0] for encoded in batch]
    for together, expected in zip(read_on_gpu(batch, PREPROCESS, DEVICE), alone, strict=True):
        assert torch.equal(together, expected)


def test_broken_pictures_are_refused_as_by_the_other_rule_and_harm_no_neighbour() -> None:
    whole = KINDS["4:2:0"]
    middle = len(whole) // 2
    broken = {
        "empty": b"",
        "no picture": b"<html>not found</html>",
        "cut off": whole[:middle],
        "cut off, with an end": whole[:middle] + b"\xff\xd9",
        "no tables": whole[:20] + whole[-400:],
    }
    found = read_on_gpu([whole, *broken.values(), whole], PREPROCESS, DEVICE)
    assert torch.equal(found[0], found[-1])
    for (name, encoded), refused in zip(broken.items(), found[1:-1], strict=True):
        verdict = refused.kind if isinstance(refused, BadSample) else "a picture"
        assert verdict == by_the_other_rule(encoded), name


def test_packed_models_scale_larger_pictures_as_packing_does() -> None:
    preprocess = Preprocess(image_size=64, packed_side=80, decoder="nvjpeg")
    (found,) = read_on_gpu([KINDS["large"]], preprocess, DEVICE)
    assert torch.equal(found.cpu(), read_pixels(KINDS["large"], preprocess))


def test_the_decoder_makes_another_model() -> None:
    assert Preprocess.from_json(PREPROCESS.to_json()) == PREPROCESS
    assert PREPROCESS.digest != Preprocess(image_size=64).digest
    assert "decoder" not in Preprocess().to_json()
