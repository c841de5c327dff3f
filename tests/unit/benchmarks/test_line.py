"""The benchmark of the line runs the whole of it, against the faster bare embedder."""

from pathlib import Path

import pytest
from inline_ray import inline_ray
from narrow_trunk import narrow

from agman.transforms import Preprocess
from benchmarks import line, photographs
from benchmarks.made_shards import make_model, make_shards
from pipelines.lake import Lake


def test_the_line_is_compared_with_the_faster_bare_embedder() -> None:
    seconds = {"bare, one process": 8.0, "bare, in the workers": 5.0, "line": 10.0}
    seconds |= {"whole line": 16.0, "Ray Data": 20.0}
    found = line.figures(100, seconds, {(1, 1): 7.0}, [2.0, 3.0])
    assert (found["share_of_bare_model"], found["ratio_ray_data"]) == (0.5, 1.25)
    assert (found["peak_gib_4x_over_1x"], found["start_s"], found["images_per_s_1x1"]) == (1.5, 6, 7)


def test_the_line_embeds_and_indexes_every_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    lake = Lake(str(tmp_path / "lake"))
    options = line.Options(num_images=6, images_per_shard=3, image_size=32, batch_size=2)
    photographs.write_photographs(tmp_path / "pictures", 6, 32)
    with inline_ray():
        shards = make_shards(lake, str(tmp_path / "pictures"), 3, "line")
        model = make_model(lake, tmp_path / "model", "resnet18", Preprocess(image_size=32))
        line.Line(lake, model, shards, options).whole(copies=2)
    parts = [*(tmp_path / "lake" / "embeddings").rglob("*.parquet")]
    assert len(parts) == 2 * 2 * 8  # copies, shards, attributes
    assert len([*(tmp_path / "lake" / "indexes").rglob("*.faiss")]) == 2 * 8
