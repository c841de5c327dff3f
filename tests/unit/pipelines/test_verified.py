"""A file is compared with its digest again as soon as anybody may have written to it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stored_bytes import flip

from pipelines.errors import CorruptShard
from pipelines.lake import Lake
from pipelines.storage.objects import FileEntry, describe
from pipelines.verified import SETTLED_S, Verified

NAME = "indexes/m/a/group.faiss"


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files have been written long ago: their inodes' time cannot be set."""
    now = time.time
    monkeypatch.setattr("pipelines.verified.time.time", lambda: now() + 2 * SETTLED_S)


@pytest.fixture
def entry(lake: Lake) -> FileEntry:
    lake.store.put_if_absent(NAME, bytes(range(256)) * 8)
    return describe(lake.store, NAME)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note what is read to be compared."""
    found: list[Path] = []
    monkeypatch.setattr("pipelines.lake.file_sha256", noting(found))
    return found


def noting(found: list[Path]) -> Callable[[Path], str]:
    from pipelines.storage.objects import file_sha256

    def read(path: Path) -> str:
        found.append(path)
        return file_sha256(path)

    return read


def look(lake: Lake, entry: FileEntry, *, verify: bool = False) -> None:
    reader = Verified(lake, verify=verify)
    for _ in range(2):
        with reader.checked(entry) as path:
            assert path.stat().st_size == entry.num_bytes
    reader.save()


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once_by_all_readers_of_a_machine(lake: Lake, entry: FileEntry, reads: list) -> None:
    look(lake, entry)
    look(lake, entry)
    assert len(reads) == 1
    look(lake, entry, verify=True)
    assert len(reads) == 2


@pytest.mark.usefixtures("later")
def test_a_flipped_bit_is_found_whatever_the_times_say(lake: Lake, entry: FileEntry) -> None:
    look(lake, entry)
    path = Path(lake.url) / NAME
    before = path.stat()
    flip(lake, NAME)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    with pytest.raises(CorruptShard, match=NAME):
        look(lake, entry)


@pytest.mark.usefixtures("later")
def test_another_file_in_its_place_is_compared(lake: Lake, entry: FileEntry, reads: list) -> None:
    look(lake, entry)
    path = Path(lake.url) / NAME
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    look(lake, entry)
    assert len(reads) == 2
    with pytest.raises(CorruptShard, match=NAME):
        look(lake, FileEntry(NAME, entry.num_bytes, "0" * 64))


def test_what_was_written_a_moment_ago_is_compared_each_time(
    lake: Lake, entry: FileEntry, reads: list
) -> None:
    look(lake, entry)
    assert len(reads) == 2


@pytest.mark.usefixtures("later")
def test_a_reader_without_a_place_to_remember_compares_each_time(
    lake: Lake, entry: FileEntry, reads: list, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    look(lake, entry)
    look(lake, entry)
    assert len(reads) == 2


@pytest.mark.usefixtures("later")
def test_what_is_remembered_of_files_that_are_gone_is_forgotten(
    lake: Lake, entry: FileEntry, tmp_path: Path
) -> None:
    look(lake, entry)
    other = "indexes/m/a/other.faiss"
    lake.store.put_if_absent(other, b"other")
    lake.store.delete(NAME)
    look(lake, describe(lake.store, other))
    (memory,) = (tmp_path / "cache" / "agman" / "verified").iterdir()
    assert NAME not in memory.read_text()
    memory.write_text("[]")
    look(lake, describe(lake.store, other))
    assert other in memory.read_text()
