"""README's figures of speed in one table: every benchmark of speed, made small, within 20 minutes.

    make bench

Each script runs in a process of its own, with fewer pictures and rounds than its defaults, which measure what
README shows. What it prints is passed on with the seconds since its start. One that fails, or takes longer
than three times what it should, is named at the end, and the others run on; when `--minutes` are over, those
that did not begin are left out and named as well, and the exit code is 1 in all of these cases. A figure that
is not what was asked is said to be missed, with the reason.

Two scripts compare with packages that need an environment of their own below `.benchmarks/`; where one is
missing it is made first, which counts for itself and not among the minutes. The figures of every run lie in
one file.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import tyro
from rich.table import Table

from benchmarks import autofaiss, img2dataset
from benchmarks.environments import NotInstalled, is_ready
from benchmarks.readme_lines import LINES, Bound
from benchmarks.reporting import console, machine, versions
from benchmarks.script_runs import Outcome, Script, run

SCRIPTS = (
    Script("embedder", ("--batch", "8"), 45),
    Script("sharding", ("--num-images", "1024", "--images-per-shard", "128", "--embedded", "16"), 95),
    Script(
        "line",
        ("--num-images", "192", "--images-per-shard", "48", "--rounds", "3", "--no-oversubscription"),
        170,
    ),
    Script(
        "train", ("--num-images", "160", "--buffer-samples", "96", "--triplets", "8", "--rounds", "3"), 70
    ),
    Script(
        "index",
        ("--rows", "10000", "--queries", "100", "--rounds", "2", "--once-above-s", "20", "--limit-s", "120",
         "--budgets", "roomy", "tight"),
        185,
    ),
    Script(
        "search", ("--rows", "120000", "--exact-rows", "100000", "--queries", "100", "--rounds", "3"), 65
    ),
    Script(
        "search",
        ("--rows", "100000", "--max-memory-gib", "0.02", "--queries", "100", "--rounds", "3"),
        140,
        name="search compressed",
    ),
    Script(
        "serve",
        ("--images", "200", "--trunk", "resnet18", "--image-size", "64", "--seconds", "0.7", "--most-callers",
         "16"),
        60,
    ),
    Script("parquet", ("--rows", "20000"), 15),
    Script("growth", ("--num-images", "1000"), 105),
    Script("plan", ("--rows", "1000000"), 40),
    Script("scaling", ("--images-per-worker", "64", "--images-per-shard", "16", "--rounds", "2"), 50),
    Script("second_night", ("--num-images", "400", "--nights", "1"), 55),
)  # fmt: skip
"""In the order in which they run, with about the seconds that each takes on two quiet cores."""
LATE = 3.0
"""A script is ended after so many times the seconds that it should take."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Of another side."""

    script: str
    """Which compares with it."""
    folder: Path
    requirements: Sequence[str]
    install: Callable[[], object]


