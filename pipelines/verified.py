"""Which files a reader compared with their digest already: gigabytes are not read again to open them.

A lake's files never change. What a reader has compared once is remembered beside it, in
`~/.cache/agman/verified/` (`XDG_CACHE_HOME`), with what the file system says of the file: inode, size, time
of its bytes and time of its inode. A write to the file changes the last one whatever the writer does to the
others, and then the file is read and compared again. What a disk changes by itself, without a write, is not
seen here: `verify` reads the files all the same, as `jobs/inspect_lake.py --verify` and a night's
`--verify-lake` do. Files of an S3 lake are compared whenever they are fetched, and nothing is remembered.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pipelines.lake import Lake, short_digest
from pipelines.storage.local import LocalStore
from pipelines.storage.objects import FileEntry

SETTLED_S = 2.0
"""A file that was written less than this before it was compared is not remembered: a second write within one
tick of the file system's clock would leave its times as they are."""


class Verified:
    """What was compared of one lake's files; for one reader, from several of its threads."""

    def __init__(self, lake: Lake, *, verify: bool = False) -> None:
        """Read what is remembered.

        Args:
            lake: where the files are.
            verify: compare each file once more, whatever is remembered.
        """
        self._lake = lake
        self.is_local = isinstance(lake.store, LocalStore)
        self._memory = _folder() / f"{short_digest(lake.url)}.json"
        self._known = {} if verify or not self.is_local else _read(self._memory)
        self._new: dict[str, list[object]] = {}

    @contextmanager
    def checked(self, entry: FileEntry) -> Iterator[Path]:
        """Give a local path to a file whose digest was compared since it was last written.

        Raises:
            CorruptShard: if the stored bytes are not those of the entry.
        """
        if self.is_local and self._is_known(entry):
            with self._lake.store.local_copy(entry.name) as path:
                yield path
            return
        began = time.time()
        with self._lake.checked(entry) as path:
            if self.is_local:
                self._note(entry, path, began)
            yield path

    def save(self) -> None:
        """Remember what was compared, where the reader has a place for it."""
        if not self._new:
            return
        known = {name: seen for name, seen in _read(self._memory).items() if self._stands(name)} | self._new
        temporary = self._memory.with_name(f"{uuid4().hex}.tmp")
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known))
            temporary.replace(self._memory)
        except OSError:
            # A reader without a home, or on a full disk, compares each time.
            with suppress(OSError):
                temporary.unlink()
        self._new.clear()

    def _is_known(self, entry: FileEntry) -> bool:
        known = self._new.get(entry.name) or self._known.get(entry.name)
        if known is None:
            return False
        try:
            with self._lake.store.local_copy(entry.name) as path:
                return known == _seen(entry, path.stat())
        except FileNotFoundError:
            return False

    def _note(self, entry: FileEntry, path: Path, began: float) -> None:
        stat = path.stat()
        if max(stat.st_mtime, stat.st_ctime) < began - SETTLED_S:
            self._new[entry.name] = _seen(entry, stat)

    def _stands(self, name: str) -> bool:
        return self._lake.store.size(name) is not None


def _seen(entry: FileEntry, stat: os.stat_result) -> list[object]:
    """Return what must be as it was for a file to count as compared."""
    return [entry.sha256, entry.num_bytes, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agman" / "verified"


def _read(memory: Path) -> Mapping[str, list[object]]:
    """Return what is remembered; nothing where it is not there or no JSON object."""
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
