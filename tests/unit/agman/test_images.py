import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agman import images
from agman.errors import BadSample
from agman.images import decode_square
from agman.transforms import Preprocess, probe, read_pixels

PREPROCESS = Preprocess(image_size=32)


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    levels = np.random.default_rng(7).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(levels, mode)


def gradient(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    levels = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 256], axis=-1)
    return Image.fromarray(levels.astype(np.uint8))


def png_bomb(side: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def kind_of(encoded: bytes, **options: int) -> str:
    with pytest.raises(BadSample) as caught:
        read_pixels(encoded, PREPROCESS, **options)
    return caught.value.kind


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 150), st.integers(8, 150))
def test_equals_resizing_and_cropping_in_two_steps(width: int, height: int) -> None:
    image = noise(width, height)
    scale = [max(32, int(32 * side / min(image.size))) for side in image.size]
    left, top = (round((side - 32) / 2.0) for side in scale)
    resized = image.resize((scale[0], scale[1]), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).astype(int)
    found = decode_square(encode(image), 32).astype(int)
    # The same arithmetic to 1e-12; Pillow's 8-bit passes may round the last level either way.
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.5


def test_sixteen_bit_png_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    stream = encode(Image.fromarray(ramp))
    eight_bit = encode(Image.fromarray((ramp / 257.0).round().astype(np.uint8)))
    difference = decode_square(stream, 32).astype(int) - decode_square(eight_bit, 32).astype(int)
    assert np.abs(difference).max() == 0
    assert decode_square(stream, 32).std() > 50


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    palette = Image.new("P", (40, 40), 3)
    palette.putpalette([9] * 768)
    assert (decode_square(encode(clear), 32) == 255).all()
    assert (decode_square(encode(half), 32) == 127).all()
    assert (decode_square(encode(palette, transparency=3), 32) == 255).all()
    assert (decode_square(encode(palette), 32) == 9).all()


def test_cmyk_grey_and_bilevel_become_rgb() -> None:
    cyan = Image.new("CMYK", (40, 40), (255, 0, 0, 0))
    red, green, blue = decode_square(encode(cyan, "JPEG", quality=95), 32).reshape(-1, 3).mean(0)
    assert red < 10 < 240 < min(green, blue)
    assert (decode_square(encode(Image.new("L", (40, 40), 77)), 32) == 77).all()
    assert (decode_square(encode(Image.new("1", (40, 40), 1)), 32) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = gradient(48, 64)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode_square(encode(stored, "PNG", exif=exif), 32)
    assert (found == decode_square(encode(upright), 32)).all()


def test_first_frame_stands_for_an_animation() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    for image_format in ("GIF", "PNG", "WEBP"):
        encoded = encode(frames[0], image_format, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_square(encoded, 32)[16, 16].tolist() == [200, 0, 0]


def test_jpeg_draft_stays_near_the_full_decode() -> None:
    large = gradient(1600, 1200).resize((1600, 1200))
    jpeg = encode(large, "JPEG", quality=95)
    full = decode_square(encode(Image.open(io.BytesIO(jpeg)).convert("RGB")), 32).astype(int)
    assert np.abs(decode_square(jpeg, 32).astype(int) - full).max() <= 6


def test_oversampling_says_how_much_a_reduced_decode_must_leave() -> None:
    jpeg = encode(gradient(96, 80), "JPEG", quality=95)
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (32, 32))
        assert image.size == (48, 40)
        reduced = encode(image)
    full = encode(Image.open(io.BytesIO(jpeg)))
    assert np.array_equal(decode_square(jpeg, 32, oversampling=1), decode_square(reduced, 32))
    assert np.array_equal(decode_square(jpeg, 32, oversampling=1.3), decode_square(full, 32))
    assert np.array_equal(decode_square(jpeg, 32), decode_square(full, 32))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refusals_name_their_kind() -> None:
    jpeg, png = encode(noise(64, 64), "JPEG"), encode(noise(64, 64))
    assert kind_of(b"") == "empty"
    assert kind_of(b"hello, this is a text file") == "not_an_image"
    assert kind_of(b"%PDF-1.7 ...") == "unsupported"
    assert kind_of(b"\0\0\0\x18ftypheic\0\0\0\0") == "unsupported"
    assert kind_of(encode(noise(64, 4))) == "too_small"
    assert kind_of(encode(Image.fromarray(np.ones((40, 40), np.float32)), "TIFF")) == "unsupported"
    assert kind_of(png_bomb(50_000)) == "too_large"
    assert kind_of(png_bomb(12_000)) == "too_large"
    assert kind_of(png, max_pixels=64 * 64 - 1) == "too_large"
    assert kind_of(jpeg[:-2]) == "truncated"
    assert kind_of(png[: len(png) // 2]) == "truncated"
    assert kind_of(encode(noise(64, 64), "WEBP")[:-50]) == "truncated"


def test_a_thumbnail_does_not_hide_a_cut() -> None:
    thumbnail = encode(noise(16, 16), "JPEG")
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    jpeg = encode(noise(64, 64), "JPEG")
    whole = jpeg[:2] + app1 + jpeg[2:]
    assert probe(whole).format == "JPEG"
    with pytest.raises(BadSample, match="truncated"):
        probe(whole[:-200])
    # Cameras append their own trailers, and transfers append zeros: neither is a cut.
    assert probe(jpeg + b"\0" * 100_000).width == 64


def test_probe_reads_the_header() -> None:
    header = probe(encode(noise(30, 20), "WEBP"))
    assert (header.width, header.height, header.format) == (30, 20, "WEBP")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]), st.randoms(use_true_random=False))
