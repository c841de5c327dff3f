"""From encoded bytes to square 8-bit RGB: the one rule shared by training and inference.

Only Pillow and numpy, so that a process which merely checks images never loads torch.
Nothing global in Pillow is changed: truncated files stay errors and its own bomb check stays on.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from agman.errors import BadSample

MAX_PIXELS = 100_000_000
"""Default bound on width x height, judged from the header, before any pixel is allocated."""
OVERSAMPLING = 2.0
"""Leaves the final filter its work: pixels stay those of a full decode below four times the size."""
SHRUNK_QUALITY = 95
"""Of JPEGs that are packed smaller than they came."""
_MAX_JPEG_SIDE = 65_500
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
    plain = _plain_jpeg(encoded, max_pixels)
    if plain is not None:
        return plain
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
    least = math.ceil(oversampling * size)
    with _decoded(encoded, (least, least), max_pixels) as image:
        return _centre_square(image, size)


def shrink(encoded: bytes, side: int, *, max_pixels: int = MAX_PIXELS) -> bytes | None:
    """Scale a larger picture's short side down: what is packed, and what a packed picture's model is shown.

    Oriented and flattened to RGB like every picture, then a JPEG of quality 95 with all of its colours. Of a
    JPEG a half, quarter or eighth is decoded where that is large enough, by averages of its own frequencies,
    and the filter does the rest. The same bytes give the same bytes, with the same libraries.

    Args:
        encoded: the whole file.
        side: of the short side, pixels.
        max_pixels: largest width x height accepted.

    Returns:
        The JPEG; None where the picture is that small already, or so long that no JPEG could hold it.

    Raises:
        BadSample: as `decode_square`.
    """
    found = probe(encoded, max_pixels=max_pixels)
    short = min(found.width, found.height)
    long = round(max(found.width, found.height) * side / short)
    if short <= side or long > _MAX_JPEG_SIDE:
        return None
    least = (side, long) if found.width <= found.height else (long, side)
    with _decoded(encoded, least, max_pixels) as image:
        size = (side, long) if image.width <= image.height else (long, side)  # EXIF may have turned it
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=SHRUNK_QUALITY, subsampling=0)
        return written.getvalue()


@contextmanager
def _decoded(encoded: bytes, least: tuple[int, int], max_pixels: int) -> Iterator[Image.Image]:
    """Give an upright RGB picture, of a large JPEG a reduced one that is at least this wide and high."""
    with _open(encoded, max_pixels) as image:
        try:
            image.draft("RGB", least)  # JPEG only: 1/2, 1/4 or 1/8 of its size
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            yield _to_rgb(image)
        except _DECODE_ERRORS as error:
            kind = "truncated" if "truncated" in str(error).lower() else "undecodable"
            raise BadSample(kind, f"{image.format} of {len(encoded)} bytes: {error}") from error
        except MemoryError as error:
            raise BadSample("too_large", f"{image.width} x {image.height} does not fit in memory") from error


def _plain_jpeg(encoded: bytes, max_pixels: int) -> ImageHeader | None:
    """Return the header of a JPEG that has nothing odd about it; None leaves the judgement to Pillow.

    Pillow keeps every segment for later and takes 50 microseconds, this walk from one to the next 8. It knows
    the segments that nearly all files of the web are made of, and answers only where all of them are sound.
    """
    if not encoded.startswith(b"\xff\xd8\xff"):
        return None
    position, size = 2, (0, 0)
    while position + 4 <= len(encoded):
        fill, marker, length = _SEGMENT.unpack_from(encoded, position)
        following = position + 2 + length
        if fill != 0xFF or length < 2 or following > len(encoded):
            return None
        if marker == _SCAN:
            is_whole = encoded.rfind(b"\xff\xd9", position) != -1
            return _usual_header(size, max_pixels) if is_whole else None
        segment = encoded[position + 4 : following]
        if marker in _FRAMES:
            if size != (0, 0) or not _is_sound_frame(segment):
                return None
            height, width = _SIZE.unpack_from(segment, 1)
            size = (width, height)
        elif marker not in _SOUND or not _SOUND[marker](segment):
            return None
        position = following
    return None


def _usual_header(size: tuple[int, int], max_pixels: int) -> ImageHeader | None:
    """Return a JPEG's header if its size is within all bounds, Pillow's own too."""
    width, height = size
    bound = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if min(size) < MIN_SIDE or width * height > bound:
        return None
    return ImageHeader(width=width, height=height, format="JPEG")


def _is_sound_frame(segment: bytes) -> bool:
    """Tell whether a frame header is of 8 bits and 1, 3 or 4 components, and describes each of them."""
    return (
        len(segment) >= 6
        and segment[0] == 8
        and segment[5] in (1, 3, 4)
        and len(segment) == 6 + 3 * segment[5]
    )


def _are_sound_tables(segment: bytes) -> bool:
    """Tell whether quantisation tables are whole, of 8 bits each."""
    return len(segment) % 65 == 0 and all(first < 16 for first in segment[::65])


_SEGMENT, _SIZE = struct.Struct(">BBH"), struct.Struct(">HH")
_SCAN = 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive."""
_SOUND: dict[int, Callable[[bytes], bool]] = {
    0xC4: lambda segment: True,  # Huffman tables, the restart interval and comments, which Pillow skips
    0xDD: lambda segment: True,
    0xFE: lambda segment: True,
    0xDB: _are_sound_tables,
    0xE0: lambda segment: len(segment) >= 7 or not segment.startswith(b"JFIF"),
    0xE1: lambda segment: not segment.startswith(b"Exif"),
    0xE2: lambda segment: len(segment) >= 14 and segment.startswith(b"ICC_PROFILE\0"),
    0xEE: lambda segment: len(segment) >= 7,
}
"""By marker, whether Pillow finds nothing to say about a segment. EXIF, which it parses, is left to it."""


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
        # From the end, where it usually is: searching 70 KB from the start takes as long as hashing them.
        return encoded.rfind(b"\xff\xd9", _jpeg_scan_start(encoded)) != -1
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
    return image if image.mode == "RGB" else image.convert("RGB")


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
