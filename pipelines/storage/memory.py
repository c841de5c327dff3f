"""Objects in a dictionary: the oracle that the other stores are compared with."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.storage.objects import Versioned, check_name


class MemoryStore:
    """An `ObjectStore` inside one process."""

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[str, tuple[bytes, int]] = {}
        self._clock = 0
        self._lock = threading.Lock()

    has_conditions = True

    @property
    def url(self) -> str:
        """A name for people; another process cannot open it."""
        return "memory://"

    def read(self, name: str) -> Versioned:
        """Return bytes and version."""
        try:
            body, version = self._objects[check_name(name)]
        except KeyError:
            raise FileNotFoundError(f"memory://{name}: no such object") from None
        return Versioned(body, str(version))

    def put_if_absent(self, name: str, body: bytes) -> bool:
        """Set the entry if there is none."""
        return self.compare_and_swap(name, body, None)

    def compare_and_swap(self, name: str, body: bytes, version: str | None) -> bool:
        """Compare and set under a lock."""
        check_name(name)
        with self._lock:
            current = self._objects.get(name)
            if (None if current is None else str(current[1])) != version:
                return current is not None and current[0] == body
            self._clock += 1
            self._objects[name] = (body, self._clock)
            return True

    def upload_if_absent(
        self, local: Path, name: str, *, in_parts: bool = False, is_final: bool = False
    ) -> bool:
        """Read the file and set the entry if there is none."""
        return self.put_if_absent(name, local.read_bytes())

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Write the entry to a temporary file."""
        body = self.read(name).body
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name.rsplit("/", 1)[-1]
            path.write_bytes(body)
            yield path

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return a slice."""
        return self.read(name).body[start : start + num_bytes]

    def size(self, name: str) -> int | None:
        """Return the size in bytes, None where there is none."""
        entry = self._objects.get(check_name(name))
        return None if entry is None else len(entry[0])

    def list_names(self, prefix: str) -> Iterator[str]:
        """Yield the names below a prefix, sorted."""
        folder = prefix.rstrip("/") + "/" if prefix else ""
        yield from sorted(name for name in list(self._objects) if name.startswith(folder))

    def list_stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield names with the version of each."""
        for name in self.list_names(prefix):
            yield name, self.read(name).version

    def delete(self, name: str) -> None:
        """Drop the entry if it is there."""
        self._objects.pop(check_name(name), None)
