"""Ray Train around the workers: where they run, what is kept, and how often a loss is made good."""

from collections.abc import Callable
from typing import Any

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import CheckpointConfig, FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from agman.errors import AgmanError
from pipelines.errors import WorkersLost
from pipelines.lake import Lake
from pipelines.storage.s3_connection import open_filesystem
from pipelines.training.config import TrainConfig
from pipelines.training.curves import VALIDATION
from pipelines.training.placement import Placement
from pipelines.training.worker import WorkerTask, train_worker

RESTARTS = 3
"""Without a new checkpoint in between; machines that only come and go are made good for ever."""
RESIZE_EVERY_S = 60.0


def fit(make_trainer: Callable[[], TorchTrainer], board: Any) -> ray.train.Result:
    """Train to the end, over as many losses as leave a new checkpoint between them.

    Args:
        make_trainer: of the same run each time, so that it goes on from its last checkpoint.
        board: handle of the `Board` that the workers write to.

    Raises:
        AgmanError: what a worker refused, so that a person reads one line.
        WorkersLost: if workers failed again and again without a new checkpoint.
    """
    while True:
        num_kept: int = ray.get(board.num_kept.remote())
        failure: TrainingFailedError | None = None
        try:
            result = make_trainer().fit()
        except TrainingFailedError as error:
            failure = error
        refusal: AgmanError | None = ray.get(board.refusal.remote())
        if refusal is not None:
            raise refusal from failure
        if failure is None:
            return result
        if ray.get(board.num_kept.remote()) == num_kept:
            raise _lost(failure) from failure


def ray_trainer(config: TrainConfig, lake: Lake, task: WorkerTask, placement: Placement) -> TorchTrainer:
    """Return Ray's trainer of the task's run."""
    resources = {"CPU": config.cpus_per_worker, **({"GPU": 1} if placement.use_gpu else {})}
    few, many = placement.min_workers, placement.max_workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if placement.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=many if few == many else (few, many),
            use_gpu=placement.use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        ),
        run_config=RunConfig(
            name=task.run,
            **_storage(lake),
            failure_config=FailureConfig(max_failures=RESTARTS),
            # The best by validation, and beside it always the last, which a resumed run goes on from.
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=VALIDATION, checkpoint_score_order="max"
            ),
        ),
    )


def asked_for(config: TrainConfig, placement: Placement) -> str:
    """Say which workers Ray is asked for."""
    few, many = placement.min_workers, placement.max_workers
    number = f"{many}" if few == many else f"{few} to {many}"
    return f"{number} workers of {config.cpus_per_worker} CPUs{' and a GPU' if placement.use_gpu else ''}"


def _storage(lake: Lake) -> dict[str, Any]:
    """Return where Ray Train keeps checkpoints: in the lake, reached as the lake is."""
    if not lake.url.startswith("s3://"):
        return {"storage_path": f"{lake.url}/runs"}
    filesystem = PyFileSystem(FSSpecHandler(open_filesystem()))
    return {"storage_path": f"{lake.url.removeprefix('s3://')}/runs", "storage_filesystem": filesystem}


def _lost(failure: TrainingFailedError) -> WorkersLost:
    """Say in one line why it is given up."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return WorkersLost(
        f"training: workers failed {RESTARTS + 1} times without a new checkpoint, the last time with "
        f"{lines[-1] if lines else type(failure).__name__}; a new start goes on from "
        "its last checkpoint: give nodes more memory, or keep a state more often by a lower --validate-every"
    )
