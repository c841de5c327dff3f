"""Storage that lies: refused, cut off and lost replies, no conditional writes, a full disk."""

import errno
import os
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest
import s3fs
from faulty_proxy import Fault, FaultyProxy

from agman.errors import InvalidInput
from pipelines.errors import CommitUnknown, StaleSnapshot, StorageFull, StorageUnavailable
from pipelines.lake import CURRENT, Lake, working_folder
from pipelines.storage.conditions import check_conditional_writes
from pipelines.storage.local import LocalStore
from pipelines.storage.objects import store_file
from pipelines.storage.s3 import S3Store
from pipelines.storage.snapshots import Pointer, read_pointer, swap_pointer

pytestmark = pytest.mark.integration

BODY = os.urandom(300_000)
READ_TIMEOUT_S = 2  # of a client that waits less long than the default, 60


class ProxiedStore(S3Store):
    """An `S3Store` that talks through a proxy."""

    endpoint = ""

    @cached_property
    def _fs(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={"retries": {"max_attempts": 1}, "read_timeout": READ_TIMEOUT_S},
        )


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    found = FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))
    yield found
    found.close()


@pytest.fixture
def url(s3_server: str) -> str:
    return f"{s3_server}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def behind(proxy: FaultyProxy, url: str, monkeypatch: pytest.MonkeyPatch) -> ProxiedStore:
    """The store as a run meets it: s3fs asks once, not for a minute."""
    monkeypatch.setattr(ProxiedStore, "endpoint", proxy.url)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    return ProxiedStore(url)


class ProxiedLake(Lake):
    """A lake on a `ProxiedStore`."""

    @property
    def store(self) -> ProxiedStore:
        return ProxiedStore(self.url)


@pytest.fixture
def lake_behind(behind: ProxiedStore, url: str) -> Lake:
    return ProxiedLake(url)


