"""Training on a cluster of which a whole node is killed: it goes on by itself and publishes the same."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.lake import Lake
from pipelines.models import list_models

pytestmark = [pytest.mark.multi_node, pytest.mark.timeout(900)]

JOB_S = 300.0
STEPS, EVERY = 12, 2
FLAGS = (
    "--source=generated:num_images=120,seed=0,size=32",
    "--shards.images-per-shard=60",
    "--network.trunk=resnet18",
    "--network.embedding-dim=16",
    "--preprocess.image-size=32",
    "--optimisation.sampling=batch",
    "--optimisation.weighting=learned",
    "--triplets-per-step=2",
    f"--steps={STEPS}",
    f"--validate-every={EVERY}",
)
# A cluster that lost a node looks for as many workers as it had until it notices. Less, and on a busy machine
# two workers are given up for one before they have started.
ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}


@contextmanager
def started(nodes: Any, url: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    job = nodes.start_job("train.py", f"--lake={url}", *FLAGS, *flags, **ENVIRONMENT)
    try:
        yield job
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            sys.stdout.write(job.communicate()[0])  # pytest shows it where the test failed


def num_kept(lake: Lake) -> int:
    """Return how many validations left their curves: each comes with a checkpoint."""
    return sum("/tensorboard/" in name for name in lake.store.list_names("runs"))


def last_states(lake: Lake) -> list[dict[str, Any]]:
    """Return the states of both shares at the last step."""
    (name,) = (
        name for name in lake.store.list_names("runs") if name.endswith("checkpoint_manager_snapshot.json")
    )
    run, _, _ = name.rpartition("/")
    last = json.loads(lake.store.read(name).body)["latest_checkpoint_result"]["checkpoint_dir_name"]
    files = [lake.store.read(f"{run}/{last}/share-{share}.pt").body for share in range(2)]
    return [torch.load(io.BytesIO(file), weights_only=True) for file in files]


def kill_in_the_middle(
    nodes: Any, node: Any, lake: Lake, job: subprocess.Popen[str], wait: Callable[..., None]
) -> None:
    wait("a checkpoint", lambda: job.poll() is not None or num_kept(lake) >= 1, JOB_S)
    assert job.poll() is None, job.communicate()[0]
    nodes.kill(node)
    assert num_kept(lake) < STEPS // EVERY, "too late: nothing was left to do"


def test_one_worker_publishes_the_same_model_when_its_node_is_killed(
    nodes: Any, s3_lake: str, tmp_path: Path, wait: Callable[..., None], finish: Callable[..., str]
) -> None:
    quiet, lake = Lake(str(tmp_path / "quiet")), Lake(s3_lake)
    node = nodes.add()
    with started(nodes, quiet.url, "--num-workers=1") as job:
        finish(job)
    with started(nodes, s3_lake, "--num-workers=1") as job:
        kill_in_the_middle(nodes, node, lake, job, wait)
        nodes.add()
        said = finish(job)
    assert re.search(r"1 workers go on from step ([2468]|10)", said), said
    assert list_models(lake) == list_models(quiet)
    (model,) = list_models(lake)
    weights = f"models/{model}/weights.safetensors"
    assert lake.store.read(weights).body == quiet.store.read(weights).body


def test_two_workers_become_one_where_a_node_never_comes_back(
    nodes: Any, s3_lake: str, wait: Callable[..., None], finish: Callable[..., str]
) -> None:
    lake = Lake(s3_lake)
    node, _ = nodes.add(), nodes.add()
    with started(nodes, s3_lake, "--num-workers=2", "--min-workers=1") as job:
        kill_in_the_middle(nodes, node, lake, job, wait)
        said = finish(job)
    assert re.search(r"1 workers go on from step ([2468]|10)", said), said
    assert len(list_models(lake)) == 1
    assert f"{STEPS}/{STEPS} steps" in said
    held = [set(state["pool"]["flow"]["digests"]) for state in last_states(lake)]
    assert not held[0] & held[1]
    assert abs(len(held[0]) - len(held[1])) <= 1
