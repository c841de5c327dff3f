"""What a run says while it works and what it leaves behind.

The driver alone reports: done of total, images per second, time left, quarantined. On a terminal that is a
live bar; elsewhere a line at most every 30 s and one at the end of each stage, as JSON where
`AGMAN_LOG=json` asks for it (a cluster's log collector). On a cluster the same figures go to Prometheus
(`metrics.py`). Every run leaves `runs/<run>/report.json`.
"""

import json
import logging
import os
import sys
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from agman.errors import AgmanError, InvalidInput
from pipelines import metrics
from pipelines.errors import OutOfTime
from pipelines.lake import Lake, digest_of, to_json
from pipelines.redaction import redacted, shown_uri, without_secrets

LINE_EVERY_S = 30.0
LOG_WIDTH = 140
EXIT_FAILED = 1
EXIT_INVALID_INPUT = 2


@dataclass(slots=True)
class StageTimes:
    """One stage of a run as it is reported."""

    name: str
    unit: str = "images"
    total: int = 0
    done: int = 0
    reused: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    parts: Counter[str] = field(default_factory=Counter)
    """Worker seconds by part of the work: read, decode, model, write."""

    def line(self) -> str:
        """Say how far the stage is."""
        if self.total <= 1:
            return f"{self.name}: {self.seconds:.1f} s"
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        said = [f"{self.name}: {self.done}/{self.total} {self.unit}", f"{rate:.{0 if rate >= 10 else 1}f}/s"]
        if 0 < self.done < self.total:
            said.append(f"{(self.total - self.done) / max(rate, 1e-9):.0f} s left")
        said.append(f"{self.seconds:.1f} s")
        said += [f"{self.reused} reused"] if self.reused else []
        said += [f"{self.quarantined} quarantined"] if self.quarantined else []
        return ", ".join(said)


class Run:
    """One job at work."""

    def __init__(self, job: str, config: Any, lake: Lake | None) -> None:
        """Name the run; nothing is written until it ends."""
        self.job = job
        self.lake = lake
        self.config: dict[str, Any] = redacted(asdict(config))
        self.id = f"{job}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
        self.stages: list[StageTimes] = []
        self.results: dict[str, Any] = {}
        self.outcome = "done"
        """How a run that ends well is counted: a night tells `published` from `unchanged`."""
        self.status = "crashed"
        """How it ended; what is not ours to name is a crash."""
        # A log has no width of its own: tables there get enough for their columns.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Tell a person one thing, without what may be secret in it."""
        text = without_secrets(text)
        if _as_json():
            self._json_line({"message": text})
        else:
            self.console.print(text, soft_wrap=True, markup=False)

    def headline(self, text: str) -> None:
        """Begin a part of the run."""
        text = without_secrets(text)
        if _as_json():
            self._json_line({"message": text})
        else:
            self.console.print(text, style="bold", markup=False)

    def show(self, table: Table) -> None:
        """Print a table of results."""
        self.console.print(table)

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "images") -> Iterator["Stage"]:
        """Time a stage and show its progress."""
        times = StageTimes(name, unit, total)
        self.stages.append(times)
        with _reporter(self, times) as report:
            stage = Stage(times, report, self.job)
            stage.began()
            try:
                yield stage
            finally:
                times.seconds = stage.elapsed()
                stage.ended()
        if _as_json():
            self._json_line(asdict(times))
        else:
            self.console.print(f"  [green]✓[/] {escape(times.line())}")

    def seconds(self) -> float:
        """Return the time since the run began."""
        return time.monotonic() - self._started

    def timings(self) -> dict[str, Any]:
        """Return the stages, the workers' shares and the line that names the bottleneck."""
        parts: Counter[str] = Counter()
        for stage in self.stages:
            parts.update(stage.parts)
        images = sum(stage.done - stage.reused for stage in self.stages if stage.name.startswith("embed"))
        embedding = sum(stage.seconds for stage in self.stages if stage.name.startswith("embed"))
        return {
            "stages": [
                {
                    "name": s.name,
                    "seconds": round(s.seconds, 2),
                    "units": s.done,
                    "images": s.done,
                    "parts": _shares(s.parts),
                }
                for s in self.stages
            ],
            "parts": _shares(parts),
            "bottleneck": bottleneck(parts),
            "images_per_s": round(images / embedding, 1) if embedding and images else 0.0,
            "seconds": round(self.seconds(), 2),
        }

    def line(self, times: StageTimes) -> None:
        """Print where a stage is, for a log."""
        if _as_json():
            self._json_line(asdict(times))
        else:
            self.console.print("  " + times.line())

    def leave_report(self, status: str) -> None:
        """Write `runs/<run>/report.json`."""
        if self.lake is None:
            return
        report = {
            "run": self.id,
            "job": self.job,
            "status": status,
            "config": self.config,
            "config_digest": digest_of(self.config),
            "timings": self.timings(),
            **self.results,
        }
        self.lake.store.put_if_absent(f"runs/{self.id}/report.json", to_json(redacted(report)))

    def count(self) -> None:
        """Tell Prometheus how the run ended, where there is a cluster whose figures are kept.

        The work is over and its connection closed, so this takes one of its own.
        """
        if self.lake is None or not metrics.is_kept():
            return
        from pipelines.cluster import connected

        points = metrics.of_end(self.job, shown_uri(self.lake.url), self.status, time.time())
        try:
            with connected():
                metrics.record(*points, wait=True)
        except OSError as error:
            self.say(f"  the end of this run was not counted: {error}")

    def _json_line(self, value: Mapping[str, Any]) -> None:
        line = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "run": self.id, **value}
        self.console.out(json.dumps(line, default=str))


