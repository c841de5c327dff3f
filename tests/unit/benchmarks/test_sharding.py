"""The benchmark of packing: every side packs every picture, and none that cannot is measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inline_ray import inline_ray

from benchmarks import img2dataset, sharding
from benchmarks.environments import READY

STAND_IN = """#!{python}
import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
pictures = pathlib.Path(options["--url_list"]).read_text().split()
assert all(each.startswith("file:///") for each in pictures)
size, folder = int(options["--number_sample_per_shard"]), pathlib.Path(options["--output_folder"])
folder.mkdir()
for first in range(0, len(pictures), size):
    stats = dict(successes=len(pictures[first : first + size]), start_time=first, end_time=first + size + 0.5)
    (folder / f"{{first:05d}}_stats.json").write_text(json.dumps(stats))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Give an environment with a command that takes img2dataset's options and leaves its figures."""
    command = tmp_path / "environment" / "bin" / "img2dataset"
    command.parent.mkdir(parents=True)
    command.write_text(STAND_IN.format(python=sys.executable))
    command.chmod(0o755)
    (tmp_path / "environment" / READY).write_text("\n".join(img2dataset.REQUIREMENTS))
    return tmp_path / "environment"


def test_pictures_are_packed_beside_img2dataset_and_the_floor(
    tmp_path: Path, stand_in: Path, reported: Callable[[], dict[str, Any]]
) -> None:
    results = tmp_path / "figures.json"
    options = sharding.Options(
        num_images=6,
        images_per_shard=2,
        rounds=1,
        trunk="resnet18",
        embedded=4,
        img2dataset=stand_in,
        folder=tmp_path,
        results=results,
    )
    with inline_ray():
        sharding.main(options)
    last = reported()
    assert last == json.loads(results.read_text())
    figures, floor = last["figures"], last["floor"]
    for how in ("as_is", "resize"):
        ours, theirs = figures[f"images_per_s_{how}"], figures[f"images_per_s_{how}_img2dataset"]
        assert theirs == pytest.approx(6 / 6.5, abs=1e-5)
        assert figures[f"ratio_{how}"] == pytest.approx(ours / theirs, rel=1e-4)
        assert figures[f"images_per_s_{how}_job"] < ours
    ours = figures["images_per_s_as_is"]
    assert figures["share_of_floor_as_is"] == pytest.approx(ours / floor["images_per_s_as_is"], rel=1e-4)
    assert floor["images_per_s_as_is"] < min(floor["images_per_s_cat"], floor["images_per_s_sha256sum"])
    assert figures["mean_cosine_of_others"] < figures["mean_cosine_resize"] < 1
    for shortcut in ("resize", "oversampling_1"):
        assert 0.9 < figures[f"min_cosine_{shortcut}"] < figures[f"mean_cosine_{shortcut}"]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("sharding-")] == []


def test_without_img2dataset_ours_is_measured_alone(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment").touch()  # where a folder cannot be made
    options = sharding.Options(
        num_images=2,
        images_per_shard=2,
        rounds=1,
        embedded=2,
        model=tiny_model,
        img2dataset=tmp_path / "environment",
        folder=tmp_path,
    )
    with inline_ray():
        sharding.main(options)
    said = capsys.readouterr().out
    assert "img2dataset cannot be installed; nothing is compared with it" in said
    assert "ratio_as_is" not in json.loads(said.strip().splitlines()[-1])["figures"]


def test_a_side_that_loses_pictures_is_not_measured(tmp_path: Path, stand_in: Path) -> None:
    command = img2dataset.install(stand_in)
    command.write_text(command.read_text().replace("len(pictures[", "1 + len(pictures["))
    with pytest.raises(RuntimeError, match="packed 3 of 2 pictures"):
        img2dataset.pack(
            command, [tmp_path / "a", tmp_path / "b"], tmp_path / "tars", (), processes=1, shard=2
        )


def test_a_tar_of_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="images_per_shard: expected 1 to 8, found 9"):
        sharding.Options(num_images=8, images_per_shard=9)
