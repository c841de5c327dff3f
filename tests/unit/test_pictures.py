import base64
import io

import numpy as np
import pytest
from PIL import Image

from agman.errors import BadSample
from pipelines.pictures import (
    GridResult,
    GridRow,
    attention_overlay,
    picture_grid,
    square_thumbnail,
    thumbnail,
    to_data_uri,
)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 200), (60, 120)), ((400, 400), (120, 120)), ((2000, 100), (180, 120))]
)
def test_thumbnails_have_the_height_asked_for(size, expected):
    assert thumbnail(encoded(Image.new("RGB", size, "navy")), 120).size == expected


def test_thumbnails_are_upright_and_lie_on_white():
    turned = Image.new("RGB", (100, 50), "navy")
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    assert thumbnail(encoded(turned, "JPEG", exif=exif), 120).size == (60, 120)
    clear = thumbnail(encoded(Image.new("RGBA", (50, 50), (0, 0, 0, 0))), 20)
    assert clear.mode == "RGB"
    assert clear.getpixel((9, 9)) == (255, 255, 255)


def test_sixteen_bits_keep_their_shades():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None, :].repeat(64, axis=0)
    light = np.asarray(thumbnail(encoded(Image.fromarray(ramp)), 64).convert("L"))[0].astype(int)
    assert np.abs(light - np.linspace(0, 255, 64)).max() <= 1


def test_the_square_is_what_the_network_sees():
    banner = Image.new("RGB", (300, 100), "red")
    banner.paste("blue", (100, 0, 200, 100))
    square = square_thumbnail(encoded(banner), 50)
    assert square.size == (50, 50)
    assert square.getpixel((25, 25)) == (0, 0, 255)


@pytest.mark.parametrize("content", [b"", b"text named .jpg", encoded(Image.new("RGB", (99, 99)))[:60]])
def test_what_is_no_picture_is_a_bad_sample(content):
    with pytest.raises(BadSample):
        thumbnail(content, 100)


def brightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(float)


def test_attention_is_bright_where_it_is_high():
    attention = np.zeros((14, 14))
    attention[2:5, 9:12] = 0.05
    overlay = attention_overlay(Image.new("RGB", (140, 112), "gray"), attention)
    assert overlay.size == (140, 112)
    light = brightness(overlay)
    top, left = np.unravel_index(light.argmax(), light.shape)
    assert 16 <= top < 40
    assert 90 <= left < 120
    assert light[60:, :60].max() < 100 < light[28, 105]


def test_each_map_is_stretched_to_its_own_range():
    picture = Image.new("RGB", (28, 28), "gray")
    attention = np.random.default_rng(0).random((14, 14))
    scaled = attention_overlay(picture, attention * 1e-4 + 3e-3)
    assert np.abs(brightness(scaled) - brightness(attention_overlay(picture, attention))).max() <= 1
    even = brightness(attention_overlay(picture, np.full((14, 14), 1 / 196)))
    assert even.min() == even.max()


def test_lightness_grows_with_attention():
    ramp = np.linspace(0, 1, 64)[None, :].repeat(2, axis=0)
    light = brightness(attention_overlay(Image.new("RGB", (64, 2), "gray"), ramp))[0]
    assert (np.diff(light[2:-2]) >= -1).all()


@pytest.mark.parametrize("attention", [np.zeros(196), np.zeros((0, 3)), np.array([[np.nan, 1.0]])])
def test_refuses_what_is_no_map(attention):
    with pytest.raises(ValueError, match="attention must be a matrix"):
        attention_overlay(Image.new("RGB", (8, 8)), attention)


def test_data_uris_hold_the_picture():
    uri = to_data_uri(Image.new("RGBA", (30, 20), "teal"))
    head, body = uri.split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (30, 20)


def test_captions_with_accents_draw_no_boxes(tmp_path):
    for name, title in (("accents", "Café \u2013 Łódź"), ("plain", "Cafe - ?odz")):
        picture_grid([GridRow(title=title, query=Image.new("RGB", (60, 90)), results=())], tmp_path / name)
    assert (tmp_path / "accents").read_bytes() == (tmp_path / "plain").read_bytes()


def test_a_grid_shows_every_picture_with_its_frame(tmp_path):
    query = Image.new("RGB", (60, 90), "teal")
    results = tuple(
        GridResult(image=Image.new("RGB", (60, 90), "navy"), caption=("x" * 50, "0.91"), relevant=relevant)
        for relevant in (True, False, None)
    )
    rows = [GridRow(title="neckline_design: v", query=query, results=results)] * 2
    picture_grid(rows, tmp_path / "grid.png")
    colours = {colour for _, colour in Image.open(tmp_path / "grid.png").getcolors(100_000)}
    assert {(0, 128, 128), (0, 0, 128), (38, 150, 84), (205, 62, 58)} <= colours
    picture_grid(rows[:1], tmp_path / "one.png")
    assert Image.open(tmp_path / "one.png").height < Image.open(tmp_path / "grid.png").height
    with pytest.raises(ValueError, match="at least one row"):
        picture_grid([], tmp_path / "none.png")