def test_damage_is_refused_or_read_never_another_error(image_format: str, random: object) -> None:
    encoded = bytearray(encode(gradient(40, 40), image_format))
    for _ in range(random.randint(1, 20)):
        encoded[random.randrange(len(encoded))] = random.randrange(256)
    cut = bytes(encoded[: random.randint(1, len(encoded))])
    for version in (bytes(encoded), cut):
        with contextlib.suppress(BadSample):
            assert read_pixels(version, PREPROCESS).shape == (3, 32, 32)


def test_a_long_strip_allocates_only_the_square() -> None:
    pixels = read_pixels(encode(Image.new("L", (2_000_000, 8), 60)), Preprocess(image_size=224))
    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == torch.uint8
    assert (pixels == 60).all()


def plain_files() -> list[bytes]:
    """Return JPEGs of every kind of segment that files of the web begin with."""
    colour, exif = noise(40, 30), Image.Exif()
    exif[0x0112] = 6
    return [
        encode(colour, "JPEG"),
        encode(colour, "JPEG", progressive=True, comment=b"a shop's \xff\xd9 own"),
        encode(noise(40, 30, "L"), "JPEG", icc_profile=bytes(300)),
        encode(noise(40, 30, "CMYK"), "JPEG", dpi=(72, 72)),
        encode(colour, "JPEG", exif=exif),
        encode(colour, "JPEG", restart_marker_blocks=4, icc_profile=bytes(70_000)),
    ]


PLAIN = plain_files()


def judged(encoded: bytes, *, by_pillow: bool) -> object:
    """Return a header, or the kind and message of a refusal."""
    try:
        if not by_pillow:
            return probe(encoded)
        with images._open(encoded, images.MAX_PIXELS) as image:
            return images.ImageHeader(width=image.width, height=image.height, format=str(image.format))
    except BadSample as error:
        return error.kind, error.message


@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_the_quick_look_at_a_jpeg_says_what_pillow_says(number: int) -> None:
    assert judged(PLAIN[number], by_pillow=False) == judged(PLAIN[number], by_pillow=True)
    has_exif = number == 4
    assert (images._plain_jpeg(PLAIN[number], images.MAX_PIXELS) is None) == has_exif


