"""Objects as files below a folder; safe for many processes on one machine."""

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines.storage.full import told_when_full
from pipelines.storage.objects import BLOCK_BYTES, Versioned, check_name, file_sha256

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK)
"""What a system says where a file cannot be linked, and a copy of it can."""
STAGING = ".staging"  # temporary files live inside the root: a link or rename must not cross file systems


class LocalStore:
    """An `ObjectStore` on a local or network file system with POSIX links and renames."""

    def __init__(self, root: Path) -> None:
        """Keep the absolute root; nothing is created until the first write."""
        self.root = root.expanduser().absolute()

    has_conditions = True

    @property
    def url(self) -> str:
        """The root as an absolute path."""
        return str(self.root)

    def read(self, name: str) -> Versioned:
        """Return bytes and version; the version is the bytes' digest."""
        body = self._path(name).read_bytes()
        return Versioned(body, _version(body))

    def put_if_absent(self, name: str, body: bytes) -> bool:
        """Write a temporary file, then link it: the link fails where the name exists."""
        return self._create(name, lambda file: file.write(body)) or self._path(name).read_bytes() == body

    def upload_if_absent(
        self, local: Path, name: str, *, in_parts: bool = False, is_final: bool = False
    ) -> bool:
        """Copy a local file beside the target, then link it; a final one of this file system is linked."""
        created = self._link_final(name, local) if is_final else None
        if created is None:
            with local.open("rb") as source:
                created = self._create(name, lambda file: shutil.copyfileobj(source, file, BLOCK_BYTES))
        return created or file_sha256(self._path(name)) == file_sha256(local)

    def compare_and_swap(self, name: str, body: bytes, version: str | None) -> bool:
        """Compare and replace under an exclusive lock beside the object."""
        path = self._path(name)
        with self._locked(path):
            current = _version(path.read_bytes()) if path.exists() else None
            if current != version:
                return current == _version(body)
            with self._temporary(lambda file: file.write(body)) as temporary:
                temporary.replace(path)
            _sync_folder(path.parent)
            return True

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Give the object's own path."""
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such object")
        yield path

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return a slice of the file."""
        with self._path(name).open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)

    def size(self, name: str) -> int | None:
        """Return the file's size in bytes, None where there is none."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return None

    def list_names(self, prefix: str) -> Iterator[str]:
        """Yield the names below a folder, sorted; hidden files are not objects."""
        found = (path.relative_to(self.root) for path in (self.root / prefix).rglob("*") if path.is_file())
        yield from sorted(
            path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)
        )

    def list_stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield names with size, inode and both times of each file: no write leaves its inode's time."""
        for name in self.list_names(prefix):
            with suppress(FileNotFoundError):
                stat = self._path(name).stat()
                yield name, f"{stat.st_size}-{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"

    def delete(self, name: str) -> None:
        """Remove the file if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def _create(self, name: str, write: Callable[[IO[bytes]], object]) -> bool:
        path = self._path(name)
        if path.exists():
            return False
        with self._temporary(write) as temporary:
            return _link(temporary, path)

    def _link_final(self, name: str, local: Path) -> bool | None:
        """Make a file an object without copying it; None where it is on another file system."""
        path = self._path(name)
        if path.exists():
            return False
        with told_when_full(str(self.root)):
            with local.open("rb") as file:
                os.fsync(file.fileno())
            try:
                return _link(local, path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return None

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with told_when_full(str(self.root)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with (path.parent / f".{path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    @contextmanager
    def _temporary(self, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
        folder = self.root / STAGING
        path = folder / uuid.uuid4().hex
        # A full disk has no room for a folder or a link either.
        with told_when_full(str(self.root)):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("xb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                yield path
            finally:
                path.unlink(missing_ok=True)


def _link(file: Path, path: Path) -> bool:
    """Give a file that is on the disk its name; False where the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, path)
    except FileExistsError:
        return False
    _sync_folder(path.parent)
    return True


def _version(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _sync_folder(folder: Path) -> None:
    # A name is durable only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
