"""Memory of this process and all that it started, watched while something runs."""

import os
import threading
from pathlib import Path
from types import TracebackType

INTERVAL_S = 0.25


class PeakMemory:
    """Context manager: the largest sum of proportional set sizes while it is open (Linux).

    A page that several processes share counts once in all, as Ray's object store does.
    """

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.gib = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; `gib` stays."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(INTERVAL_S):
            self.gib = max(self.gib, sum(map(_pss_kib, _family(os.getpid()))) / (1 << 20))


def _family(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything; the parent is the second word after it.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [root]
    for process in family:
        family += children.get(process, [])
    return family


def _pss_kib(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
