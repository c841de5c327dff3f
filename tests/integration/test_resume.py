"""A run killed in the middle and started again finishes the rest and does nothing twice."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.lake import Lake
from pipelines.models import list_models

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SOURCE = "generated:num_images=64,seed=3,size=64"
NUM_SHARDS = 16


def start(lake: Path, model: Path) -> subprocess.Popen:
    arguments = [
        f"--lake={lake}", f"--source={SOURCE}", f"--model={model}", "--shards.images-per-shard=4",
        "--embed.num-workers=1", "--embed.batch-size=1", "--embed.precision=float32",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "jobs/embed_catalog.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(job: subprocess.Popen) -> None:
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 0, said.decode()


def files(lake: Path, folder: str) -> dict[str, tuple[int, str]]:
    """Return modification time and digest of the files below a folder of the lake."""
    found = [path for path in (lake / folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(lake)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in found
    }


def digests(lake: Path, folder: str) -> dict[str, str]:
    return {name: digest for name, (_, digest) in files(lake, folder).items()}


def kill_group(job: subprocess.Popen) -> None:
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, tiny_model: Path, wait: Callable[..., None]
) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    job = start(broken, tiny_model)
    stage = broken / "receipts" / "embeddings"
    try:
        wait("an embedding receipt", lambda: job.poll() is not None or any(stage.rglob("*.json")))
    finally:
        kill_group(job)
    before = files(broken, "receipts")
    parts_before = files(broken, "embeddings")
    done = [name for name in before if name.startswith("receipts/embeddings")]
    assert 1 <= len(done) < NUM_SHARDS

    finish(start(broken, tiny_model))
    after = files(broken, "receipts")
    assert {name: after[name] for name in before} == before
    assert {name: files(broken, "embeddings")[name] for name in parts_before} == parts_before
    (model,) = list_models(Lake(str(broken)))
    assert sum(name.startswith(f"receipts/embeddings/{model}/") for name in after) == NUM_SHARDS

    finish(start(unbroken, tiny_model))
    for folder in ("shards", "embeddings"):
        assert digests(broken, folder) == digests(unbroken, folder)
