"""How training workers tell the driver where they are, since the driver alone reports."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agman.errors import AgmanError
from pipelines.scheduling import Silence
from pipelines.telemetry import Run, Stage
from pipelines.training.curves import Curves

POLL_S = 1.0
SILENT_S = 120.0
"""Some networks need that long for the steps between two posts on a CPU."""


class Board:
    """A Ray actor that workers write to and the driver reads; it holds what the driver did not take yet."""

    def __init__(self) -> None:
        """Start empty."""
        self._figures: list[dict[str, float]] = []
        self._notes: list[str] = []
        self._refusal: AgmanError | None = None
        self._num_kept = 0

    def keep(self) -> None:
        """Count a checkpoint."""
        self._num_kept += 1

    def num_kept(self) -> int:
        """Return the number of checkpoints: whoever fails again and again without one is not tried on."""
        return self._num_kept

    def post(self, figures: dict[str, float]) -> None:
        """Add the figures of a step."""
        self._figures.append(figures)

    def note(self, text: str) -> None:
        """Add a line that a person must see."""
        self._notes.append(text)

    def refuse(self, error: AgmanError) -> None:
        """Keep the first refusal of ours: another try would end alike."""
        self._refusal = self._refusal or error

    def refusal(self) -> AgmanError | None:
        """Return what a worker refused."""
        return self._refusal

    def take(self) -> tuple[list[dict[str, float]], list[str]]:
        """Return the figures and the notes since the last call."""
        taken = self._figures, self._notes
        self._figures, self._notes = [], []
        return taken


def open_board() -> Any:
    """Start a board beside the driver: where a worker's node is lost, what it holds must not be."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


@contextmanager
def watching(board: Any, stage: Stage, run: Run, curves: Curves, asked: str) -> Iterator[dict[str, float]]:
    """Show what is on the board while training blocks the main thread, and keep the curves.

    Args:
        board: handle of a `Board`.
        stage: whose progress it is.
        run: told what a person must see.
        curves: given the figures.
        asked: the workers that were asked for, to say where nothing comes.

    Yields:
        The last figures, filled as they come.
    """
    done = threading.Event()
    last: dict[str, float] = {}
    silence = Silence(run.say, SILENT_S)

    def look() -> None:
        posted, notes = ray.get(board.take.remote())
        if posted or notes:
            silence.end()
        else:
            silence.go_on(asked)
        for text in notes:
            run.say(f"  {text}")
        for figures in posted:
            curves.add(figures)
        if posted:
            last.update(posted[-1])
            note = f"loss {last['loss']:.3f}, best validation {last['best']:.3f}"
            stage.advance(int(last["step"]) - stage.times.done, note=note)

    def watch() -> None:
        while not done.wait(POLL_S):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield last
    finally:
        done.set()
        thread.join()
        look()
