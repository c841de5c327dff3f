"""Nights on a cluster of which whole nodes are killed: they finish by themselves and publish the same."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from inline_ray import inline_ray
from served import served

from pipelines.embedding import EmbedOptions
from pipelines.index import IndexOptions
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import current_manifest
from pipelines.telemetry import Run

pytestmark = pytest.mark.multi_node

NUM_UNITS = 32
SOURCE = f"generated:num_images={2 * NUM_UNITS},seed=3,size=64"
STAGES = ("shards", "embeddings", "indexes")
# One picture a batch, so that a batch is the same whichever worker makes it, and a unit takes a while.
OPTIONS = {
    "shards": ShardOptions(images_per_shard=2),
    "embed": EmbedOptions(batch_size=1, precision="float32"),
    "index": IndexOptions(parts_per_group=1, max_small_parts=NUM_UNITS, max_small_groups=NUM_UNITS),
}
FLAGS = (
    f"--source={SOURCE}",
    "--shards.images-per-shard=2",
    "--embed.num-workers=2",
    "--embed.batch-size=1",
    "--embed.precision=float32",
    "--index.parts-per-group=1",
    f"--index.max-small-parts={NUM_UNITS}",
    f"--index.max-small-groups={NUM_UNITS}",
)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lake:
    """The lake of a night of which no node was lost."""
    config = NightConfig(
        lake=str(tmp_path_factory.mktemp("quiet")), source=SOURCE, model=str(tiny_model), **OPTIONS
    )
    lake = Lake(config.lake)
    with inline_ray():
        run_night(config, Run("nightly", config, lake))
    for stage in STAGES:
        assert len(receipts(lake, stage)) == NUM_UNITS
    return lake


def receipts(lake: Lake, stage: str) -> list[str]:
    return sorted(lake.store.list_names(f"receipts/{stage}"))


def made(lake: Lake, stage: str) -> dict[str, list[dict[str, Any]]]:
    """Return by receipt the files that it proves, with their digests."""
    return {name: json.loads(lake.store.read(name).body)["files"] for name in receipts(lake, stage)}


@contextmanager
def started(nodes: Any, name: str, url: str, model: Path) -> Iterator[subprocess.Popen[str]]:
    job = nodes.start_job(name, f"--lake={url}", f"--model={model}", *FLAGS)
    try:
        yield job
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()


def kill_in(
    stage: str, nodes: Any, node: Any, lake: Lake, job: subprocess.Popen[str], wait: Callable[..., None]
) -> None:
    """Kill a node once a stage has some of its receipts, and not all."""
    wait(f"receipts of {stage}", lambda: job.poll() is not None or len(receipts(lake, stage)) >= 2)
    nodes.kill(node)
    assert 2 <= len(receipts(lake, stage)) < NUM_UNITS
    assert job.poll() is None


def test_a_night_outlives_a_node_in_each_stage(
    nodes: Any,
    s3_lake: str,
    tiny_model: Path,
    quiet: Lake,
    wait: Callable[..., None],
    finish: Callable[..., str],
) -> None:
    lake = Lake(s3_lake)
    _, spot = nodes.add(), nodes.add()
    with started(nodes, "nightly.py", s3_lake, tiny_model) as job:
        for stage in STAGES:
            kill_in(stage, nodes, spot, lake, job, wait)
            spot = nodes.add()
        finish(job)
    assert [receipts(lake, stage) for stage in STAGES] == [receipts(quiet, stage) for stage in STAGES]
    assert served(lake) == served(quiet)
    assert current_manifest(lake).night == 1


def test_the_rest_finishes_where_a_node_never_comes_back(
    nodes: Any,
    s3_lake: str,
    tiny_model: Path,
    quiet: Lake,
    wait: Callable[..., None],
    finish: Callable[..., str],
) -> None:
    lake = Lake(s3_lake)
    spots = [nodes.add(), nodes.add()]
    with started(nodes, "embed_catalog.py", s3_lake, tiny_model) as job:
        kill_in("embeddings", nodes, spots[0], lake, job, wait)
        finish(job)
    for stage in ("shards", "embeddings"):
        assert made(lake, stage) == made(quiet, stage)
