"""An object as a file that is read by ranges, so that a tar of any size streams in bounded memory."""

import io
from typing import IO, cast

from pipelines.storage.objects import ObjectStore

READ_AHEAD_BYTES = 8 << 20


def open_ranges(store: ObjectStore, name: str, read_ahead_bytes: int = READ_AHEAD_BYTES) -> IO[bytes]:
    """Open an object for reading; two times `read_ahead_bytes` of it are in memory at most.

    Args:
        store: where.
        name: of the object.
        read_ahead_bytes: asked for at once.
    """
    return cast(IO[bytes], io.BufferedReader(_Ranges(store, name), read_ahead_bytes))


class _Ranges(io.RawIOBase):
    """Reads what is asked for by one ranged read each; the store tries again where that fails."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store, self._name, self._position = store, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader gives
        body = self._store.read_range(self._name, self._position, len(buffer))
        buffer[: len(body)] = body
        self._position += len(body)
        return len(body)