@pytest.fixture
def server(url: str) -> S3Store:
    """The same store without the proxy: what is there in truth."""
    return S3Store(url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(BODY)
    return tmp_path / "file.bin"


def test_a_passing_refusal_is_tried_again(proxy: FaultyProxy, behind: ProxiedStore, server: S3Store) -> None:
    proxy.faults = [Fault("refuse", method, "a/1", times=1) for method in ("PUT", "GET")]
    assert behind.put_if_absent("a/1", BODY)
    assert behind.read("a/1").body == BODY
    assert server.read("a/1").body == BODY


@pytest.mark.parametrize("what", ["put", "upload", "swap", "read", "copy", "range", "size"])
def test_a_lasting_refusal_is_transient_trouble_and_writes_nothing(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, file: Path, what: str
) -> None:
    server.put_if_absent("there", b"old")
    proxy.faults = [Fault("refuse", method, "", times=1_000) for method in ("PUT", "GET", "HEAD")]
    with pytest.raises(StorageUnavailable):
        {
            "put": lambda: behind.put_if_absent("new", BODY),
            "upload": lambda: store_file(behind, file, "new"),
            "swap": lambda: behind.compare_and_swap("there", BODY, server.read("there").version),
            "read": lambda: behind.read("there"),
            "copy": lambda: behind.local_copy("there").__enter__(),
            "range": lambda: behind.read_range("there", 0, 2),
            "size": lambda: behind.size("there"),
        }[what]()
    assert server.size("new") is None
    assert server.read("there").body == b"old"


@pytest.mark.parametrize("kind", ["truncate", "stall"])
@pytest.mark.parametrize("what", ["read", "copy", "range"])
def test_half_of_a_body_is_never_taken_for_the_whole(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, what: str, kind: str
) -> None:
    server.put_if_absent("there", BODY)

    def read() -> bytes:
        if what == "read":
            return behind.read("there").body
        if what == "range":
            return behind.read_range("there", 0, len(BODY))
        with behind.local_copy("there") as path:
            return path.read_bytes()

    proxy.faults = [Fault(kind, "GET", "there", times=1_000)]
    with pytest.raises(StorageUnavailable):
        read()
    proxy.faults = []
    assert read() == BODY


@pytest.mark.parametrize("what", ["put", "upload"])
def test_a_write_whose_reply_is_lost_counts_as_done(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, file: Path, what: str
) -> None:
    """The client asks again and is told 412 by its own success."""
    proxy.faults = [Fault("lose", "PUT", "new", times=1)]
    if what == "put":
        assert behind.put_if_absent("new", BODY)
    else:
        assert store_file(behind, file, "new").num_bytes == len(BODY)
    assert sum(request.startswith("PUT") for request in proxy.requests) == 2
    assert server.read("new").body == BODY


def test_a_swap_whose_reply_is_lost_counts_as_done_once(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store
) -> None:
    server.put_if_absent("pointer", b"one")
    version = server.read("pointer").version
    proxy.faults = [Fault("lose", "PUT", "pointer", times=1)]
    assert behind.compare_and_swap("pointer", b"two", version)
    assert not behind.compare_and_swap("pointer", b"three", version)
    assert server.read("pointer").body == b"two"


@pytest.fixture
def pointer(lake_behind: Lake) -> Pointer:
    """A first snapshot's pointer, published."""
    swap_pointer(lake_behind, Pointer("one", "uuid-1", None, "now"), None)
    found = read_pointer(lake_behind)
    assert found
    return found


def test_a_publication_whose_reply_is_lost_for_good_is_settled_by_reading_back(
    proxy: FaultyProxy, lake_behind: Lake, pointer: Pointer
) -> None:
    """Every try is left without a reply, the client gives up: the first of them was done."""
    proxy.faults = [Fault("lose", "PUT", CURRENT)]
    swap_pointer(lake_behind, Pointer("two", "uuid-2", "one", "now"), pointer.version)
    found = read_pointer(lake_behind)
    assert found
    assert (found.snapshot, found.commit_uuid) == ("two", "uuid-2")


def test_a_publication_that_cannot_be_read_back_says_that_it_is_not_known(
    proxy: FaultyProxy, lake_behind: Lake, pointer: Pointer
) -> None:
    proxy.faults = [Fault("lose", "PUT", CURRENT), Fault("refuse", "GET", CURRENT)]
    with pytest.raises(CommitUnknown, match=r"look at CURRENT\.json"):
        swap_pointer(lake_behind, Pointer("two", "uuid-2", "one", "now"), pointer.version)


def test_a_publication_that_was_refused_changed_nothing(
    proxy: FaultyProxy, lake_behind: Lake, pointer: Pointer
) -> None:
    proxy.faults = [Fault("refuse", "PUT", CURRENT)]
    with pytest.raises((StaleSnapshot, StorageUnavailable)):
        swap_pointer(lake_behind, Pointer("two", "uuid-2", "one", "now"), pointer.version)
    assert read_pointer(lake_behind) == pointer


def test_of_two_publications_with_lost_replies_one_is_done(
    proxy: FaultyProxy, lake_behind: Lake, pointer: Pointer
) -> None:
    proxy.faults = [Fault("lose", "PUT", CURRENT)]
    swap_pointer(lake_behind, Pointer("two", "uuid-2", "one", "now"), pointer.version)
    with pytest.raises(StaleSnapshot):
        swap_pointer(lake_behind, Pointer("three", "uuid-3", "one", "now"), pointer.version)
    found = read_pointer(lake_behind)
    assert found
    assert found.snapshot == "two"


def test_a_store_with_conditional_writes_is_accepted(behind: ProxiedStore, server: S3Store) -> None:
    check_conditional_writes(behind)
    assert list(server.list_names("")) == []


@pytest.mark.parametrize("kind", ["ignored", "unsupported"])
def test_a_store_without_conditional_writes_is_refused_in_one_line(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, kind: str
) -> None:
    if kind == "ignored":
        proxy.ignores_conditions = True
    else:
        proxy.faults = [Fault("unsupported", "PUT", "", times=1_000)]
    with pytest.raises(InvalidInput, match="--unsafe-single-writer") as refused:
        check_conditional_writes(behind)
    assert "\n" not in str(refused.value)
    assert list(server.list_names("")) == []


def test_a_single_writer_who_is_told_so_needs_no_conditions(
    proxy: FaultyProxy, behind: ProxiedStore, url: str, file: Path
) -> None:
    proxy.ignores_conditions = True
    store = ProxiedStore(url, is_conditional=False)
    check_conditional_writes(store)
    assert store.put_if_absent("a", b"one")
    assert store.put_if_absent("a", b"one")
    assert not store.put_if_absent("a", b"two")
    assert not store.upload_if_absent(file, "a")
    version = store.read("a").version
    assert store.compare_and_swap("a", b"three", version)
    assert not store.compare_and_swap("a", b"four", version)
    assert store.read("a").body == b"three"
    assert not any("probes" in request for request in proxy.requests)


def test_a_full_disk_is_one_line_and_leaves_nothing_half(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "lake")
    assert store.put_if_absent("there", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: store.put_if_absent("new", BODY),
        lambda: store.upload_if_absent(file, "new"),
        lambda: store.compare_and_swap("there", BODY, store.read("there").version),
    ):
        with pytest.raises(StorageFull, match=r"lake: no room left .*run again"):
            write()
    monkeypatch.undo()
    assert store.size("new") is None
    assert store.read("there").body == b"old"
    assert list((tmp_path / "lake" / ".staging").iterdir()) == []


@pytest.mark.parametrize("call", ["mkdir", "link"])
def test_a_disk_without_room_for_a_name_is_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = LocalStore(tmp_path / "lake")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageFull, match=r"lake: no room left"):
        store.put_if_absent("folder/new", BODY)
    monkeypatch.undo()
    assert list(store.list_names("")) == []


def test_no_room_for_a_download_is_told_alike(
    behind: ProxiedStore, server: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put_if_absent("there", BODY)
    # s3fs opens the file to download into itself.
    monkeypatch.setattr(
        s3fs.core,
        "open",
        lambda _, mode: open("/dev/full", mode, buffering=0),
        raising=False,
    )
    with pytest.raises(StorageFull, match="no room left"), behind.local_copy("there"):
        pass


def test_a_full_disk_for_working_files_is_told_alike() -> None:
    with pytest.raises(StorageFull, match="no room left"), working_folder():
        # A device that is always full.
        with open("/dev/full", "wb") as stream:
            stream.write(BODY)


def test_a_lake_travels_with_what_it_was_told(url: str) -> None:
    import pickle

    store = pickle.loads(pickle.dumps(Lake(url, unsafe_single_writer=True))).store
    assert store.has_conditions
    assert not pickle.loads(pickle.dumps(Lake(url))).store.has_conditions
    assert pickle.loads(pickle.dumps(store)).has_conditions
