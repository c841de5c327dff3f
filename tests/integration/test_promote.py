"""A model promoted, published by the next night from the tars alone, and taken back by a rollback."""

import os
from pathlib import Path

import numpy as np
import pytest
from called_jobs import call
from conftest import make_model
from PIL import Image
from served import served

from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.models import import_model, read_metrics
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.rollback import roll_back
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest, current_manifest, read_pointer
from pipelines.telemetry import Run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

NUM_IMAGES = 12
JUDGED_BY = "generated:num_images=60,seed=3,size=48"


def night(lake: Lake, source: Path, **options: str) -> Manifest | None:
    config = NightConfig(
        lake=lake.url,
        source=str(source),
        shards=ShardOptions(images_per_shard=5),
        embed=EmbedOptions(num_workers=1),
        **options,
    )
    return run_night(config, Run("nightly", config, lake))


def test_a_promoted_model_is_published_by_the_next_night_without_the_source(
    tmp_path: Path, lake: Lake, tiny_model: Path
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for number in range(NUM_IMAGES):
        noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(noise).resize((40, 40)).save(source / f"{number}.png")
    first = night(lake, source, model=str(tiny_model))
    assert first is not None
    served_first = served(lake)
    candidate = import_model(lake, make_model(tmp_path / "candidate", seed=1))

    promoted = call(
        "promote.py", candidate[:8], "--lake", lake.url, "--source", JUDGED_BY, "--dataset", "judged",
        "--max-loss", "1", cwd=tmp_path,
    )  # fmt: skip
    assert promoted.returncode == 0, promoted.stderr
    assert f"all {NUM_IMAGES} live pictures" in promoted.stdout
    assert current_manifest(lake) == first
    assert read_pointer(lake).next_model == candidate
    for model in (first.model, candidate):
        scores = read_metrics(lake, model, "judged")
        assert scores is not None
        assert scores["dataset"] == "judged"

    # Whoever reads the source now gets no picture, and its size and time do not tell.
    for path in source.iterdir():
        before = path.stat()
        path.write_bytes(b"\0" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = night(lake, source)
    assert second is not None
    assert (second.model, second.parent) == (candidate, first.id)
    assert (second.counts["unchanged"], second.counts["images_embedded"]) == (NUM_IMAGES, NUM_IMAGES)
    assert second.shards == first.shards
    assert read_pointer(lake).next_model == ""
    served_second = served(lake)
    assert served_second.keys() == served_first.keys()
    for key, (digest, vectors) in served_second.items():
        assert digest == served_first[key][0]
        assert all(vectors[name] != served_first[key][1][name] for name in vectors)
    assert night(lake, source) is None  # nothing is promoted any more

    roll_back(lake)
    assert current_manifest(lake) == first
    assert served(lake) == served_first