ENVIRONMENTS = {
    "img2dataset": Environment(
        "sharding",
        img2dataset.FOLDER,
        img2dataset.REQUIREMENTS,
        partial(img2dataset.install, img2dataset.FOLDER.absolute()),
    ),
    "autofaiss": Environment("index", autofaiss.FOLDER, autofaiss.REQUIREMENTS, autofaiss.install),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is run."""

    only: tuple[str, ...] = ()
    """Names of scripts; all where left out."""
    minutes: float = 20.0
    """After so many, no further script begins, and the one that runs is ended."""
    results: Path = Path(".benchmarks/bench.json")
    """File for the figures of all scripts."""

    def __post_init__(self) -> None:
        """Refuse a script that is not there."""
        known = list(dict.fromkeys(script.script for script in SCRIPTS))
        for name in self.only:
            if name not in known:
                raise ValueError(f"only: expected {', '.join(known)}, found {name}")


def main(options: Options) -> None:
    """Run every script, print the table, keep the figures; exit with 1 where one of them gave none."""
    chosen = [script for script in SCRIPTS if not options.only or script.script in options.only]
    prepare({script.script for script in chosen})
    due = sum(script.seconds for script in chosen)
    console.print(f"{len(chosen)} runs, about {due / 60:.0f} minutes on two quiet cores")
    outcomes = run_all(chosen, 60 * options.minutes)
    console.print(table(outcomes))
    say_missed(outcomes)
    keep(outcomes, options.results)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        sys.exit("\n".join(f"bench: {outcome.script.name}: {outcome.error}" for outcome in failed))


def prepare(scripts: set[str]) -> None:
    """Make the environments of other sides that are missing; their scripts say what is left out without."""
    for name, environment in ENVIRONMENTS.items():
        if environment.script not in scripts or is_ready(environment.folder, environment.requirements):
            continue
        console.print(f"making {environment.folder} for {name}, which counts for itself")
        started = time.perf_counter()
        try:
            environment.install()
        except NotInstalled as error:
            console.print(f"{name} cannot be installed; nothing is compared with it: {error}", style="red")
        console.print(f"  took {time.perf_counter() - started:.0f} s")


def run_all(scripts: Sequence[Script], limit_s: float) -> list[Outcome]:
    """Run scripts one after the other until the time is over; those that did not begin have an error."""
    began, outcomes = time.perf_counter(), []
    for number, script in enumerate(scripts, 1):
        left = limit_s - (time.perf_counter() - began)
        if left <= 0:
            late = f"left out: {limit_s / 60:.0f} minutes were over; see --minutes"
            outcomes.append(Outcome(script, error=late))
            continue
        console.print(f"[{number}/{len(scripts)}] {script.command}: about {script.seconds:.0f} s")
        outcome = run(script, min(left, LATE * script.seconds), _say)
        console.print(f"  {outcome.error or 'done'} after {outcome.seconds:.0f} s")
        outcomes.append(outcome)
    console.print(f"all took {(time.perf_counter() - began) / 60:.1f} minutes")
    return outcomes


def table(outcomes: Sequence[Outcome]) -> Table:
    """Return README's lines as found now."""
    made = Table(title="the line at full speed, measured small")
    for name in ("what", "found", "asked", "against", "benchmarks/"):
        made.add_column(name)
    by_run = {outcome.script.name: outcome for outcome in outcomes}
    for line in LINES:
        if line.run not in by_run:
            continue
        outcome = by_run[line.run]
        short = line.missed(outcome.figures)
        asked = ", ".join(f"{each.text}{': missed' if each in short else ''}" for each in line.asked)
        script = " ".join([f"{outcome.script.script}.py", *outcome.script.options[:2]])
        found = line.found(outcome.figures)
        made.add_row(line.what, found, asked, line.against, script, style="red" if short else None)
    return made


def say_missed(outcomes: Sequence[Outcome]) -> None:
    """Say of every figure that was not met what is the most possible, where that is known, and why."""
    for outcome in outcomes:
        for bound in missed(outcome):
            most = outcome.floor.get(bound.figure)
            limit = "" if most is None else f"; the most possible here: {most:.2f}"
            why = bound.why and f"; {bound.why}"
            console.print(
                f"missed: {outcome.script.name} {bound.figure}: found {outcome.figures[bound.figure]:.3g}, "
                f"asked {bound.text}{limit}{why} (docs/performance.md)"
            )


def missed(outcome: Outcome) -> list[Bound]:
    """Return what was asked of a run's figures and not met."""
    lines = (line for line in LINES if line.run == outcome.script.name)
    return [bound for line in lines for bound in line.missed(outcome.figures)]


def keep(outcomes: Sequence[Outcome], results: Path) -> None:
    """Write all figures, with the machine, to a file."""
    runs = {
        outcome.script.name: {
            "command": outcome.script.command,
            "seconds": round(outcome.seconds, 1),
            "error": outcome.error,
            "figures": outcome.figures,
            "floor": outcome.floor,
            "missed": [bound.figure for bound in missed(outcome)],
        }
        for outcome in outcomes
    }
    record = {
        "benchmark": "bench",
        "runs": runs,
        "machine": machine(),
        "versions": versions(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"figures written to {results}")


def _say(seconds: float, line: str) -> None:
    console.out(f"  {seconds:5.0f} s  {line}", highlight=False)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
