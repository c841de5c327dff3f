"""Which snapshot answers: a newly published one is loaded beside, and takes over between two requests.

A request stays on the snapshot that it began with. That one is closed when its last request has ended.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agman.errors import AgmanError
from pipelines.lake import Lake
from pipelines.redaction import without_secrets
from pipelines.serving import metrics
from pipelines.serving.loaded import Loaded
from pipelines.serving.refusals import Refusal
from pipelines.storage.snapshots import read_pointer

_log = logging.getLogger(__name__)


class _Users:
    """How many requests a snapshot answers."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.number = 0
        self.is_replaced = False


class Current:
    """The snapshot that answers, and a thread that looks for the next one."""

    def __init__(self, lake: Lake, *, threads: int, device: str, poll_s: float) -> None:
        """Begin without a snapshot.

        Args:
            lake: where.
            threads: that a search may take.
            device: of the model.
            poll_s: seconds between two looks.
        """
        self._lake = lake
        self._threads = threads
        self._device = device
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._users: _Users | None = None
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="snapshots", daemon=True)

    def start(self) -> None:
        """Load what is published, then look for others in the background.

        Raises:
            InvalidInput, AgmanError: if nothing can be loaded.
        """
        self.look()
        self._poller.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._poller.is_alive():
            self._poller.join()

    def check(self) -> None:
        """Raise where the snapshots are looked for no more: the process must be started anew.

        Raises:
            RuntimeError: if so.
        """
        if not self._poller.is_alive():
            raise RuntimeError("the thread that looks for new snapshots has ended")

    @contextmanager
    def use(self) -> Iterator[Loaded]:
        """Give the snapshot that answers; it stays open for the time of a `with`.

        Raises:
            Refusal: if none is loaded yet.
        """
        with self._lock:
            users = self._users
            if users is None:
                raise Refusal(503, "No snapshot is loaded yet.", do="Try again in a moment.")
            users.number += 1
        try:
            yield users.loaded
        finally:
            with self._lock:
                users.number -= 1
                is_over = users.is_replaced and not users.number
            if is_over:
                users.loaded.close()

    def look(self) -> bool:
        """Look once at what is published; load it where it is another one. Return whether it was."""
        pointer = read_pointer(self._lake)
        before = self._users.loaded if self._users else None
        if pointer is None or (before and pointer.snapshot == before.id):
            return False
        began = time.monotonic()
        loaded = Loaded.open(self._lake, pointer, self._threads, self._device, before)
        self._swap(loaded)
        metrics.SNAPSHOT_LOAD_SECONDS.observe(time.monotonic() - began)
        metrics.SNAPSHOT_PUBLISHED.set(metrics.seconds_of(pointer.published))
        _log.info("snapshot %s answers after %.1f s of loading", loaded.id, time.monotonic() - began)
        return True

    def _swap(self, loaded: Loaded) -> None:
        with self._lock:
            before, self._users = self._users, _Users(loaded)
            if before is None:
                return
            before.is_replaced = True
            is_over = not before.number
        if is_over:
            before.loaded.close()

    def _poll(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self.look()
            except (AgmanError, OSError) as error:
                # The snapshot before goes on answering, and the next look tries again.
                metrics.SNAPSHOT_FAILURES.inc()
                _log.warning("the published snapshot cannot be loaded: %s", without_secrets(str(error)))