class Stage:
    """The open end of a stage that the work reports to."""

    def __init__(self, times: StageTimes, report: Any, job: str) -> None:
        """Keep the figures and who shows them."""
        self.times = times
        self._report = report
        self._tags = {"job_name": job, "stage": times.name}
        self._started = time.monotonic()

    def began(self) -> None:
        """Tell Prometheus that work goes on from now."""
        metrics.record(
            (metrics.STAGE_RUNNING, 1, self._tags), (metrics.PROGRESS_TIME, time.time(), self._tags)
        )

    def ended(self) -> None:
        """Tell Prometheus that it is over, however it ended."""
        metrics.record(
            (metrics.STAGE_SECONDS, self.elapsed(), self._tags),
            (metrics.STAGE_RUNNING, 0, self._tags),
            wait=True,
        )

    def elapsed(self) -> float:
        """Return seconds since the stage began."""
        return time.monotonic() - self._started

    def advance(self, done: int, *, reused: bool = False, quarantined: int = 0, note: str = "") -> None:
        """Count finished images."""
        self.times.done += done
        self.times.reused += done if reused else 0
        self.times.quarantined += quarantined
        self.times.seconds = self.elapsed()
        self._report(note)
        metrics.record((metrics.PROGRESS_TIME, time.time(), self._tags))
        if self.times.unit == "images":
            metrics.record(
                (metrics.IMAGES, done, self._tags),
                (metrics.REUSED, done if reused else 0, self._tags),
                (metrics.QUARANTINED, quarantined, self._tags),
            )
        elif self.times.unit == "steps":
            metrics.record((metrics.STEP, self.times.done, {"job_name": self._tags["job_name"]}))

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add a worker's time by part of the work."""
        self.times.parts.update(seconds)
        metrics.record(
            *(
                (metrics.WORKER_SECONDS, spent, {**self._tags, "part": part})
                for part, spent in seconds.items()
            )
        )

    def stored(self, num_bytes: int) -> None:
        """Count what a unit put into the lake."""
        metrics.record((metrics.STORED_BYTES, num_bytes, self._tags))


@contextmanager
def run(job: str, config: Any, lake: Lake | None = None) -> Iterator[Run]:
    """Run a job: quiet libraries, progress, a report at the end, one line for a person's mistake.

    A person's mistake ends the process with 2, any other refusal of ours with 1; both say one line. What is
    not ours keeps its traceback, because then a programmer must look.
    """
    quiet()
    current = Run(job, config, lake)
    try:
        yield current
    except InvalidInput as error:
        current.status = "refused"
        fail(job, error)
        raise SystemExit(EXIT_INVALID_INPUT) from None
    except (NotADirectoryError, IsADirectoryError, PermissionError) as error:
        current.status = "refused"
        fail(job, InvalidInput(f"{error.filename or error}: {error.strerror}; is the path right?"))
        raise SystemExit(EXIT_INVALID_INPUT) from None
    except OutOfTime as error:
        current.say(f"{job}: {error}")
        current.leave_report("unfinished")
        current.status = "unfinished"
    except AgmanError as error:
        current.status = "failed"
        current.results["error"] = f"{type(error).__name__}: {error}"
        current.leave_report("failed")
        fail(job, error)
        raise SystemExit(EXIT_FAILED) from None
    else:
        current.leave_report("done")
        current.status = current.outcome
    finally:
        current.count()


def escaped(text: str) -> str:
    """Return a text of the lake or the catalog for a table: no markup, secret or word to a terminal."""
    return escape(without_secrets(text).replace("\n", "\\n"))


def fail(job: str, error: Exception) -> None:
    """Say what is wrong in one line on standard error."""
    said = without_secrets(f"{job}: {error}")
    Console(stderr=True, soft_wrap=True, highlight=False).print(said, style="red", markup=False)


def quiet() -> None:
    """Keep libraries' chatter out of a run's output; errors still come through."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray", "ray.train", "torch", "webdataset", "aiobotocore", "botocore", "s3fs"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _shares(parts: Mapping[str, float]) -> dict[str, float]:
    """Return each part's share of them all; nothing where nothing was spent."""
    total = sum(parts.values())
    return {name: round(value / total, 4) for name, value in parts.items()} if total else {}


def bottleneck(parts: Mapping[str, float]) -> str:
    """Return the line that names what the workers' time went to."""
    total = sum(parts.values())
    if not total:
        return "no worker time was spent: everything was reused"
    shares = sorted(parts.items(), key=lambda item: -item[1])
    said = ", ".join(f"{name} {value / total:.0%}" for name, value in shares)
    return f"{shares[0][0]} is the bottleneck: {said} of {total:.1f} s of worker time"


@contextmanager
def _reporter(current: Run, times: StageTimes) -> Iterator[Any]:
    if not sys.stdout.isatty() or _as_json():
        last = time.monotonic()

        def report_line(note: str) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                current.line(times)

        yield report_line
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=current.console, transient=True) as bar:
        task = bar.add_task(times.name, total=times.total, note="")

        def report_bar(note: str) -> None:
            rate = times.done / times.seconds if times.seconds else 0.0
            bad = f" · {times.quarantined} quarantined" if times.quarantined else ""
            bar.update(task, completed=times.done, note=note or f"{rate:.0f} {times.unit}/s{bad}")

        yield report_bar


def _as_json() -> bool:
    return os.environ.get("AGMAN_LOG") == "json"
