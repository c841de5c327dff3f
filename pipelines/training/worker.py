"""What each Ray Train worker does around its `Learner`: validate, stop with the others, keep its state."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn

from agman.checkpoint import save_model
from agman.errors import AgmanError
from agman.taxonomy import Taxonomy
from pipelines.errors import StorageUnavailable
from pipelines.training.config import TrainConfig
from pipelines.training.curves import VALIDATION
from pipelines.training.learner import Clock, Learner, Patience
from pipelines.validation import Validation, validate

MODEL_FOLDER = "model"
POST_EVERY_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerTask:
    """What the driver gives every worker."""

    config: TrainConfig
    dataset: Any
    """Reference to the `Dataset`; each worker takes its share of the tars."""
    taxonomy: Taxonomy
    validation: Any
    """Reference to the `Validation`."""
    board: Any
    """Handle of the `Board`."""
    run: str
    """Name of the run's folder; it holds a digest of config, pictures and labels."""
    started: float
    """Wall-clock time at which this attempt began."""


def train_worker(loop: dict[Any, Any]) -> None:
    """Run Ray Train's loop on one worker; every rank reports equally often.

    A refusal of ours fails this worker, since only that frees ranks that wait for it. Ray Train then starts
    all again; they end at once, and the driver raises what the board holds. Deaths are tried again as usual.

    Args:
        loop: the `WorkerTask` under "task": Ray Train hands over a dict.
    """
    task: WorkerTask = loop["task"]
    if ray.get(task.board.refusal.remote()) is not None:
        return
    try:
        worker = Worker(task)
        while not worker.is_done():
            worker.train_step()
    except StorageUnavailable:
        raise
    except AgmanError as error:
        ray.get(task.board.refuse.remote(error))
        raise


class Worker:
    """One rank among others."""

    def __init__(self, task: WorkerTask) -> None:
        """Build everything, then go on from the checkpoint if there is one."""
        context = ray.train.get_context()
        self.task = task
        self.rank, self.num_ranks = context.get_world_rank(), context.get_world_size()
        torch.set_num_threads(task.config.cpus_per_worker)
        self.device = ray.train.torch.get_device()
        self.learner = Learner(
            task.config,
            task.taxonomy,
            ray.get(task.dataset),
            rank=self.rank,
            num_ranks=self.num_ranks,
            device=self.device,
            wrap=_distributed,
        )
        self.patience = Patience(task.config.patience)
        self.clock = Clock(60 * task.config.max_minutes, task.started)
        self._time_share = 0.0
        self._restore()
        self._told: set[str] = set()
        self._tell_notes()

    def is_done(self) -> bool:
        """Tell whether the steps are done, the time is over or validation has stopped improving."""
        is_over = self.learner.step >= self.task.config.steps
        return is_over or self._time_share >= 1 or self.patience.is_spent

    def train_step(self) -> None:
        """Learn from one batch; validate and report where that is due."""
        config = self.task.config
        figures = self.learner.learn(self._time_share)
        self._watch_time()
        if self.learner.step % POST_EVERY_STEPS == 0:
            self._post(figures)
        if self.is_done() or self.learner.step % config.validate_every == 0:
            self._validate_and_report(figures)
        if self.is_done():
            self._tell_notes()

    def _tell_notes(self) -> None:
        """Tell what this rank leaves out, as far as it is news: a pool that flows meets more pictures."""
        for note in self.learner.pool.notes():
            if note not in self._told:
                self._told.add(note)
                self.task.board.note.remote(f"worker {self.rank}: {note}")

    def _watch_time(self) -> None:
        """Look how much of the time limit is used, by rank 0's clock: all stop together."""
        if self.clock.limit_s:
            self._time_share = self._of_rank_0(self.clock.share(time.time()))

    def _validate_and_report(self, figures: dict[str, float]) -> None:
        """Judge the model on rank 0, tell all ranks, and keep every rank's state."""
        score = self._of_rank_0(self._score() if self.rank == 0 else 0.0)
        self.patience.record(score)
        learner, task = self.learner, self.task
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            state = {
                **learner.state_dict(),
                "patience": self.patience.state_dict(),
                "clock": self.clock.state_dict(time.time()),
            }
            torch.save(state, folder / state_file(self.rank))
            if self.rank == 0:
                save_model(
                    learner.model,
                    task.taxonomy,
                    task.config.preprocess,
                    folder / MODEL_FOLDER,
                    extra={"run": task.run, "step": learner.step, "seed": task.config.optimisation.seed},
                )
            metrics = {**figures, VALIDATION: score, "step": learner.step}
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        self._post({**figures, VALIDATION: score})

    def _score(self) -> float:
        validation: Validation = ray.get(self.task.validation)
        return validate(self.learner.model, validation, self.task.config.preprocess)

    def _of_rank_0(self, value: float) -> float:
        """Give every rank the number that rank 0 has."""
        if self.num_ranks == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return float(shared.item())

    def _post(self, figures: dict[str, float]) -> None:
        """Tell the driver where rank 0 is."""
        if self.rank == 0:
            learner = self.learner
            work = {"waited_s": learner.waited_s, "worked_s": learner.worked_s, "images": learner.num_images}
            self.task.board.post.remote(
                {"step": learner.step, **figures, **work, **self.patience.state_dict()}
            )

    def _restore(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            own = Path(name) / state_file(self.rank)
            # A worker that was not there before takes the model from rank 0 and its own fresh draws.
            path = own if own.exists() else Path(name) / state_file(0)
            state = torch.load(path, weights_only=True, map_location="cpu")
        self.learner.load_state_dict(state, is_own=own == path)
        self.patience.load_state_dict(state["patience"])
        self.clock.load_state_dict(state["clock"])
        self._watch_time()  # nothing is left to do where an earlier attempt used all of it


def state_file(rank: int) -> str:
    """Return the name of a rank's state in a checkpoint."""
    return f"state-{rank}.pt"


def _distributed(module: nn.Module) -> nn.Module:
    wrapped: nn.Module = ray.train.torch.prepare_model(module, move_to_device=True)
    return wrapped
