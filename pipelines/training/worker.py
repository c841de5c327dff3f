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
STATE_FILE = "state.pt"
POST_EVERY_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerTask:
    """What the driver gives every worker."""

    config: TrainConfig
    pictures: Any
    """Reference to the `TrainingPictures`; each worker takes its shares."""
    listed: Any
    """Reference to the `ListedTriplets`, or to None."""
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
            ray.get(task.pictures),
            ray.get(task.listed),
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
        self._tell_start()
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

    def _tell_start(self) -> None:
        """Tell that work begins, and with how many where that is not what was asked, or where it goes on."""
        if self.rank == 0 and (self.learner.step or self.num_ranks < self.task.config.num_workers):
            self.task.board.note.remote(f"{self.num_ranks} workers go on from step {self.learner.step}")

    def _tell_notes(self) -> None:
        """Tell what is left out here, as far as it is news: a pool that flows meets more pictures."""
        for share, batches in self.learner.shares.items():
            for note in batches.pool.notes():
                told = f"share {share}: {note}"
                if told not in self._told:
                    self._told.add(told)
                    self.task.board.note.remote(told)

    def _watch_time(self) -> None:
        """Look how much of the time limit is used, by rank 0's clock: all stop together."""
        if self.clock.limit_s:
            self._time_share = self._of_rank_0(self.clock.share(time.time()))

    def _validate_and_report(self, figures: dict[str, float]) -> None:
        """Judge the model on rank 0, tell all ranks, and keep the state of everything."""
        score = self._of_rank_0(self._score() if self.rank == 0 else 0.0)
        self.patience.record(score)
        with tempfile.TemporaryDirectory() as name:
            self._write_state(Path(name))
            metrics = {**figures, VALIDATION: score, "step": self.learner.step}
            # It counts once all ranks have stored their files: a half of it is never gone on from.
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(name))
        self._post({**figures, VALIDATION: score})

    def _write_state(self, folder: Path) -> None:
        """Write this rank's shares; rank 0 adds what is the same for all, and the model."""
        learner, task = self.learner, self.task
        for share, batches in learner.shares.items():
            torch.save(batches.state_dict(), folder / share_file(share))
        if self.rank:
            return
        state = {
            "trainer": learner.trainer.state_dict(),
            "patience": self.patience.state_dict(),
            "clock": self.clock.state_dict(time.time()),
        }
        torch.save(state, folder / STATE_FILE)
        save_model(
            learner.model,
            task.taxonomy,
            task.config.preprocess,
            folder / MODEL_FOLDER,
            extra={"run": task.run, "step": learner.step, "seed": task.config.optimisation.seed},
        )

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
            if VALIDATION in figures:
                self.task.board.keep.remote()
            learner = self.learner
            work = {"waited_s": learner.waited_s, "worked_s": learner.worked_s, "images": learner.num_images}
            self.task.board.post.remote(
                {"step": learner.step, **figures, **work, **self.patience.state_dict()}
            )

    def _restore(self) -> None:
        """Go on from the checkpoint, with whichever shares are this rank's now."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            state = _loaded(Path(name) / STATE_FILE)
            for share, batches in self.learner.shares.items():
                batches.load_state_dict(_loaded(Path(name) / share_file(share)))
        self.learner.trainer.load_state_dict(state["trainer"])
        self.patience.load_state_dict(state["patience"])
        self.clock.load_state_dict(state["clock"])
        self._watch_time()  # nothing is left to do where an earlier attempt used all of it


def share_file(share: int) -> str:
    """Return the name of a share's state in a checkpoint."""
    return f"share-{share}.pt"


def _loaded(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def _distributed(module: nn.Module) -> nn.Module:
    wrapped: nn.Module = ray.train.torch.prepare_model(module, move_to_device=True)
    return wrapped
