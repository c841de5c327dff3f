"""A folder as people leave it: what is a picture is embedded, what is not is told with a reason."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from inline_ray import inline_ray
from PIL import Image

from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.search import open_searcher
from pipelines.sources.drawing import draw_jpeg
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("within_process")]


def noise(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 60, channels), np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """Return a 50,000 x 50,000 one-bit PNG of zeros in some 300 kilobytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + 50_000 // 8)
    rows = b"".join([*(packer.compress(row * 1000) for _ in range(50)), packer.flush()])
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def good_files() -> dict[str, bytes]:
    plain = encoded(Image.fromarray(noise(0)), "JPEG")
    grey16 = Image.fromarray((np.arange(80 * 60, dtype=np.uint16) * 13).reshape(80, 60))
    frames = [Image.fromarray(noise(seed)).quantize(16) for seed in range(3)]
    return {
        "plain.jpg": plain,
        "the same again.jpg": plain,
        "cmyk.jpg": encoded(Image.fromarray(noise(1, 4), "CMYK"), "JPEG"),
        "sixteen-bit.png": encoded(grey16, "PNG"),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "with alpha.png": encoded(Image.fromarray(noise(2, 4), "RGBA"), "PNG"),
        "a.name.with.dots.jpeg": encoded(Image.fromarray(noise(3)), "JPEG"),
        "robe d'été (1).jpg": encoded(Image.fromarray(noise(4)), "JPEG"),
        "sub/folder/deep.webp": encoded(Image.fromarray(noise(5)), "WEBP"),
        "sub/plain.jpg": encoded(Image.fromarray(noise(6)), "JPEG"),
        "no_suffix": encoded(Image.fromarray(noise(7)), "JPEG"),
        "日本.bmp": encoded(Image.fromarray(noise(8)), "BMP"),
    }


def bad_files() -> dict[str, tuple[bytes, str]]:
    whole = encoded(Image.fromarray(noise(9)), "JPEG")
    return {
        "zero.jpg": (b"", "empty"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "text.jpg": (b"Dear photographer, where is the picture?", "not_an_image"),
        "sub/bomb.png": (bomb(), "too_large"),
    }


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, new_lake: Callable[[], Lake], tiny_model: Path
) -> tuple[Lake, Manifest]:
    folder = tmp_path_factory.mktemp("pictures é")
    for name, body in {**good_files(), **{name: body for name, (body, _) in bad_files().items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    (folder / "notes.txt").write_text("no picture and none pretends it is one")
    (folder / ".hidden.jpg").write_bytes(b"left out")
    lake = new_lake()
    config = NightConfig(
        lake=lake.url,
        source=str(folder),
        model=str(tiny_model),
        embed=EmbedOptions(num_workers=1),
    )
    with inline_ray():
        manifest = run_night(config, Run("nightly", config, lake))
    assert manifest is not None
    return lake, manifest


def rows(published: tuple[Lake, Manifest], file: str) -> list[dict]:
    lake, manifest = published
    with lake.checked(manifest.files[file]) as path:
        return pq.read_table(path).to_pylist()


def test_every_picture_is_embedded_under_its_path(published: tuple[Lake, Manifest]) -> None:
    assert {row["key"] for row in rows(published, "catalog.parquet")} == set(good_files())


def test_what_is_bad_is_told_with_its_kind_and_reason(published: tuple[Lake, Manifest]) -> None:
    found = {row["key"]: row for row in rows(published, "quarantine.parquet")}
    assert {key: row["kind"] for key, row in found.items()} == {
        key: kind for key, (_, kind) in bad_files().items()
    }
    assert all(row["message"] and row["attempts"] == 1 for row in found.values())
    assert "50000" in found["sub/bomb.png"]["message"].replace(",", "").replace(" ", "")


def test_every_file_went_somewhere(published: tuple[Lake, Manifest]) -> None:
    counts = published[1].counts
    assert counts["input"] == len(good_files()) + len(bad_files())
    assert counts["embedded"] + counts["quarantined"] == counts["input"]
    assert counts["quarantined"] == len(bad_files())


def test_two_equal_files_are_embedded_once_and_both_found(published: tuple[Lake, Manifest]) -> None:
    lake, manifest = published
    assert manifest.counts["images_embedded"] == len(good_files()) - 1
    with open_searcher(lake) as searcher:
        hits = searcher.search(searcher.embedding_of("plain.jpg"), {"skirt_length": 1.0}, 100)
    scores = {hit.key: hit.score for hit in hits}
    assert scores["plain.jpg"] == scores["the same again.jpg"]
    assert set(scores) == set(good_files())


def test_stored_pictures_are_the_files_bytes(published: tuple[Lake, Manifest]) -> None:
    with open_searcher(published[0]) as searcher:
        for key, body in good_files().items():
            assert searcher.picture_of(searcher.row_of(key)) == body


def test_a_new_broken_picture_is_published_although_the_catalog_stays(
    tmp_path: Path, lake: Lake, tiny_model: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        (pictures / f"{number}.jpg").write_bytes(draw_jpeg(f"odd-{number}", 0, size=48))
    config = NightConfig(lake=lake.url, source=str(pictures), model=str(tiny_model))
    first = run_night(config, Run("nightly", config, lake))
    (pictures / "cut.jpg").write_bytes(draw_jpeg("cut", 0, size=48)[:200])
    second = run_night(config, Run("nightly", config, lake))
    assert second is not None
    assert first is not None
    assert second.parent == first.id
    assert second.counts["quarantined"] == 1
    assert second.counts["reused"] == 4
    assert run_night(config, Run("nightly", config, lake)) is None
