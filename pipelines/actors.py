"""Units of work on a pool of Ray actors that hold a model, on machines that come and go.

Ray starts an actor again once a node has room for it. What Ray does not do is give the work of a lost actor
to another one: so units wait in the driver, only an actor that has loaded its model is given any, and those
of an actor that died or cannot be reached go to the next one that is free. A lost node costs the units that
ran on it, and actors that still wait for a machine hold nothing up.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from pipelines.errors import StorageUnavailable, WorkersLost
from pipelines.scheduling import Receipt, Ref, Unit, result_of
from pipelines.workers import ATTEMPTS, LOST, QUEUED, WAIT_S, lost_workers, named_result, reason


@dataclass(slots=True, eq=False)
class _Job:
    """A unit on its way."""

    unit: Unit
    attempts: int = 0
    """Workers that died of it, as far as can be told."""
    prepared: "Ref | None" = None
    """What the worker is given beside the unit."""


@dataclass(slots=True, eq=False)
class _Worker:
    """An actor as the driver knows it."""

    actor: Any
    call: "Ref | None" = None
    """That it lives, then that it has loaded; None where it works, or could not be reached just now."""
    is_alive: bool = False
    is_loaded: bool = False
    failures: int = 0
    """Times in a row that it did not get through loading."""
    ask_at: float = 0.0
    """When to ask again whether it lives, on the monotonic clock."""
    jobs: dict[Ref, _Job] = field(default_factory=dict)
    """Given to it, oldest first: that one is running."""


class ActorWorkers:
    """Units go to the least busy of a number of actors with methods `load()` and `run(unit)`.

    Where units are prepared, a task makes of each what `run(unit, prepared)` takes by reference, at most
    `num_prepared` ahead of the actors.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        count: int,
        *,
        asked: str = "",
        prepare: Callable[[Unit], Ref] | None = None,
        num_prepared: int = 0,
    ) -> None:
        """Start the actors.

        Args:
            start: starts one; with max_restarts=-1 so that Ray brings it back, and max_task_retries=0 so that
                its units do not wait for that.
            count: how many.
            asked: what one takes of a machine, in words.
            prepare: starts the task that prepares a unit.
            num_prepared: most units in preparation or prepared and not given out yet.
        """
        self._start = start
        self._asked = asked
        self._prepare = prepare
        self._num_prepared = num_prepared
        self._workers = [_Worker(start()) for _ in range(count)]
        self._waiting: deque[_Job] = deque()
        self._preparing: dict[Ref, _Job] = {}

    @property
    def num_running(self) -> int:
        """Units that wait, are prepared or run."""
        return len(self._waiting) + len(self._preparing) + sum(len(each.jobs) for each in self._workers)

    def has_room(self) -> bool:
        """Tell whether an actor is there for another unit, or it may be prepared meanwhile."""
        if self._prepare is not None:
            return len(self._waiting) + len(self._preparing) < self._num_prepared
        free = sum(QUEUED - len(worker.jobs) for worker in self._workers if worker.is_loaded)
        return len(self._waiting) < free

    def submit(self, unit: Unit) -> None:
        """Prepare the unit, or give it to an actor."""
        self._begin(_Job(unit))
        self._deal()

    def take(self) -> list[tuple[Unit, Receipt]]:
        """Wait for something to end; what was lost is given out again."""
        self._ask()
        refs = [worker.call for worker in self._workers if worker.call is not None]
        refs += [*self._preparing, *(ref for worker in self._workers for ref in worker.jobs)]
        if not refs:
            time.sleep(WAIT_S)
            return []
        # What was prepared stays where it is.
        done, _ = ray.wait(refs, num_returns=1, timeout=WAIT_S, fetch_local=False)
        made = [found for ref in done for found in self._ended(ref)]
        self._deal()
        return made

    def asked(self) -> str:
        """Say how many actors there should be, and how many there are."""
        loaded = sum(worker.is_loaded for worker in self._workers)
        ahead = f" and {len(self._preparing)} tasks of 1 CPU" if self._preparing else ""
        return f"{len(self._workers)} workers of {self._asked}, {loaded} of them ready{ahead}"

    def cancel(self) -> None:
        """Cancel what is in flight and end the actors: the next stage needs their machines."""
        for ref in self._preparing:
            ray.cancel(ref)
        for worker in self._workers:
            ray.kill(worker.actor)
            worker.jobs.clear()
        self._waiting.clear()
        self._preparing.clear()

    def _begin(self, job: _Job) -> None:
        """Start preparing a unit, or let it wait for an actor."""
        if self._prepare is None:
            self._waiting.append(job)
        else:
            job.prepared = self._prepare(job.unit)
            self._preparing[job.prepared] = job

    def _deal(self) -> None:
        """Give what waits to loaded actors with a free place, the least busy first."""
        while self._waiting:
            loaded = [worker for worker in self._workers if worker.is_loaded]
            worker = min(loaded, key=lambda each: len(each.jobs), default=None)
            if worker is None or len(worker.jobs) >= QUEUED:
                return
            job = self._waiting.popleft()
            given = () if job.prepared is None else (job.prepared,)
            worker.jobs[worker.actor.run.remote(job.unit, *given)] = job

    def _ask(self) -> None:
        """Ask those that do not work whether they live."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.call is None and not worker.is_loaded and now >= worker.ask_at:
                worker.call = worker.actor.__ray_ready__.remote()

    def _ended(self, ref: Ref) -> list[tuple[Unit, Receipt]]:
        """Note what a reference says; returns the unit that it completes, if any."""
        if ref in self._preparing:  # what went wrong there is raised where it is used
            self._waiting.append(self._preparing.pop(ref))
            return []
        for worker in self._workers:
            if ref == worker.call:
                self._answered(worker, ref)
                return []
            if ref in worker.jobs:
                return self._ran(worker, ref)
        return []

    def _answered(self, worker: _Worker, ref: Ref) -> None:
        """Note that an actor lives or has loaded: one that was lost and came back does both again."""
        worker.call = None
        try:
            result_of(ref)
        except (RayActorError, OutOfMemoryError, StorageUnavailable) as error:
            worker.failures += worker.is_alive or isinstance(error, ActorDiedError)
            if worker.failures >= ATTEMPTS:
                raise WorkersLost(
                    f"loading the model: {ATTEMPTS} times in a row a worker of {self._asked} failed at it, "
                    f"last {reason(error)}; expected a node with enough memory and a lake that answers"
                ) from error
            self._lose(worker, error)
            return
        if worker.is_alive:
            worker.is_loaded, worker.failures = True, 0
        else:
            worker.is_alive, worker.call = True, worker.actor.load.remote()

    def _ran(self, worker: _Worker, ref: Ref) -> list[tuple[Unit, Receipt]]:
        job = worker.jobs[ref]
        try:
            made = named_result(job.unit, ref)
        except RayActorError as error:
            self._lose(worker, error)
        except (*LOST, StorageUnavailable) as error:
            del worker.jobs[ref]
            self._again(job, error)
        else:
            del worker.jobs[ref]
            return [(job.unit, made)]
        return []

    def _lose(self, worker: _Worker, error: Exception) -> None:
        """Take back what an actor had; the oldest of its units may be what it died of."""
        jobs, worker.jobs = worker.jobs, {}
        worker.is_alive = worker.is_loaded = False
        worker.ask_at = time.monotonic() + WAIT_S
        if isinstance(error, ActorDiedError):  # for good: Ray does not start it again
            worker.actor = self._start()
        for place, (ref, job) in enumerate(jobs.items()):
            ray.cancel(ref)
            if place == 0 and not getattr(error, "preempted", False):
                self._again(job, error)
            else:
                self._waiting.appendleft(job)

    def _again(self, job: _Job, error: Exception) -> None:
        """Give a unit out anew, unless it was tried often enough."""
        job.attempts += 1
        if job.attempts >= ATTEMPTS:
            raise lost_workers(job.unit, error) from error
        self._begin(job)
