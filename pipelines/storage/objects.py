"""Objects by name: read with a version, put if absent, compare and swap.

Everything the lake promises rests on these few operations, so each store offers the same contract and one
test suite holds all of them to it (`tests/integration/test_store_contract.py`).
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agman.errors import InvalidInput

BLOCK_BYTES = 1 << 20
MAX_NAME_BYTES = 1024  # S3's bound; one between two slashes has the file systems' 255
_FORBIDDEN = re.compile(r"(^|/)\.{1,2}(/|$)|^/|//|/$|\\|[\x00-\x1f]|^[A-Za-z][A-Za-z0-9+.-]*:|[^/]{256}")


@dataclass(frozen=True, slots=True)
class Versioned:
    """An object's bytes together with the version they had when they were read."""

    body: bytes
    version: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a manifest or a receipt knows about one stored file."""

    name: str
    num_bytes: int
    sha256: str
    num_rows: int | None = None

    def __post_init__(self) -> None:
        """Refuse a name that leads out of the lake, as in a manifest or a receipt that somebody made up.

        Raises:
            ValueError: so that who reads one calls it damaged.
        """
        check_name(self.name)


class ObjectStore(Protocol):
    """A flat space of named objects. Names are relative, `/`-separated, and cannot leave the store."""

    @property
    def has_conditions(self) -> bool:
        """Whether conditional writes are known to hold; where not, a night tries them first."""
        ...

    @property
    def url(self) -> str:
        """Where this store is; `opening.open_store` opens it again in another process."""
        ...

    def read(self, name: str) -> Versioned:
        """Return the bytes and version of an object; `FileNotFoundError` where there is none."""
        ...

    def put_if_absent(self, name: str, body: bytes) -> bool:
        """Create an object whole and visible at once; False, and nothing changed, where another stands.

        An object that holds these very bytes counts as put: a retry may meet its own success.
        """
        ...

    def compare_and_swap(self, name: str, body: bytes, version: str | None) -> bool:
        """Replace an object only while it has `version` (None: only while it is absent).

        As with `put_if_absent`, an object that holds these very bytes counts as swapped.
        """
        ...

    def upload_if_absent(
        self, local: Path, name: str, *, in_parts: bool = False, is_final: bool = False
    ) -> bool:
        """Like `put_if_absent`, from a local file of any size in bounded memory.

        Args:
            local: the file.
            name: of the object.
            in_parts: send it in parts, where a store can, although it is small.
            is_final: nobody writes to the file any more, so a store may keep it itself and not a copy.
        """
        ...

    def local_copy(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path to the object's bytes for the time of a `with`: no copy on local disk."""
        ...

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return `num_bytes` from byte `start` on, fewer where the object ends before."""
        ...

    def size(self, name: str) -> int | None:
        """Return the object's size in bytes, None where there is none."""
        ...

    def list_names(self, prefix: str) -> Iterator[str]:
        """Yield the names below a folder-like prefix, sorted."""
        ...

    def list_stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield (name, stamp) below a prefix, sorted, without reading an object.

        A stamp is another one once other bytes were written there; what a disk changes by itself leaves it.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...


def check_name(name: str) -> str:
    """Return `name` unchanged if it stays within the store.

    Raises:
        InvalidInput: if it is empty, too long, absolute, a uri, or steps out by `..`.
    """
    if not name or _FORBIDDEN.search(name) or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise InvalidInput(
            f"object name {name[:100]!r}: expected a relative path inside the lake, without '..', '//' or a "
            "scheme"
        )
    return name


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a local file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def store_file(
    store: ObjectStore, local: Path, name: str, num_rows: int | None = None, *, sha256: str = ""
) -> FileEntry:
    """Upload a checked local file to an immutable name and describe what is stored there now.

    Where a crashed or a concurrent run already stored this unit's file, that one stays and is described: its
    name comes from the unit's inputs, so it is the same work.

    Args:
        store: where.
        local: the file.
        name: of the object.
        num_rows: for the description.
        sha256: of the file, where whoever wrote it hashed what was written and nobody writes to it any more:
            it is not read again, and the store may keep it itself.
    """
    if store.upload_if_absent(local, name, is_final=bool(sha256)):
        return FileEntry(name, local.stat().st_size, sha256 or file_sha256(local), num_rows)
    return describe(store, name, num_rows)


def describe(store: ObjectStore, name: str, num_rows: int | None = None) -> FileEntry:
    """Read a stored object and return its size and digest; `FileNotFoundError` where there is none."""
    with store.local_copy(name) as path:
        return FileEntry(name, path.stat().st_size, file_sha256(path), num_rows)
