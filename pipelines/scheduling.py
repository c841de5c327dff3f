"""One way to run units of work on Ray: sharding, embedding and indexing all go through `run_units`.

A unit is named by its inputs' digest and leaves a receipt. A unit whose receipt is valid is not run again, so
a run that was killed and started again finishes the rest and does nothing twice. Ray schedules, retries,
restarts and places; this module bounds how much is in flight and takes results as they finish.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from typing import Any, Protocol, TypeAlias, TypeVar

import ray
from ray.exceptions import RayTaskError

from agman.errors import AgmanError
from pipelines.errors import CorruptShard, StorageUnavailable
from pipelines.lake import Lake, receipt, short_digest, to_json
from pipelines.storage.objects import FileEntry

Ref: TypeAlias = "ray.ObjectRef[Any]"
T = TypeVar("T")
TASK_RETRIES = 4
WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One piece of work: what it is called, what it is given, how big it is."""

    stage: str
    """Folder of its receipt, such as shards/<dataset>."""
    name: str
    """Digest of everything the result depends on."""
    payload: Any = None
    """What the worker function is given; travels to the worker."""
    num_images: int = 0
    """For progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Proof that a unit is complete: its files with size, rows and digest, and what was counted."""

    unit: str
    files: tuple[FileEntry, ...]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Worker time by part of the work: read, decode, model, write."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What later stages need to know, as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Receipt":
        """Read what `to_json` gave."""
        return cls(**{**value, "files": tuple(FileEntry(**entry) for entry in value["files"])})


class Workers(Protocol):
    """Where units run: Ray tasks, or a pool of Ray actors that hold a model."""

    window: int
    """Most units in flight."""

    def submit(self, unit: Unit) -> Ref:
        """Start a unit; the reference resolves to its `Receipt`."""
        ...

    def finished(self, ref: Ref) -> None:
        """Learn that a unit's result was taken."""
        ...


class TaskWorkers:
    """Each unit is a Ray task of a plain function."""

    def __init__(self, function: Callable[[Unit], Receipt], *, window: int, num_cpus: float = 1) -> None:
        """Wrap `function`; lost nodes and transient storage errors are retried by Ray."""
        self.window = window
        self._task = ray.remote(function).options(
            num_cpus=num_cpus, max_retries=TASK_RETRIES, retry_exceptions=[StorageUnavailable]
        )

    def submit(self, unit: Unit) -> Ref:
        """Start a task."""
        ref: Ref = self._task.remote(unit)
        return ref

    def finished(self, ref: Ref) -> None:
        """Nothing to note: Ray balances tasks itself."""


class ActorWorkers:
    """Units go to the least busy of a fixed set of Ray actors, each with a method `run(unit)`."""

    def __init__(self, actors: list[Any], *, per_actor: int = 2) -> None:
        """Keep the actors; `per_actor` units are queued on each so that none waits for the driver."""
        self.window = per_actor * len(actors)
        self._actors = actors
        self._busy = [0] * len(actors)
        self._place: dict[Ref, int] = {}

    def submit(self, unit: Unit) -> Ref:
        """Queue the unit on the least busy actor."""
        index = self._busy.index(min(self._busy))
        ref: Ref = self._actors[index].run.remote(unit)
        self._busy[index] += 1
        self._place[ref] = index
        return ref

    def finished(self, ref: Ref) -> None:
        """Free the actor's place."""
        self._busy[self._place.pop(ref)] -= 1


def run_units(lake: Lake, units: Iterable[Unit], workers: Workers) -> Iterator[tuple[Unit, Receipt, bool]]:
    """Run what has no valid receipt, at most `workers.window` units at once.

    Yields:
        (unit, receipt, reused) as they finish, in no order; `reused` where the receipt was already there.

    Raises:
        AgmanError: whatever a unit raised, as its own class; the units in flight are cancelled.
    """
    waiting = deque[tuple[Unit, Receipt, bool]]()
    running: dict[Ref, Unit] = {}
    try:
        for unit in units:
            found = valid_receipt(lake, unit)
            if found is not None:
                waiting.append((unit, found, True))
            else:
                while len(running) >= workers.window:
                    waiting.extend(_take_finished(lake, running, workers))
                running[workers.submit(unit)] = unit
            while waiting:
                yield waiting.popleft()
        while running:
            yield from _take_finished(lake, running, workers)
    finally:
        for ref in running:
            ray.cancel(ref)


def run_tasks(
    submit: Callable[[T], list[Ref]], items: Iterable[T], window: int
) -> Iterator[tuple[T, list[Ref]]]:
    """Run a Ray task for each item, at most `window` at once, for results that need no receipt.

    Args:
        submit: starts a task and returns the references to its results, at least one.
        items: what there is to do.
        window: most tasks in flight.

    Yields:
        (item, references) of each task that has ended, in no order. Nothing of it is kept here: results that
        the caller drops are freed. What a task raised is raised by `result_of`.
    """
    remaining = iter(items)
    running: dict[Ref, tuple[T, list[Ref]]] = {}
    try:
        while True:
            for item in islice(remaining, window - len(running)):
                refs = submit(item)
                running[refs[0]] = (item, refs)
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for ref in done:
                yield running.pop(ref)
    finally:
        for ref in running:
            ray.cancel(ref)


def fresh_unit(unit: Unit, is_spent: Callable[[Unit], bool]) -> Unit:
    """Return the unit under the first of its names that is not spent: its own, then one for each attempt."""
    names = (short_digest([unit.name, attempt]) if attempt else unit.name for attempt in count())
    return next(named for named in (replace(unit, name=name) for name in names) if not is_spent(named))


def valid_receipt(lake: Lake, unit: Unit) -> Receipt | None:
    """Return the unit's receipt if every file that it lists is in the lake with its size.

    Sizes catch files that are gone or half; digests are compared where a file is read.
    """
    store = lake.store
    try:
        found = Receipt.from_json(json.loads(store.read(receipt(unit.stage, unit.name)).body))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        store.delete(receipt(unit.stage, unit.name))  # a damaged receipt proves nothing: the unit runs again
        return None
    complete = all(store.size(entry.name) == entry.num_bytes for entry in found.files)
    if not complete:
        forget(lake, unit, found)
    return found if complete else None


def forget(lake: Lake, unit: Unit, found: Receipt) -> None:
    """Drop a receipt that does not hold, and its files: the unit will be made again under the same names."""
    for entry in found.files:
        lake.store.delete(entry.name)
    lake.store.delete(receipt(unit.stage, unit.name))


def _take_finished(
    lake: Lake, running: dict[Ref, Unit], workers: Workers
) -> Iterator[tuple[Unit, Receipt, bool]]:
    done, _ = ray.wait(list(running), num_returns=1, timeout=WAIT_S)
    for ref in done:
        unit = running.pop(ref)
        workers.finished(ref)
        try:
            result: Receipt = result_of(ref)
        except CorruptShard as error:
            raise CorruptShard(f"{unit.stage}/{unit.name}: {error}", error.name) from error
        except StorageUnavailable as error:
            raise StorageUnavailable(f"{unit.stage}/{unit.name}: {error}") from error
        name = receipt(unit.stage, unit.name)
        if not lake.store.put_if_absent(name, to_json(result.to_json())):
            result = Receipt.from_json(json.loads(lake.store.read(name).body))
        yield unit, result, False


def result_of(ref: Ref) -> Any:
    """Return a task's result, or raise what it raised itself: one line, not the worker's traceback."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, AgmanError) else error) from error
