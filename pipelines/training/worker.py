"""What each Ray Train worker does: draw, step, validate, keep its state."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from agman.checkpoint import save_model
from agman.model import AGMAN
from agman.taxonomy import Taxonomy
from agman.trainer import Trainer, TrainingBatch, TrainingStep, index_labels, index_triplets
from agman.transforms import augment, normalise
from pipelines.dataset import Dataset
from pipelines.evaluation import HeldOut, validate
from pipelines.shards.read import pick_worker_shards
from pipelines.training.config import TrainConfig
from pipelines.training.samples import SamplePool

MODEL_FOLDER = "model"
POST_EVERY_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerTask:
    """What the driver gives every worker."""

    config: TrainConfig
    dataset: Any
    """Reference to the `Dataset`; each worker takes its share of the tars."""
    taxonomy: Taxonomy
    held_out: Any
    """Reference to the validation pictures."""
    board: Any
    """Handle of the `Board`."""
    started: float
    """Wall-clock time of the run's start."""
    time_limit_s: float
    """Time after which all stop cleanly; 0 is without limit."""


def train_worker(loop: dict[Any, Any]) -> None:
    """Run Ray Train's loop on one worker; every rank reports equally often.

    Args:
        loop: the `WorkerTask` under "task": Ray Train hands over a dict.
    """
    worker = Worker(loop["task"])
    config = worker.task.config
    stopped = False
    while worker.step < config.steps and not stopped:
        figures = worker.train_step()
        stopped = worker.time_share() >= 1
        if worker.step % POST_EVERY_STEPS == 0:
            worker.post(figures)
        if stopped or worker.step % config.validate_every == 0 or worker.step == config.steps:
            worker.validate_and_report(figures)


class Worker:
    """One rank: its model, its pool of pictures and its random states."""

    def __init__(self, task: WorkerTask) -> None:
        """Build everything, then go on from the checkpoint if there is one."""
        context = ray.train.get_context()
        self.task = task
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        config = task.config
        torch.set_num_threads(config.cpus_per_worker)
        # The same start on every rank; draws differ by rank.
        torch.manual_seed(config.optimisation.seed)
        self.device = ray.train.torch.get_device()
        self.model = AGMAN(config.network, len(task.taxonomy))
        module: torch.nn.Module = TrainingStep(self.model, config.optimisation)
        module = ray.train.torch.prepare_model(module, move_to_device=True)
        self.trainer = Trainer(module, config.optimisation, config.steps)
        dataset: Dataset = ray.get(task.dataset)
        self.pool = SamplePool(
            dataset.share(pick_worker_shards(dataset.urls, self.rank, self.world)),
            task.taxonomy,
            config.preprocess,
            capacity=config.buffer_samples,
            seed=config.optimisation.seed + 1000 * self.rank,
        )
        self.generator = torch.Generator().manual_seed(config.optimisation.seed + 1000 * self.rank)
        self.waited_s = 0.0
        self._time_share = 0.0
        self.best = 0.0
        self._restore()
        self._tell_unusable()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.trainer.step_count

    def train_step(self) -> dict[str, float]:
        """Draw a batch and learn from it."""
        started = time.perf_counter()
        batch = self._batch()
        self.waited_s += time.perf_counter() - started
        return self.trainer.step(batch, self._time_share)

    def time_share(self) -> float:
        """Return the share of the time limit that is used, by rank 0's clock: all stop together."""
        if self.task.time_limit_s:
            share = torch.tensor([(time.time() - self.task.started) / self.task.time_limit_s])
            if self.world > 1:
                torch.distributed.broadcast(share, src=0)
            self._time_share = float(share.item())
        return self._time_share

    def post(self, figures: dict[str, float]) -> None:
        """Tell the driver where rank 0 is."""
        if self.rank == 0:
            shown = {"step": self.step, "loss": figures["loss"], "valid MAP": self.best}
            self.task.board.post.remote(shown)

    def validate_and_report(self, figures: dict[str, float]) -> None:
        """Judge the model on rank 0 and keep every rank's state."""
        found = 0.0
        if self.rank == 0:
            held_out: HeldOut = ray.get(self.task.held_out)
            self.model.eval()
            found = validate(self.model, held_out, self.task.taxonomy, self.task.config.preprocess)
            self.model.train()
            self.best = max(self.best, found)
            self.post(figures)
        metrics = {**figures, "map": found, "step": self.step, "waited_s": self.waited_s}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            torch.save(self._state(), folder / state_file(self.rank))
            if self.rank == 0:
                save_model(self.model, self.task.taxonomy, self.task.config.preprocess, folder / MODEL_FOLDER)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _batch(self) -> TrainingBatch:
        config, pool = self.task.config, self.pool
        drawn = pool.draw(config.triplets_per_step)
        slots, image_index, attribute, triplets = index_triplets(drawn)
        labels = pool.labels(slots)
        value = np.zeros(0, np.int64)
        if config.optimisation.sampling == "batch":
            image_index, attribute, value = index_labels(labels)
        pixels = augment(pool.pixels(slots).to(self.device), self.generator, config.augmentation)
        pool.refresh(config.triplets_per_step)
        return TrainingBatch(
            images=normalise(pixels, config.preprocess),
            image_index=self._tensor(image_index),
            attribute=self._tensor(attribute),
            value=self._tensor(value),
            targets=self._targets(labels),
            triplets=None if config.optimisation.sampling == "batch" else self._tensor(triplets),
        )

    def _targets(self, labels: list[dict[int, list[int]]]) -> Tensor:
        """Return which attributes each picture is labelled with: [B, A]."""
        targets = torch.zeros(len(labels), len(self.task.taxonomy))
        for row, shown in enumerate(labels):
            targets[row, list(shown)] = 1.0
        return targets.to(self.device)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _state(self) -> dict[str, Any]:
        return {
            "trainer": self.trainer.state_dict(),
            "pool": self.pool.state_dict(),
            "generator": self.generator.get_state(),
            "best": self.best,
        }

    def _restore(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            own = Path(name) / state_file(self.rank)
            # A worker that was not there before takes the model from rank 0 and its own fresh draws.
            path = own if own.exists() else Path(name) / state_file(0)
            state = torch.load(path, weights_only=True, map_location="cpu")
        self.trainer.load_state_dict(state["trainer"])
        if own == path:
            self.pool.load_state_dict(state["pool"])
            self.generator.set_state(state["generator"])
        self.best = state["best"]

    def _tell_unusable(self) -> None:
        """Report labels that no triplet can be drawn from; they are left out, not looped over."""
        if self.rank != 0:
            return
        for unusable in self.pool.buffer.unusable():
            if unusable.count:
                text = f"{unusable.attribute}={unusable.value}: {unusable.reason} ({unusable.count} pictures)"
                self.task.board.note.remote(f"left out of the draws on worker 0: {text}")
        if self.pool.unknown_labels:
            shown = ", ".join(f"{name} ({count})" for name, count in self.pool.unknown_labels.most_common(5))
            self.task.board.note.remote(f"labels that the taxonomy does not know, left out: {shown}")


def state_file(rank: int) -> str:
    """Return the name of a rank's state in a checkpoint."""
    return f"state-{rank}.pt"
