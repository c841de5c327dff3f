"""Train a model from shards through Ray Train, and publish the best checkpoint in the lake."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import s3fs
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from agman.errors import AgmanError, InvalidInput
from agman.taxonomy import FASHIONAI, Taxonomy
from pipelines.cluster import is_remote, num_cpus, num_gpus
from pipelines.dataset import Dataset
from pipelines.evaluation import HeldOut, load_held_out
from pipelines.lake import Lake, short_digest
from pipelines.models import import_model
from pipelines.telemetry import Run
from pipelines.training.board import Board, watching
from pipelines.training.config import TrainConfig
from pipelines.training.worker import MODEL_FOLDER, WorkerTask, train_worker

RESTARTS = 3
VALIDATION_PICTURES = 4_000


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gave."""

    model: str
    """Id in the lake's models/."""
    step: int
    """Of the checkpoint that was kept."""
    validation_map: float
    """Query-weighted, of the checkpoint that was kept."""


def train(config: TrainConfig, dataset: Dataset, taxonomy: Taxonomy, run: Run) -> Trained:
    """Train, and publish the checkpoint with the best validation MAP as a model of the lake.

    Args:
        config: see `TrainConfig`.
        dataset: tars with roles and labels.
        taxonomy: attributes and values to learn.
        run: told the progress.

    Raises:
        InvalidInput: if there is nothing to learn from.
    """
    lake = Lake(config.lake)
    num_workers = min(config.num_workers, len(dataset.urls))
    _check_size(config, num_workers)
    if num_workers < config.num_workers:
        run.say(f"  {len(dataset.urls)} shards feed {num_workers} workers, not {config.num_workers}")
    board = ray.remote(Board).options(num_cpus=0).remote()
    task = WorkerTask(
        config=config,
        dataset=ray.put(dataset),
        taxonomy=taxonomy,
        held_out=ray.put(_validation(config, dataset, taxonomy)),
        board=board,
        started=time.time(),
        time_limit_s=60 * config.max_minutes,
    )
    with run.stage("train", config.steps, "steps") as stage, watching(board, stage, run):
        try:
            result = _ray_trainer(config, lake, run_name(config, dataset), task, num_workers).fit()
        except TrainingFailedError as error:
            raise _own_error(error) from error
    kept = [(checkpoint, metrics) for checkpoint, metrics in result.best_checkpoints or [] if metrics]
    checkpoint, metrics = max(kept, key=lambda pair: float(pair[1]["map"]))
    with checkpoint.as_directory() as folder:
        model = import_model(lake, Path(folder) / MODEL_FOLDER)
    return Trained(model, int(metrics["step"]), float(metrics["map"]))


def read_taxonomy(spec: str) -> Taxonomy:
    """Return the taxonomy that a config names.

    Raises:
        InvalidInput: if it is neither `fashionai` nor a readable JSON file.
    """
    if spec == "fashionai":
        return FASHIONAI
    try:
        return Taxonomy.from_json(json.loads(Path(spec).read_text()))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"taxonomy {spec}: expected `fashionai` or a JSON file, found {error}") from error


def _check_size(config: TrainConfig, num_workers: int) -> None:
    """Refuse what this machine can never place: Ray would wait for it without a word."""
    if num_workers < 1:
        raise InvalidInput(f"source {config.source}: expected at least one usable picture, found none")
    wanted = num_workers * config.cpus_per_worker
    if not is_remote() and (wanted > num_cpus() or (config.use_gpu and num_workers > num_gpus())):
        raise InvalidInput(
            f"{num_workers} workers of {config.cpus_per_worker} CPUs: expected to fit this machine, found "
            f"{num_cpus()} CPUs and {num_gpus()} GPUs; lower --num-workers or --cpus-per-worker"
        )


def _own_error(error: TrainingFailedError) -> Exception:
    """Return what a worker of ours refused, so that a person reads one line; else Ray's own error."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, AgmanError):
            return cause
    return error


def run_name(config: TrainConfig, dataset: Dataset) -> str:
    """Return a training's folder below runs/: another config, other pictures or labels are another one.

    How long it trains is left out, so that a finished one can be trained on.
    """
    settings = {
        name: value for name, value in asdict(config).items() if name not in ("lake", "steps", "max_minutes")
    }
    shards = sorted(url.rsplit("/", 1)[-1] for url in dataset.urls)
    described = {
        sha256: [[use.role, use.labels] for use in uses] for sha256, uses in dataset.described.items()
    }
    return f"{config.name}-{short_digest([settings, shards, described])[:8]}"


def _storage(lake: Lake) -> dict[str, Any]:
    """Return where Ray Train keeps checkpoints; s3fs reads the same AWS variables as the lake does."""
    if not lake.url.startswith("s3://"):
        return {"storage_path": f"{lake.url}/runs"}
    filesystem = PyFileSystem(FSSpecHandler(s3fs.S3FileSystem(use_listings_cache=False)))
    return {"storage_path": f"{lake.url.removeprefix('s3://')}/runs", "storage_filesystem": filesystem}


def _validation(config: TrainConfig, dataset: Dataset, taxonomy: Taxonomy) -> HeldOut:
    held_out = load_held_out(
        dataset, taxonomy, config.preprocess, roles=("valid",), limit=VALIDATION_PICTURES
    )
    labelled = np.any(np.concatenate(held_out.values, axis=1), axis=1)
    if not labelled[held_out.is_query].any() or not labelled[~held_out.is_query].any():
        raise InvalidInput(
            f"source {config.source}: expected at least 4 pictures of role valid that are labelled with "
            f"{', '.join(taxonomy.names)}, found {int(labelled.sum())} among {len(labelled)}; a larger "
            "catalog, a `labels` column, or columns named like FashionAI's attributes, give them"
        )
    return held_out


def _ray_trainer(
    config: TrainConfig, lake: Lake, name: str, task: WorkerTask, num_workers: int
) -> TorchTrainer:
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})}
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            **_storage(lake),
            failure_config=FailureConfig(max_failures=RESTARTS),
            # The best by validation, and beside it always the last, which a resumed run goes on from.
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="map", checkpoint_score_order="max"
            ),
        ),
    )
