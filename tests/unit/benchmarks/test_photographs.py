"""Drawn photographs are all different, and as large as true ones."""

from pathlib import Path

from PIL import Image

from benchmarks import photographs


def test_photographs_are_all_different(tmp_path: Path) -> None:
    made = photographs.write_photographs(tmp_path / "pictures", 20)
    assert len({path.read_bytes() for path in made}) == 20
    assert all(50_000 < path.stat().st_size < 100_000 for path in made)
    (small,) = photographs.write_photographs(tmp_path / "small", 1, 64)
    assert Image.open(small).size == (64, 80)