@settings(deadline=None, max_examples=400)
@given(
    st.integers(0, len(PLAIN) - 1),
    st.lists(st.tuples(st.integers(0, 800), st.integers(0, 255)), max_size=3),
    st.one_of(st.just(1 << 20), st.integers(0, 900)),
)
def test_of_a_damaged_jpeg_the_quick_look_says_what_pillow_says(
    number: int, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(PLAIN[number][:length])
    for place, level in changes:
        if place < len(damaged):
            damaged[place] = level
    assert judged(bytes(damaged), by_pillow=False) == judged(bytes(damaged), by_pillow=True)


def test_bounds_hold_for_a_plain_jpeg() -> None:
    with pytest.raises(BadSample, match="40 x 30 exceeds 1199 pixels"):
        probe(PLAIN[0], max_pixels=1199)
    assert probe(PLAIN[0], max_pixels=1200).format == "JPEG"
    with pytest.raises(BadSample, match="shorter side below"):
        probe(encode(noise(40, 7), "JPEG"))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 640), (64, 80)),
        ((640, 512), (80, 64)),
        ((65, 1000), (64, 985)),
        ((130, 130), (64, 64)),
        ((333, 77), (277, 64)),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_larger_picture_is_scaled_to_its_short_side(
    size: tuple[int, int], expected: tuple[int, int], image_format: str
) -> None:
    smaller = images.shrink(encode(gradient(*size), image_format), 64)
    header = probe(smaller)
    assert (header.width, header.height, header.format) == (*expected, "JPEG")
    assert images.shrink(smaller, 64) is None, "what is packed is read as it is"
    shown = np.asarray(Image.open(io.BytesIO(smaller))).astype(int)
    wanted = np.asarray(gradient(*size).resize(expected, Image.Resampling.BOX)).astype(int)
    assert np.abs(shown[..., :2] - wanted[..., :2]).mean() < 3


def test_a_turned_picture_is_packed_upright_and_says_no_more_of_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smaller = images.shrink(encode(gradient(200, 100), "JPEG", exif=exif), 50)
    with Image.open(io.BytesIO(smaller)) as image:
        assert (image.size, dict(image.getexif())) == ((50, 100), {})
    upright = decode_square(encode(gradient(200, 100), "JPEG", exif=exif), 32).astype(int)
    assert np.abs(decode_square(smaller, 32).astype(int) - upright).mean() < 6


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_other_colours_are_packed_as_they_are_read(mode: str) -> None:
    encoded = encode(noise(40, 40, mode), "PNG" if mode == "RGBA" else "JPEG")
    smaller = images.shrink(encoded, 20)
    assert Image.open(io.BytesIO(smaller)).mode == "RGB"
    assert np.abs(decode_square(smaller, 8).astype(int) - decode_square(encoded, 8).astype(int)).mean() < 12


def test_what_is_small_or_fits_no_jpeg_stays_as_it_came() -> None:
    assert images.shrink(encode(noise(64, 90), "JPEG"), 64) is None
    assert images.shrink(encode(Image.new("L", (66_000 * 2, 16))), 8) is None


def test_the_same_bytes_are_packed_to_the_same_bytes() -> None:
    encoded = encode(noise(90, 70), "JPEG")
    assert images.shrink(encoded, 32) == images.shrink(encoded, 32)


def test_a_picture_that_cannot_be_decoded_is_not_packed() -> None:
    broken = encode(noise(90, 70), "PNG")
    broken = broken[:2000] + bytes(100) + broken[2100:]
    with pytest.raises(BadSample, match="PNG of"):
        images.shrink(broken, 32)


@pytest.mark.parametrize("size", [(512, 640), (90, 300), (60, 80)])
def test_a_query_is_read_as_the_packed_picture_is(size: tuple[int, int]) -> None:
    encoded = encode(noise(*size), "JPEG")
    packed = images.shrink(encoded, 64) or encoded
    preprocess = Preprocess(image_size=32, packed_side=64)
    assert torch.equal(read_pixels(encoded, preprocess), read_pixels(packed, preprocess))
    assert torch.equal(read_pixels(packed, PREPROCESS), read_pixels(packed, preprocess))
