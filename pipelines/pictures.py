"""Pictures for people: thumbnails, attention as a heat map, search results side by side."""

import base64
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from agman.errors import BadSample
from agman.images import decode_square, probe

_INFERNO = (
    (0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96), (207, 68, 70), (237, 105, 37),
    (251, 155, 6), (247, 209, 61), (252, 255, 164),
)  # fmt: skip
"""Its lightness grows evenly with the value: equal steps look equal, also in grey and to colour-blind eyes.

Source: N. Smith, S. van der Walt, the colour maps of matplotlib 1.5, every 28th entry.
"""
_HEAT_SHARE = (0.28, 0.80)
"""Share of heat in the blend where attention is least and most: the garment stays visible under both."""
_WIDEST = 1.5
"""Thumbnails are cropped to this many times their height: one banner must not push a row off the page."""

_GAP = 16
_FRAME = 3
_TITLE_SIZE = 18
_CAPTION_SIZE = 13
_LINE_HEIGHT = 17
_MARGIN = 24
_INK, _FAINT, _PAPER = (32, 33, 36), (110, 114, 120), (255, 255, 255)
_FRAMES = {True: (38, 150, 84), False: (205, 62, 58), None: (214, 217, 221)}


def thumbnail(encoded: bytes, height: int) -> Image.Image:
    """Decode a whole picture at a height.

    Args:
        encoded: the file's bytes.
        height: pixels.

    Returns:
        An upright RGB image of that height; a very wide one is cropped at both sides.

    Raises:
        BadSample: if the bytes are no picture.
    """
    probe(encoded)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.draft("RGB", (2 * height, 2 * height))  # a JPEG decodes at 1/2, 1/4 or 1/8: 5 times faster
            upright = _over_white(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadSample("undecodable", f"{len(encoded)} bytes: {error}") from error
    width = max(1, round(upright.width * height / upright.height))
    if width > _WIDEST * height:
        return ImageOps.fit(upright, (round(_WIDEST * height), height), Image.Resampling.LANCZOS)
    return upright.resize((width, height), Image.Resampling.LANCZOS)


def square_thumbnail(encoded: bytes, size: int) -> Image.Image:
    """Decode the centre square, which is all that the network sees: attention maps lie over this one.

    Args:
        encoded: the file's bytes.
        size: side in pixels.

    Returns:
        An RGB image of size x size.

    Raises:
        BadSample: if the bytes are no picture.
    """
    return Image.fromarray(decode_square(encoded, size))


def attention_overlay(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """Lay a heat map over a picture.

    Args:
        image: what the network saw, as `square_thumbnail` makes it.
        attention: [h, w] weights of the places, of any scale; each map is stretched to its own range.

    Returns:
        An RGB image of the same size: bright and yellow where attention is high, dark where it is low.

    Raises:
        ValueError: if `attention` is not a matrix of finite numbers.
    """
    if attention.ndim != 2 or not attention.size or not np.isfinite(attention).all():
        raise ValueError(f"attention must be a matrix of finite numbers, found shape {attention.shape}")
    levels = Image.fromarray(_stretched(attention.astype(np.float32)))
    heat = np.asarray(levels.resize(image.size, Image.Resampling.BICUBIC)).clip(0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(_INFERNO))
    colours = np.stack([np.interp(heat, stops, channel) for channel in zip(*_INFERNO, strict=True)], axis=-1)
    share = np.interp(heat, (0.0, 1.0), _HEAT_SHARE)[..., None]
    blend = np.asarray(image.convert("RGB")) * (1.0 - share) + colours * share
    return Image.fromarray(blend.round().astype(np.uint8))


def to_data_uri(image: Image.Image, quality: int = 82) -> str:
    """Encode a picture for a page that loads nothing.

    Args:
        image: any picture.
        quality: JPEG quality, 1 to 95.

    Returns:
        "data:image/jpeg;base64,…".
    """
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class GridResult:
    """One found picture."""

    image: Image.Image
    """Of any size; drawn as it is."""
    caption: tuple[str, ...] = ()
    """Lines under the picture; each is cut to the picture's width."""
    relevant: bool | None = None
    """Green frame for True, red for False, grey where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridRow:
    """One search."""

    title: str
    """Over the row, such as "neckline_design: v"."""
    query: Image.Image
    """The picture searched with."""
    results: tuple[GridResult, ...]
    """Best first."""
    query_caption: tuple[str, ...] = ("query",)
    """Lines under the query."""


def picture_grid(rows: Sequence[GridRow], path: str | Path) -> None:
    """Draw searches under each other: a title, the query, then the results from left to right.

    Args:
        rows: one or more searches.
        path: the PNG to write.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("a picture grid needs at least one row")
    sizes = [_row_size(row) for row in rows]
    width = max(width for width, _ in sizes) + 2 * _MARGIN
    height = sum(height for _, height in sizes) + _MARGIN * (len(rows) + 1)
    canvas = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN
    for row, (_, row_height) in zip(rows, sizes, strict=True):
        _draw_row(canvas, row, top)
        top += row_height + _MARGIN
    canvas.save(path, "PNG", optimize=True)


def _cells(row: GridRow) -> list[GridResult]:
    return [GridResult(image=row.query, caption=row.query_caption), *row.results]


def _row_size(row: GridRow) -> tuple[int, int]:
    """Width and height in pixels. After the query comes a double gap with a rule in it."""
    cells = _cells(row)
    width = sum(cell.image.width for cell in cells) + _GAP * (len(cells) - 1) + 2 * _GAP
    pictures = max(cell.image.height for cell in cells)
    captions = max(len(cell.caption) for cell in cells) * _LINE_HEIGHT
    title_width = int(_font(_TITLE_SIZE).getlength(_drawable(row.title)))
    return max(width, title_width), _title_height() + pictures + 6 + captions


def _title_height() -> int:
    return _TITLE_SIZE + 14


def _draw_row(canvas: Image.Image, row: GridRow, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, top), _drawable(row.title), fill=_INK, font=_font(_TITLE_SIZE))
    picture_top = top + _title_height()
    left = _MARGIN
    for index, cell in enumerate(_cells(row)):
        _draw_cell(canvas, cell, left, picture_top)
        left += cell.image.width + _GAP
        if index == 0:
            rule = left + _GAP // 2
            draw.line([(rule, picture_top), (rule, picture_top + cell.image.height)], _FRAMES[None], 2)
            left += 2 * _GAP - _GAP // 2


def _draw_cell(canvas: Image.Image, cell: GridResult, left: int, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    right, bottom = left + cell.image.width, top + cell.image.height
    canvas.paste(cell.image.convert("RGB"), (left, top))
    frame = _FRAME if cell.relevant is not None else 1
    draw.rectangle(
        (left - frame, top - frame, right + frame - 1, bottom + frame - 1),
        None,
        _FRAMES[cell.relevant],
        frame,
    )
    font = _font(_CAPTION_SIZE)
    for index, line in enumerate(cell.caption):
        place = (left, bottom + 6 + index * _LINE_HEIGHT)
        draw.text(place, _cut(line, cell.image.width, font), fill=_INK if index == 0 else _FAINT, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("Pillow was built without FreeType: install the wheel from PyPI")
    return font


def _cut(line: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Shorten a line with an ellipsis until it fits."""
    line = _drawable(line)
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line.rstrip()}…"


def _drawable(text: str) -> str:
    """Spell a text with the letters of Pillow's own font, which has no accents and would draw boxes."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2013", "-").replace("\u2014", "-"))
    letters = "".join(mark for mark in plain if not unicodedata.combining(mark))
    return letters.encode("ascii", "replace").decode()


def _stretched(attention: np.ndarray) -> np.ndarray:
    """Scale to [0, 1]; a map without differences tells nothing and becomes 0."""
    low, high = float(attention.min()), float(attention.max())
    return np.zeros_like(attention) if high == low else (attention - low) / (high - low)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns nearly every 16-bit picture white.
        levels = np.asarray(image).astype(np.float32) / 257.0
        return Image.fromarray(levels.round().astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, (255, 255, 255, 255)), pixels).convert("RGB")
