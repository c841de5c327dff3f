"""One way to run units of work on Ray: sharding, embedding and indexing all go through `run_units`.

A unit is named by its inputs' digest and leaves a receipt. A unit whose receipt is valid is not run again, so
a run that was killed and started again finishes the rest and does nothing twice. Ray schedules, restarts and
places; `workers.py` bounds how much is in flight, and this module keeps the results as they finish.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeAlias, TypeVar

import ray
from ray.exceptions import RayTaskError

from agman.errors import AgmanError
from pipelines import cluster
from pipelines.lake import Lake, receipt, short_digest, to_json
from pipelines.storage.objects import FileEntry

Ref: TypeAlias = "ray.ObjectRef[Any]"
T = TypeVar("T")
TASK_RETRIES = 4
"""Of a plain task, by Ray: a lost node and a worker that died cost one each."""
SILENT_S = 60.0


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

    @property
    def num_running(self) -> int:
        """Units that were submitted and not taken yet."""
        ...

    def has_room(self) -> bool:
        """Tell whether another unit would find work soon; more are not to be submitted."""
        ...

    def submit(self, unit: Unit) -> None:
        """Accept a unit."""
        ...

    def take(self) -> list[tuple[Unit, Receipt]]:
        """Wait up to a second for units that have finished."""
        ...

    def asked(self) -> str:
        """Say in words what the cluster was asked for."""
        ...

    def cancel(self) -> None:
        """Give up what is running."""
        ...


def run_units(
    lake: Lake, units: Iterable[Unit], workers: Workers, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Unit, Receipt, bool]]:
    """Run what has no valid receipt, as much at once as the workers have room for.

    Args:
        lake: where.
        units: the work; each is asked for when there is room for it.
        workers: who does it.
        say: told one line where nothing finishes for long.

    Yields:
        (unit, receipt, reused) as they finish, in no order; `reused` where the receipt was already there.

    Raises:
        AgmanError: whatever a unit raised, as its own class; the units in flight are cancelled.
    """
    silence = Silence(say)
    try:
        for unit in units:
            found = valid_receipt(lake, unit)
            if found is not None:
                yield unit, found, True
                continue
            while not workers.has_room():
                yield from _take_finished(lake, workers, silence)
            workers.submit(unit)
        while workers.num_running:
            yield from _take_finished(lake, workers, silence)
    finally:
        workers.cancel()


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
        _check_own(found, unit)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        store.delete(receipt(unit.stage, unit.name))  # a damaged receipt proves nothing: the unit runs again
        return None
    complete = all(store.size(entry.name) == entry.num_bytes for entry in found.files)
    if not complete:
        forget(lake, unit, found)
    return found if complete else None


def _check_own(found: Receipt, unit: Unit) -> None:
    """Refuse a receipt that lists files of others: what does not hold is deleted, and so would they be."""
    foreign = [entry.name for entry in found.files if PurePosixPath(entry.name).stem != unit.name]
    if found.unit != unit.name or foreign:
        raise ValueError(f"receipt of {unit.name}: lists {foreign[:1]} of {found.unit}")


def forget(lake: Lake, unit: Unit, found: Receipt) -> None:
    """Drop a receipt that does not hold, and its files: the unit will be made again under the same names."""
    for entry in found.files:
        lake.store.delete(entry.name)
    lake.store.delete(receipt(unit.stage, unit.name))


class Silence:
    """Says what a run waits for, after a minute and then ever more seldom: silence looks like a hang."""

    def __init__(self, say: Callable[[str], None], after_s: float | None = None) -> None:
        """Begin; `after_s` is how long nothing need be said, a minute if left out."""
        self._say = say
        self._after_s = SILENT_S if after_s is None else after_s
        self.end()

    def end(self) -> None:
        """Something finished."""
        self._since, self._silent_s = time.monotonic(), self._after_s

    def go_on(self, asked: str) -> None:
        """Nothing finished; `asked` tells what for."""
        waited = time.monotonic() - self._since
        if waited >= self._silent_s:
            self._silent_s *= 2
            self._say(
                f"  nothing finished for {waited:.0f} s; asked for {asked}; the cluster has "
                f"{cluster.resources_line()}"
            )


def _take_finished(lake: Lake, workers: Workers, silence: Silence) -> Iterator[tuple[Unit, Receipt, bool]]:
    taken = workers.take()
    if taken:
        silence.end()
    else:
        silence.go_on(workers.asked())
    for unit, made in taken:
        name = receipt(unit.stage, unit.name)
        if not lake.store.put_if_absent(name, to_json(made.to_json())):
            made = Receipt.from_json(json.loads(lake.store.read(name).body))
        yield unit, made, False


def result_of(ref: Ref) -> Any:
    """Return a task's result, or raise what it raised itself: one line, not the worker's traceback."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, AgmanError) else error) from error
