"""One contract, three stores: what holds in memory must hold on disk and on S3."""

import errno
import os
import threading
import uuid
from pathlib import Path

import pytest

from agman.errors import InvalidInput
from pipelines.storage.local import LocalStore
from pipelines.storage.memory import MemoryStore
from pipelines.storage.objects import ObjectStore, Versioned, describe, file_sha256, store_file
from pipelines.storage.opening import open_store
from pipelines.storage.ranges import open_ranges
from pipelines.storage.s3 import S3Store
from pipelines.storage.s3_transfers import MIN_PART_BYTES, Transfers

pytestmark = pytest.mark.integration

EVERY_BYTE = bytes(range(256)) * 40 + b"\r\n\x00\xff"
NUM_WRITERS = 8
PART_BYTES = MIN_PART_BYTES
MANY_PARTS = os.urandom(2 * PART_BYTES + 12_345)
IN_PARTS = Transfers(multipart_bytes=PART_BYTES, part_bytes=PART_BYTES, parts_at_once=2)


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path / "lake")
    return S3Store(f"{request.getfixturevalue('s3_server')}/{uuid.uuid4().hex[:8]}/lake", transfers=IN_PARTS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(EVERY_BYTE)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """One for each writer, all different."""
    paths = [tmp_path / f"{index}" for index in range(NUM_WRITERS)]
    for path in paths:
        path.write_text(f"writer {path.name}")
    return paths


def race(attempts: list) -> list:
    """Run functions at the same moment, each in its own thread; return their results in order."""
    gate, results = threading.Barrier(len(attempts)), [None] * len(attempts)

    def start(index: int) -> None:
        gate.wait()
        results[index] = attempts[index]()

    threads = [threading.Thread(target=start, args=(index,)) for index in range(len(attempts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class TestStoreContract:
    def test_what_is_put_is_read_back_byte_for_byte(self, store: ObjectStore) -> None:
        assert store.put_if_absent("a/b.bin", EVERY_BYTE)
        assert store.read("a/b.bin").body == EVERY_BYTE

    def test_an_empty_object_exists(self, store: ObjectStore) -> None:
        assert store.put_if_absent("empty", b"")
        assert store.read("empty").body == b""
        assert store.size("empty") == 0

    def test_what_is_absent_cannot_be_read(self, store: ObjectStore) -> None:
        store.put_if_absent("there", b"1")
        with pytest.raises(FileNotFoundError):
            store.read("gone")
        with pytest.raises(FileNotFoundError):
            store.read_range("gone", 0, 1)
        with pytest.raises(FileNotFoundError), store.local_copy("gone"):
            pass
        assert store.size("gone") is None

    def test_put_if_absent_never_replaces(self, store: ObjectStore) -> None:
        assert store.put_if_absent("a", b"first")
        assert not store.put_if_absent("a", b"second")
        assert store.read("a").body == b"first"

    def test_putting_the_same_bytes_again_counts_as_put(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"same")
        version = store.read("a").version
        assert store.put_if_absent("a", b"same")
        assert store.read("a").version == version

    def test_the_version_changes_with_the_bytes(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"one")
        first = store.read("a").version
        assert store.compare_and_swap("a", b"two", first)
        assert store.read("a").version != first
        assert store.read("a").version == store.read("a").version

    def test_swap_creates_only_what_is_absent(self, store: ObjectStore) -> None:
        assert store.compare_and_swap("a", b"one", None)
        assert not store.compare_and_swap("a", b"two", None)
        assert store.read("a").body == b"one"

    def test_swap_replaces_the_version_it_names(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"one")
        assert store.compare_and_swap("a", b"two", store.read("a").version)
        assert store.read("a").body == b"two"

    def test_a_stale_swap_changes_nothing(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"one")
        stale = store.read("a").version
        store.compare_and_swap("a", b"two", stale)
        assert not store.compare_and_swap("a", b"three", stale)
        assert store.read("a").body == b"two"

    def test_a_swap_that_meets_its_own_success_succeeds(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"one")
        before = store.read("a").version
        assert store.compare_and_swap("a", b"two", before)
        assert store.compare_and_swap("a", b"two", before)

    def test_a_swap_of_what_was_deleted_fails(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"one")
        version = store.read("a").version
        store.delete("a")
        assert not store.compare_and_swap("a", b"two", version)
        assert store.size("a") is None

    def test_of_racing_creators_exactly_one_wins(self, store: ObjectStore) -> None:
        bodies = [f"writer {index}".encode() for index in range(NUM_WRITERS)]
        won = race([lambda body=body: store.put_if_absent("a", body) for body in bodies])
        assert won.count(True) == 1
        assert store.read("a").body == bodies[won.index(True)]

    def test_of_racing_swappers_exactly_one_wins(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"start")
        version = store.read("a").version
        bodies = [f"writer {index}".encode() for index in range(NUM_WRITERS)]
        won = race([lambda body=body: store.compare_and_swap("a", body, version) for body in bodies])
        assert won.count(True) == 1
        assert store.read("a").body == bodies[won.index(True)]

    @pytest.mark.parametrize("in_parts", [False, True])
    def test_a_file_is_uploaded_once(
        self, store: ObjectStore, file: Path, tmp_path: Path, in_parts: bool
    ) -> None:
        assert store.upload_if_absent(file, "a/file.bin", in_parts=in_parts)
        version = store.read("a/file.bin").version
        assert store.upload_if_absent(file, "a/file.bin", in_parts=in_parts)
        other = tmp_path / "other.bin"
        for body in (b"other", EVERY_BYTE[:-1] + b"x", b""):
            other.write_bytes(body)
            assert not store.upload_if_absent(other, "a/file.bin", in_parts=in_parts)
        assert store.read("a/file.bin") == Versioned(EVERY_BYTE, version)

    @pytest.mark.parametrize("in_parts", [False, True])
    def test_an_empty_file_is_uploaded(self, store: ObjectStore, tmp_path: Path, in_parts: bool) -> None:
        (tmp_path / "empty").touch()
        assert store.upload_if_absent(tmp_path / "empty", "empty", in_parts=in_parts)
        assert store.size("empty") == 0

    def test_a_file_that_nobody_writes_to_any_more_is_stored_alike(
        self, store: ObjectStore, file: Path, tmp_path: Path
    ) -> None:
        digest = file_sha256(file)
        assert store_file(store, file, "a/file.bin", 3, sha256=digest) == describe(store, "a/file.bin", 3)
        assert store.upload_if_absent(file, "a/file.bin", is_final=True)
        other = tmp_path / "other.bin"
        other.write_bytes(b"made by a run that came second")
        assert not store.upload_if_absent(other, "a/file.bin", is_final=True)
        assert store_file(store, other, "a/file.bin", 3, sha256=file_sha256(other)).sha256 == digest
        file.unlink()
        assert store.read("a/file.bin").body == EVERY_BYTE

    def test_a_file_of_many_parts_is_one_object(self, store: ObjectStore, tmp_path: Path) -> None:
        large = tmp_path / "large.bin"
        large.write_bytes(MANY_PARTS)
        assert store.upload_if_absent(large, "large")
        assert store.upload_if_absent(large, "large")
        assert store.read("large").body == MANY_PARTS
        assert store.read_range("large", PART_BYTES - 3, 6) == MANY_PARTS[PART_BYTES - 3 : PART_BYTES + 3]
        assert file_sha256(large) == describe(store, "large").sha256
        assert store.compare_and_swap("large", b"small", store.read("large").version)

    def test_of_racing_uploads_exactly_one_wins(self, store: ObjectStore, files: list[Path]) -> None:
        won = race([lambda file=file: store.upload_if_absent(file, "a") for file in files])
        assert won.count(True) == 1
        assert store.read("a").body == files[won.index(True)].read_bytes()

    def test_racing_uploads_in_parts_leave_a_whole_object_that_stays(
        self, store: ObjectStore, files: list[Path]
    ) -> None:
        """More than one may win here: this S3 server's conditional completion is not atomic, as AWS' is."""
        uploads = [lambda file=file: store.upload_if_absent(file, "a", in_parts=True) for file in files]
        won = race(uploads)
        stands = store.read("a")
        assert stands.body in [file.read_bytes() for file, has in zip(files, won, strict=True) if has]
        assert [upload() for upload in uploads].count(True) == 1
        assert store.read("a") == stands

    def test_uploads_of_the_same_bytes_all_count_as_done(self, store: ObjectStore, file: Path) -> None:
        done = race([lambda: store.upload_if_absent(file, "a", in_parts=True) for _ in range(NUM_WRITERS)])
        assert all(done)
        assert store.read("a").body == EVERY_BYTE

    def test_a_local_copy_holds_the_bytes(self, store: ObjectStore) -> None:
        store.put_if_absent("deep/er/a.bin", EVERY_BYTE)
        with store.local_copy("deep/er/a.bin") as path:
            assert path.read_bytes() == EVERY_BYTE
            assert path.name == "a.bin"

    def test_a_range_is_a_slice(self, store: ObjectStore) -> None:
        store.put_if_absent("a", EVERY_BYTE)
        for start, num_bytes in ((0, 1), (255, 3), (1000, 4096), (len(EVERY_BYTE) - 1, 1)):
            assert store.read_range("a", start, num_bytes) == EVERY_BYTE[start : start + num_bytes]

    def test_a_range_ends_where_the_object_does(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"0123")
        assert store.read_range("a", 2, 10) == b"23"
        assert store.read_range("a", 4, 10) == b""
        assert store.read_range("a", 9, 10) == b""
        assert store.read_range("a", 1, 0) == b""

    def test_an_object_is_read_as_a_file(self, store: ObjectStore) -> None:
        store.put_if_absent("a", EVERY_BYTE)
        with open_ranges(store, "a", read_ahead_bytes=1000) as file:
            found = file.read(10) + file.read(5_000) + file.read()
        assert found == EVERY_BYTE

    def test_size_is_in_bytes(self, store: ObjectStore) -> None:
        store.put_if_absent("é", "é".encode())
        assert store.size("é") == 2

    def test_names_are_listed_below_a_folder_sorted(self, store: ObjectStore) -> None:
        for name in ("b/2", "b/10/x", "b/1", "bb/1", "a"):
            store.put_if_absent(name, name.encode())
        assert list(store.list_names("b")) == ["b/1", "b/10/x", "b/2"]
        assert list(store.list_names("b/10")) == ["b/10/x"]
        assert list(store.list_names("")) == ["a", "b/1", "b/10/x", "b/2", "bb/1"]
        assert list(store.list_names("none")) == []
        assert list(store.list_names("b/1")) == []
        stamps = dict(store.list_stamps("b"))
        assert list(stamps) == ["b/1", "b/10/x", "b/2"]
        assert dict(store.list_stamps("b")) == stamps
        store.delete("b/1")
        store.put_if_absent("b/1", b"other")
        after = dict(store.list_stamps("b"))
        assert {name for name in after if after[name] != stamps[name]} == {"b/1"}

    def test_the_list_follows_puts_and_deletes(self, store: ObjectStore) -> None:
        assert list(store.list_names("a")) == []
        store.put_if_absent("a/1", b"1")
        assert list(store.list_names("a")) == ["a/1"]
        store.delete("a/1")
        assert list(store.list_names("a")) == []

    def test_delete_removes_and_may_be_repeated(self, store: ObjectStore) -> None:
        store.put_if_absent("a/b", b"1")
        store.delete("a/b")
        store.delete("a/b")
        with pytest.raises(FileNotFoundError):
            store.read("a/b")
        assert store.put_if_absent("a/b", b"2")

    @pytest.mark.parametrize(
        "name", ["", "/etc/passwd", "../a", "a/../../b", "a/..", "./a", "a//b", "a\\b", "a\nb", "a\x00b"]
    )
    def test_a_name_cannot_leave_the_store(self, store: ObjectStore, file: Path, name: str) -> None:
        attempts = [
            lambda: store.read(name),
            lambda: store.put_if_absent(name, b"x"),
            lambda: store.compare_and_swap(name, b"x", None),
            lambda: store.upload_if_absent(file, name),
            lambda: store.local_copy(name).__enter__(),
            lambda: store.read_range(name, 0, 1),
            lambda: store.size(name),
            lambda: store.delete(name),
        ]
        for attempt in attempts:
            with pytest.raises(InvalidInput):
                attempt()

    @pytest.mark.parametrize(
        "name", ["a b.txt", "a=b/c=d.parquet", "x+y", "100%", "ünï", "a.b.c", "a..b", "a#b?c"]
    )
    def test_odd_names_are_kept(self, store: ObjectStore, name: str) -> None:
        store.put_if_absent(f"odd/{name}", name.encode())
        assert store.read(f"odd/{name}").body == name.encode()
        assert list(store.list_names("odd")) == [f"odd/{name}"]

    def test_a_stored_file_is_described_as_it_is_stored(
        self, store: ObjectStore, file: Path, tmp_path: Path
    ) -> None:
        digest = file_sha256(file)
        assert store_file(store, file, "a/file.bin", 3).sha256 == digest
        other = tmp_path / "other.bin"
        other.write_bytes(b"made by a run that came second")
        entry = store_file(store, other, "a/file.bin", 3)
        assert (entry.sha256, entry.num_bytes) == (digest, len(EVERY_BYTE))


def test_other_schemes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="gs://bucket"):
        open_store("gs://bucket/lake")


def test_a_final_file_is_not_copied_on_its_own_file_system(tmp_path: Path, file: Path) -> None:
    store = LocalStore(tmp_path / "lake")
    assert store.upload_if_absent(file, "kept", is_final=True)
    assert store.upload_if_absent(file, "copied")
    assert (tmp_path / "lake/kept").samefile(file)
    assert not (tmp_path / "lake/copied").samefile(file)


def test_a_final_file_of_another_file_system_is_copied(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_here(source: Path, target: Path) -> None:
        if Path(source) == file:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target)

    monkeypatch.setattr(os, "link", link_here)
    store = LocalStore(tmp_path / "lake")
    assert store.upload_if_absent(file, "a", is_final=True)
    assert store.read("a").body == EVERY_BYTE
    assert not (tmp_path / "lake/a").samefile(file)


def test_a_crashed_write_leaves_no_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "missing").mkdir()
    with pytest.raises(IsADirectoryError):
        store.upload_if_absent(tmp_path / "missing", "a")
    assert store.size("a") is None
    assert list(store.list_names("")) == []
