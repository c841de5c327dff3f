"""Builds of an index by several sides in turn, of which some take so long that one must do."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.reporting import console


@dataclass(frozen=True, slots=True)
class Built:
    """One build of one side, or the medians of several."""

    seconds: float
    recall: float
    disk_bytes: float
    memory_bytes: float
    query_ms: float
    """Median of single queries, by FAISS alone."""
    kind: str
    tuning_s: float = 0.0
    """Of tuning the search afterwards, where that is no part of the build."""
    rounds: int = 1
    """Builds that it stands for."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A build that was not done within its time."""

    seconds: float


Side = Callable[[], Built | GivenUp]


def in_rounds(sides: Mapping[str, Side], rounds: int, once_above_s: float) -> dict[str, Built | GivenUp]:
    """Build every side in turn; returns medians. One that takes long, or is given up, is built once."""
    found: dict[str, list[Built | GivenUp]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            if number and (isinstance(found[name][0], GivenUp) or _taken(found[name][0]) > once_above_s):
                continue
            started = time.perf_counter()
            found[name].append(side())
            console.print(f"round {number + 1} of {rounds}: {name}, {time.perf_counter() - started:.0f} s")
    return {name: median(each) for name, each in found.items()}


def _taken(build: Built | GivenUp) -> float:
    return build.seconds + (build.tuning_s if isinstance(build, Built) else 0.0)


def median(rounds: Sequence[Built | GivenUp]) -> Built | GivenUp:
    """Return the rounds' medians, figure by figure."""
    built = [each for each in rounds if isinstance(each, Built)]
    if len(built) < len(rounds):
        return next(each for each in rounds if isinstance(each, GivenUp))
    names = [name for name in asdict(built[0]) if name not in ("kind", "rounds")]
    medians = {name: statistics.median(getattr(each, name) for each in built) for name in names}
    return replace(built[0], **medians, rounds=len(built))
