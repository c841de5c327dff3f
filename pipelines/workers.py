"""Units of work as plain Ray tasks, and what every kind of worker says when it is lost."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from pipelines.cluster import num_cpus
from pipelines.errors import CorruptShard, StorageUnavailable, WorkersLost
from pipelines.scheduling import TASK_RETRIES, Receipt, Ref, Unit, result_of

ATTEMPTS = TASK_RETRIES + 1
WAIT_S = 1.0
QUEUED = 2
"""Units for each place to work: none waits for the driver, and a cluster that can grow sees the need to."""
LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)


class TaskWorkers:
    """Each unit is a Ray task of a plain function; Ray tries it again where a node or the storage failed."""

    def __init__(self, function: Callable[[Unit], Receipt]) -> None:
        """Wrap `function`, which takes one CPU."""
        self._task = ray_task(function)
        self._running: dict[Ref, Unit] = {}

    @property
    def num_running(self) -> int:
        """Units in flight."""
        return len(self._running)

    def has_room(self) -> bool:
        """Tell whether the cluster as it is now would start another one soon."""
        return len(self._running) < QUEUED * num_cpus()

    def submit(self, unit: Unit) -> None:
        """Start a task."""
        self._running[self._task.remote(unit)] = unit

    def take(self) -> list[tuple[Unit, Receipt]]:
        """Wait for a task to end."""
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=WAIT_S)
        return [(unit, _receipt(unit, ref)) for ref in done for unit in [self._running.pop(ref)]]

    def asked(self) -> str:
        """Say what is in flight."""
        return f"1 CPU for each of {len(self._running)} tasks"

    def cancel(self) -> None:
        """Cancel what is in flight."""
        for ref in self._running:
            ray.cancel(ref)
        self._running.clear()


def ray_task(function: Callable[..., Any]) -> Any:
    """Return a Ray task that is tried again where its node, its worker or the storage failed."""
    return ray.remote(function).options(
        num_cpus=1, max_retries=TASK_RETRIES, retry_exceptions=[StorageUnavailable]
    )


def lost_workers(unit: Unit, error: Exception) -> Exception:
    """Return what is raised where a unit was tried often enough; what the storage says is passed on."""
    if isinstance(error, StorageUnavailable):
        return StorageUnavailable(f"{unit.stage}/{unit.name}: {error}")
    return WorkersLost(
        f"{unit.stage}/{unit.name}: {ATTEMPTS} workers died of this unit of {unit.num_images} pictures, last "
        f"{reason(error)}; expected it to fit a worker's memory: give the nodes more, or lower "
        "--shards.images-per-shard or --index.parts-per-group"
    )


def _receipt(unit: Unit, ref: Ref) -> Receipt:
    """Return what a task made, or raise what went wrong for good, with the unit's name."""
    try:
        return named_result(unit, ref)
    except (*LOST, StorageUnavailable) as error:
        raise lost_workers(unit, error) from error


def named_result(unit: Unit, ref: Ref) -> Receipt:
    """Return a result; what is wrong with stored bytes is raised with the unit's name."""
    try:
        made: Receipt = result_of(ref)
    except CorruptShard as error:
        raise CorruptShard(f"{unit.stage}/{unit.name}: {error}", error.name) from error
    return made


def reason(error: Exception) -> str:
    """Return Ray's many lines, or a worker's traceback, as one sentence that says what happened."""
    last = (str(error).strip().splitlines() or [""])[-1]
    return f"{type(error).__name__}: {last.strip().split('. ')[0].rstrip('.')[:160]}"
