"""A tar as WebDataset reads it, of constant metadata, whose digest is known when its last byte is written."""

import hashlib
import os
import tarfile
from pathlib import Path
from types import TracebackType

MAX_NAME_BYTES = 100
SMALL_BYTES = 8192
"""Less than this waits, to be written together with what follows."""
_EMPTY = tarfile.TarInfo()
_EMPTY.mode = 0o444
_HEADER = _EMPTY.tobuf(tarfile.USTAR_FORMAT)
"""Of a member without a name and a byte: what follows is the same in every member but for three fields."""
_OWNERS, _TIME, _REST = _HEADER[100:124], _HEADER[136:148], _HEADER[156:]
_CHECKSUM = sum(_OWNERS + _TIME + _REST) + 8 * ord(" ")
"""Of the constant fields; the checksum's own counts as spaces."""
_END = bytes(2 * tarfile.BLOCKSIZE)


class TarWriter:
    """Writes what `tarfile` writes in USTAR format with mode 0444 and no owner or time, byte for byte.

    tarfile spends 20 microseconds a member on building its header, and the file would be read a second time
    for its digest.

    Attributes:
        sha256: of the whole file, in hex; "" until it is closed.
        num_bytes: written so far, to the file itself.
    """

    def __init__(self, path: Path) -> None:
        """Create the file; it must not be there."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._digest = hashlib.sha256()
        self._pending = b""
        self.sha256 = ""
        self.num_bytes = 0

    def __enter__(self) -> "TarWriter":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the end of the archive, unless what it should hold is not all there."""
        try:
            if error is None:
                self._write(self._pending, _END)
                self._write(bytes(-self.num_bytes % tarfile.RECORDSIZE))
                self.sha256 = self._digest.hexdigest()
        finally:
            os.close(self._descriptor)

    def add(self, name: str, body: bytes) -> int:
        """Append a member and return where its bytes begin.

        Raises:
            ValueError: if the name is longer than the format's field, or the body than its size can tell.
        """
        self._pending += header(name, len(body))
        offset = self.num_bytes + len(self._pending)
        padding = bytes(-len(body) % tarfile.BLOCKSIZE)
        if len(self._pending) + len(body) < SMALL_BYTES:
            self._pending += body + padding
        else:
            self._write(self._pending, body)
            self._pending = padding
        return offset

    def _write(self, *pieces: bytes) -> None:
        """Write and hash; a body is not copied to be joined with what stands before it."""
        for piece in pieces:
            self._digest.update(piece)
            self.num_bytes += len(piece)
        left = sum(map(len, pieces)) - os.writev(self._descriptor, pieces)
        while left:  # the disk may be full, which the next attempt says
            left -= os.write(self._descriptor, b"".join(pieces)[-left:])


def header(name: str, size: int) -> bytes:
    """Return a member's block of 512 bytes."""
    encoded, length = name.encode(), b"%011o\0" % size
    if len(encoded) > MAX_NAME_BYTES or len(length) > 12:
        raise ValueError(f"tar member {name!r} of {size} bytes: expected at most 100 letters and 8 GiB")
    checksum = b"%06o\0 " % (_CHECKSUM + sum(encoded) + sum(length))
    return b"".join((encoded.ljust(MAX_NAME_BYTES, b"\0"), _OWNERS, length, _TIME, checksum, _REST))
