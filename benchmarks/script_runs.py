"""Benchmarks run as scripts, each in a process of its own, watched and bounded in time."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRACE_S = 20.0
"""Time for a script that must end to stop what it started, Ray above all."""
KEPT_LINES = 5  # of what a script said before it failed
FRAME = " │─╭╮╰╯\n"  # about what tyro says


@dataclass(frozen=True, slots=True)
class Script:
    """A benchmark and the options that make it small."""

    script: str
    options: Sequence[str]
    seconds: float
    """What it takes on two quiet cores, about."""
    name: str = ""
    """Of this run; left out: the script's."""

    def __post_init__(self) -> None:
        """Name the run."""
        object.__setattr__(self, "name", self.name or self.script)

    @property
    def command(self) -> str:
        """As one types it."""
        return " ".join([f"benchmarks/{self.script}.py", *self.options])


@dataclass(slots=True)
class Outcome:
    """What a run gave."""

    script: Script
    seconds: float = 0.0
    error: str = ""
    """Why there are no figures; "" where there are."""
    figures: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)


def run(script: Script, limit_s: float, say: Callable[[float, str], None]) -> Outcome:
    """Run a script; a failure is told, not raised.

    Args:
        script: which, and its options.
        limit_s: after so many seconds it is ended.
        say: told the seconds since the start and each line of what it prints, but for its figures.
    """
    outcome = Outcome(script)
    command = [sys.executable, str(Path(__file__).with_name(f"{script.script}.py")), *script.options]
    started = time.perf_counter()
    said: list[str] = []
    # What libraries warn of is of use where a script fails, and not on the way.
    with tempfile.TemporaryFile("w+", errors="replace") as warnings:
        process = subprocess.Popen(  # noqa: S603  our own scripts
            command,
            stdout=subprocess.PIPE,
            stderr=warnings,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        with _ended_after(process, limit_s) as is_late:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.rstrip())
                if not _record(said[-1]):
                    say(time.perf_counter() - started, said[-1])
            process.wait()
        warnings.seek(0)
        warned = [text for line in warnings if (text := line.strip(FRAME))]
    outcome.seconds = time.perf_counter() - started
    record = next((found for line in reversed(said) if (found := _record(line))), None)
    if is_late():
        outcome.error = f"expected figures within {limit_s:.0f} s, found none; run it alone: {script.command}"
    elif process.returncode or record is None:
        last = " | ".join((warned or said)[-KEPT_LINES:])
        outcome.error = f"exit code {process.returncode}, expected 0 and figures; it said: {last}"
    else:
        outcome.figures, outcome.floor = record["figures"], record["floor"]
    return outcome


def _record(line: str) -> dict[str, Any] | None:
    """Return the figures in a line, where it holds any."""
    if not line.startswith('{"benchmark"'):
        return None
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return record


@contextmanager
def _ended_after(process: subprocess.Popen[str], limit_s: float) -> Iterator[Callable[[], bool]]:
    """End a process, and all that belong to its session, when its time is over or its caller is interrupted.

    Gives a function that tells whether its time was over.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(max(0.0, limit_s), end)
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what it left behind
    except ProcessLookupError:
        return
