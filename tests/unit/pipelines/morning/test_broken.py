import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.morning.broken import PIXELS, draw_broken
from pipelines.sources.allowed import Allowed, folder_place


def row(path: Path) -> dict[str, str]:
    return {"uri": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture
def allowed(tmp_path: Path) -> Allowed:
    return Allowed(folder_place(str(tmp_path)))


def test_a_jpeg_that_was_cut_off_is_drawn_up_to_the_cut(
    tmp_path: Path, allowed: Allowed, picture: Callable[..., bytes]
) -> None:
    whole, path = picture(0, (192, 256)), tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    (image,) = draw_broken([row(path)], allowed).values()
    pixels = np.asarray(image).astype(float)
    assert image.height == PIXELS
    assert pixels[: PIXELS // 3].std() > 10
    assert pixels[-PIXELS // 3 :].std() < 5


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, on damaged tags
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "WEBP", "BMP", "JPEG"])
def test_no_damage_stops_a_report(
    tmp_path: Path, allowed: Allowed, picture: Callable[..., bytes], kind: str
) -> None:
    """Pillow's readers raise whatever they meet: struct.error, IndexError, …; here are the worst of files."""
    whole, random = picture(0, kind=kind), np.random.default_rng(0)
    rows = []
    for number in range(60):
        damaged = bytearray(whole[: len(whole) if number % 2 else random.integers(1, len(whole))])
        for place in random.integers(0, min(len(damaged), 200), 8):
            damaged[place] = random.integers(0, 256)
        path = tmp_path / str(number)
        path.write_bytes(damaged)
        rows.append(row(path))
    drawn = draw_broken(rows, allowed)
    assert all(image.size == (PIXELS, PIXELS) for image in drawn.values())


def test_what_cannot_be_drawn_is_left_out_and_the_rest_is_drawn(
    tmp_path: Path, allowed: Allowed, picture: Callable[..., bytes]
) -> None:
    bodies = {
        "text": b"%PDF-1.4",
        "empty": b"",
        "tiny": picture(1)[:20],
        "whole": picture(2),
        "changed": picture(3),
        "gone": picture(4),
    }
    rows = {}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
        rows[name] = row(tmp_path / name)
    (tmp_path / "changed").write_bytes(picture(5))
    (tmp_path / "gone").unlink()
    rows["elsewhere"] = {"uri": "/etc/hostname", "sha256": "0" * 64}
    rows["no bytes"] = {"uri": str(tmp_path / "whole"), "sha256": ""}
    assert set(draw_broken(list(rows.values()), allowed)) == {rows["whole"]["sha256"]}
    assert draw_broken(list(rows.values()), None) == {}
