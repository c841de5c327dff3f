"""From encoded bytes to square 8-bit RGB: the one rule shared by training and inference.

Only Pillow and numpy, so that a process which merely checks images never loads torch.
Nothing global in Pillow is changed: truncated files stay errors and its own bomb check stays on.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from agman.errors import BadSample

MAX_PIXELS = 100_000_000
"""Default bound on width x height, judged from the header, before any pixel is allocated."""
OVERSAMPLING = 2.0
"""Leaves the final filter its work: pixels stay those of a full decode below four times the size."""
MIN_SIDE = 8
"""Shorter sides hold no garment, and trackers' 1 x 1 images are common in shop feeds."""

# EPS would start Ghostscript; the other readers are little exercised. These are what shops publish.
# A camera's MPO is opened by the JPEG reader; a Pillow built without AVIF must still read the rest.
Image.init()
_FORMATS = tuple(n for n in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if n in Image.OPEN)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
# Pillow's readers raise all of these on damaged files: its plugins were written over 25 years.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError,
    OverflowError, AttributeError, ZeroDivisionError, AssertionError, NotImplementedError, RuntimeError,
)  # fmt: skip
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_UNSUPPORTED_SIGNS = {b"%PDF": "PDF", b"%!PS": "PostScript", b"8BPS": "PSD", b"<svg": "SVG", b"<?xml": "XML"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """What the first bytes of an image file say."""

    width: int
    """Pixels, as stored, before EXIF orientation."""
    height: int
    """Pixels, as stored, before EXIF orientation."""
    format: str
    """Pillow's name: JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or MPO."""


def probe(encoded: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Check an image without decoding it.

    Args:
        encoded: the whole file.
        max_pixels: largest width x height accepted.

    Raises:
        BadSample: empty, not_an_image, unsupported, too_large, too_small, or truncated (a JPEG without end
            marker after its scan, a PNG without IEND, a WebP shorter than its header says).
    """
    with _open(encoded, max_pixels) as image:
        return ImageHeader(width=image.width, height=image.height, format=str(image.format))


def decode_square(
    encoded: bytes, size: int, *, max_pixels: int = MAX_PIXELS, oversampling: float = OVERSAMPLING
) -> np.ndarray:
    """Decode, orient, flatten to RGB, resize the short side to `size` and crop the centre.

    The first frame of an animation stands for it; transparency lies over white; 16 bits scale to 8.

    Args:
        encoded: the whole file.
        size: side of the square, pixels.
        max_pixels: largest width x height accepted.
        oversampling: a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep so
            many times `size`: of 1, the decoder does most of the resizing.

    Returns:
        [size, size, 3] uint8.

    Raises:
        BadSample: as `probe`, and truncated or undecodable where decoding fails.
    """
    with _open(encoded, max_pixels) as image:
        try:
            side = math.ceil(oversampling * size)
            image.draft("RGB", (side, side))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _centre_square(_to_rgb(image), size)
        except _DECODE_ERRORS as error:
            kind = "truncated" if "truncated" in str(error).lower() else "undecodable"
            raise BadSample(kind, f"{image.format} of {len(encoded)} bytes: {error}") from error
        except MemoryError as error:
            raise BadSample("too_large", f"{image.width} x {image.height} does not fit in memory") from error


def _open(encoded: bytes, max_pixels: int) -> Image.Image:
    """Open lazily and judge the header."""
    if not encoded:
        raise BadSample("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except _BOMBS as error:
        raise BadSample("too_large", str(error)) from error
    except _DECODE_ERRORS as error:
        raise _unreadable(encoded) from error
    if image.width * image.height > max_pixels:
        raise BadSample("too_large", f"{image.width} x {image.height} exceeds {max_pixels} pixels")
    if min(image.size) < MIN_SIDE:
        raise BadSample("too_small", f"{image.width} x {image.height}; shorter side below {MIN_SIDE} pixels")
    if not _is_complete(encoded, str(image.format)):
        raise BadSample("truncated", f"{image.format} of {len(encoded)} bytes ends before its end marker")
    return image


def _unreadable(encoded: bytes) -> BadSample:
    start = encoded[:12]
    for sign, name in _UNSUPPORTED_SIGNS.items():
        if start.lstrip().startswith(sign):
            return BadSample("unsupported", f"{name} files are not read")
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("ascii", "replace")
        return BadSample("unsupported", f"ISO media files of brand {brand!r} (HEIC, video) are not read")
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8")):
        return BadSample("truncated", f"the header of {len(encoded)} bytes is damaged or cut off")
    return BadSample("not_an_image", f"{len(encoded)} bytes beginning {start!r} are no known image format")


def _is_complete(encoded: bytes, image_format: str) -> bool:
    if image_format in ("JPEG", "MPO"):
        return encoded.find(b"\xff\xd9", _jpeg_scan_start(encoded)) != -1
    if image_format == "PNG":
        return b"IEND\xae\x42\x60\x82" in encoded
    if image_format == "WEBP":
        return len(encoded) >= 8 + int.from_bytes(encoded[4:8], "little")
    return True


def _jpeg_scan_start(encoded: bytes) -> int:
    """Position of the first scan: an end marker before it belongs to the EXIF thumbnail."""
    position = 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xDA:
            return position
        # 0xFF is fill before a marker; 0x01 and 0xD0-0xD7 stand alone, without a length.
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return min(position, len(encoded))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion clips at 255, which turns nearly every 16-bit image white.
        levels = np.asarray(image).astype(np.float32) / 257.0
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadSample("unsupported", f"32-bit pixels (mode {image.mode}) have no defined white")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        pixels = image.convert("RGBA")
        opaque = Image.new("RGB", pixels.size, (255, 255, 255))
        opaque.paste(pixels, mask=pixels.getchannel("A"))
        return opaque
    return image.convert("RGB")


def _centre_square(image: Image.Image, size: int) -> np.ndarray:
    """Resize and crop in one step, so that an 8 x 12,000,000 strip allocates only the square.

    The same sample positions as resizing to (int(size * long / short), size) and cropping after.
    """
    short = min(image.size)
    scaled = [max(size, int(size * side / short)) for side in image.size]
    starts = [round((side - size) / 2.0) for side in scaled]
    steps = [side / new for side, new in zip(image.size, scaled, strict=True)]
    left, top = (start * step for start, step in zip(starts, steps, strict=True))
    right = min(float(image.width), left + size * steps[0])
    bottom = min(float(image.height), top + size * steps[1])
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.asarray(square).copy()
