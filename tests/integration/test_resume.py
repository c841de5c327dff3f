"""A run killed in the middle and started again finishes the rest and does nothing twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from called_jobs import call
from inline_ray import inline_ray

from pipelines.lake import Lake, bytes_sha256
from pipelines.models import list_models
from pipelines.storage.s3_connection import shared_filesystem

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

ROOT = Path(__file__).parents[2]
SOURCE = "generated:num_images=64,seed=3,size=64"
NUM_SHARDS = 16
JOB = "embed_catalog.py"


def words(lake: Lake, model: Path) -> list[str]:
    return [
        f"--lake={lake.url}", f"--source={SOURCE}", f"--model={model}", "--shards.images-per-shard=4",
        "--embed.num-workers=1", "--embed.batch-size=1", "--embed.precision=float32",
    ]  # fmt: skip


def start(lake: Lake, model: Path) -> subprocess.Popen:
    """Start the job in a process and with a Ray of its own, so that a kill ends all of it."""
    return subprocess.Popen(
        [sys.executable, f"jobs/{JOB}", *words(lake, model)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run(lake: Lake, model: Path) -> None:
    """Run the job to its end, in this process."""
    ended = call(JOB, *words(lake, model))
    assert ended.returncode == 0, ended.stdout + ended.stderr


def written(lake: Lake, folder: str) -> dict[str, datetime]:
    """Return when each object below a folder of the lake was written, to the second."""
    root = lake.url.removeprefix("s3://")
    found = shared_filesystem().find(f"{root}/{folder}", detail=True)
    return {path.removeprefix(f"{root}/"): about["LastModified"] for path, about in found.items()}


def digests(lake: Lake, folder: str) -> dict[str, str]:
    return {name: bytes_sha256(lake.store.read(name).body) for name in lake.store.list_names(folder)}


def kill_group(job: subprocess.Popen) -> None:
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()


def test_a_killed_run_goes_on_where_it_was(
    new_lake: Callable[[], Lake], tiny_model: Path, wait: Callable[..., None]
) -> None:
    broken, unbroken = new_lake(), new_lake()
    job = start(broken, tiny_model)
    try:
        wait(
            "an embedding receipt",
            lambda: job.poll() is not None or any(broken.store.list_names("receipts/embeddings")),
            120,
        )
    finally:
        kill_group(job)
    before = written(broken, "receipts")
    parts_before = written(broken, "embeddings")
    done = [name for name in before if name.startswith("receipts/embeddings")]
    assert 1 <= len(done) < NUM_SHARDS

    run(broken, tiny_model)
    after = written(broken, "receipts")
    assert {name: after[name] for name in before} == before
    assert {name: written(broken, "embeddings")[name] for name in parts_before} == parts_before
    (model,) = list_models(broken)
    assert sum(name.startswith(f"receipts/embeddings/{model}/") for name in after) == NUM_SHARDS

    with inline_ray():
        run(unbroken, tiny_model)
    for folder in ("shards", "embeddings"):
        assert digests(broken, folder) == digests(unbroken, folder)
