"""How training workers tell the driver where they are, since the driver alone reports."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipelines.telemetry import Run, Stage

POLL_S = 1.0


class Board:
    """A Ray actor that rank 0 writes to and the driver reads; it holds the last figures and all notes."""

    def __init__(self) -> None:
        """Start empty."""
        self._figures: dict[str, float] = {}
        self._notes: list[str] = []

    def post(self, figures: dict[str, float]) -> None:
        """Replace the figures."""
        self._figures = figures

    def note(self, text: str) -> None:
        """Add a line that a person must see."""
        self._notes.append(text)

    def take(self) -> tuple[dict[str, float], list[str]]:
        """Return the figures and the notes since the last call."""
        notes, self._notes = self._notes, []
        return self._figures, notes


@contextmanager
def watching(board: Any, stage: Stage, run: Run) -> Iterator[None]:
    """Show what is on the board while training blocks the main thread."""
    done = threading.Event()

    def look() -> None:
        figures, notes = ray.get(board.take.remote())
        for text in notes:
            run.say(f"  {text}")
        if figures:
            note = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "step")
            stage.advance(int(figures["step"]) - stage.times.done, note=note)

    def watch() -> None:
        while not done.wait(POLL_S):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
