"""Memory is watched while it is held."""

from collections.abc import Callable

import numpy as np

from benchmarks import memory


def test_memory_is_watched_while_it_is_held(wait: Callable[..., None]) -> None:
    with memory.PeakMemory() as before:
        wait("a first look", lambda: before.gib > 0)
    with memory.PeakMemory() as peak:
        held = np.ones(1 << 28, np.uint8)
        wait("a quarter of a GiB more", lambda: peak.gib > before.gib + 0.2)
    assert held.all()
