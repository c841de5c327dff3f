"""Storage that lies: refused, cut off and lost replies, no conditional writes, a full disk."""

import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs
from faulty_proxy import ATTEMPTS, Fault, FaultyProxy, impatient_filesystem

from agman.errors import InvalidInput
from pipelines.errors import CommitUnknown, StaleSnapshot, StorageFull, StorageUnavailable
from pipelines.lake import CURRENT, Lake, working_folder
from pipelines.storage import s3
from pipelines.storage.conditions import check_conditional_writes
from pipelines.storage.local import LocalStore
from pipelines.storage.objects import store_file
from pipelines.storage.s3 import S3Store
from pipelines.storage.s3_connection import shared_filesystem
from pipelines.storage.s3_transfers import MIN_PART_BYTES, Transfers
from pipelines.storage.snapshots import Pointer, read_pointer, swap_pointer

pytestmark = pytest.mark.integration

BODY = os.urandom(300_000)
IN_PARTS = Transfers(
    multipart_bytes=MIN_PART_BYTES, part_bytes=MIN_PART_BYTES, parts_at_once=2, attempts=ATTEMPTS
)
MANY_PARTS = os.urandom(2 * MIN_PART_BYTES + 1)


class ProxiedStore(S3Store):
    """An `S3Store` that talks through a proxy."""

    endpoint = ""

    @property
    def _fs(self) -> s3fs.S3FileSystem:
        return impatient_filesystem(self.endpoint)


@pytest.fixture
def url(s3_server: str) -> str:
    return f"{s3_server}/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def behind(proxy: FaultyProxy, url: str, monkeypatch: pytest.MonkeyPatch) -> ProxiedStore:
    """The store as a run meets it, which asks twice, not for a minute."""
    monkeypatch.setattr(ProxiedStore, "endpoint", proxy.url)
    return ProxiedStore(url, transfers=IN_PARTS)


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


@pytest.mark.parametrize("kind", ["refuse", "break"])
def test_a_passing_refusal_is_tried_again(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, kind: str
) -> None:
    proxy.faults = [Fault(kind, method, "a/1", times=1) for method in ("PUT", "GET")]
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


@pytest.mark.parametrize("kind", ["deny", "reject", "homeless"])
@pytest.mark.parametrize(
    "what", ["put", "upload", "parts", "swap", "read", "copy", "range", "list", "delete"]
)
def test_what_the_store_will_never_do_is_one_line_at_once(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, file: Path, what: str, kind: str
) -> None:
    proxy.faults = [Fault(kind, method, "") for method in ("PUT", "GET", "POST", "DELETE")]
    said = {"deny": "access denied", "reject": "InvalidRequest", "homeless": "no such bucket"}[kind]
    with pytest.raises(InvalidInput, match=f"{behind.url}/.*{said}") as refused:
        {
            "put": lambda: behind.put_if_absent("new", BODY),
            "upload": lambda: behind.upload_if_absent(file, "new"),
            "parts": lambda: behind.upload_if_absent(file, "new", in_parts=True),
            "swap": lambda: behind.compare_and_swap("there", BODY, "version"),
            "read": lambda: behind.read("there"),
            "copy": lambda: behind.local_copy("there").__enter__(),
            "range": lambda: behind.read_range("there", 0, 2),
            "list": lambda: list(behind.list_names("")),
            "delete": lambda: behind.delete("there"),
        }[what]()
    assert "\n" not in str(refused.value)
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("kind", "method", "word"),
    [
        ("refuse", "POST", "uploads"),
        ("break", "PUT", "partNumber=2"),
        ("lose", "PUT", "partNumber=3"),
        ("break", "POST", "uploadId"),
        ("lose", "POST", "uploadId"),
        ("conflict", "POST", "uploadId"),
        ("forget", "POST", "uploadId"),
    ],
)
def test_passing_trouble_in_a_multipart_upload_is_got_over(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, file: Path, kind: str, method: str, word: str
) -> None:
    """Also where the completion was done and its reply lost: the next try meets its own success."""
    file.write_bytes(MANY_PARTS)
    proxy.faults = [Fault(kind, method, word, times=1)]
    assert behind.upload_if_absent(file, "new")
    assert proxy.faults[0].times == 0
    assert server.read("new").body == MANY_PARTS
    assert unfinished(server) == []


@pytest.mark.parametrize(
    ("kind", "word", "expected"),
    [
        ("refuse", "partNumber=2", StorageUnavailable),
        ("deny", "partNumber=2", InvalidInput),
        ("refuse", "uploadId", StorageUnavailable),
        ("deny", "uploadId", InvalidInput),
        ("conflict", "uploadId", CommitUnknown),
    ],
)
def test_a_multipart_upload_that_fails_leaves_no_object_and_no_parts(
    proxy: FaultyProxy,
    behind: ProxiedStore,
    server: S3Store,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    word: str,
    expected: type[Exception],
) -> None:
    monkeypatch.setattr(s3, "wait_s", lambda _: 0.0)
    file.write_bytes(MANY_PARTS)
    proxy.faults = [Fault(kind, "PUT" if "part" in word else "POST", word)]
    with pytest.raises(expected):
        behind.upload_if_absent(file, "new")
    assert server.size("new") is None
    assert unfinished(server) == []


def unfinished(store: S3Store) -> list[str]:
    """Return the keys of the multipart uploads below a store that were neither completed nor given up."""
    files = shared_filesystem()
    found = files.call_s3("list_multipart_uploads", Bucket=store.bucket).get("Uploads", [])
    root = store.url.removeprefix(f"s3://{store.bucket}/")
    return [each["Key"] for each in found if each["Key"].lstrip("/").startswith(root)]


def test_a_body_that_breaks_off_goes_on_where_it_was(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store
) -> None:
    server.put_if_absent("there", MANY_PARTS)
    proxy.faults = [Fault("truncate", "GET", "there", times=2)]
    with behind.local_copy("there") as path:
        assert path.read_bytes() == MANY_PARTS
    assert len(proxy.requests) == 3


def test_an_object_that_changes_while_it_is_read_is_not_mixed(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store
) -> None:
    server.put_if_absent("there", BODY)
    version = server.read("there").version
    proxy.faults = [Fault("truncate", "GET", "there", times=1)]
    proxy.before_reply = lambda: server.compare_and_swap("there", BODY[::-1], version)
    with pytest.raises(StorageUnavailable, match="changed it meanwhile"):
        behind.read("there")


def test_without_credentials_it_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(ProxiedStore, "endpoint", None)
    with pytest.raises(InvalidInput, match="Unable to locate credentials"):
        ProxiedStore(url).read("there")


def test_a_server_that_is_not_there_is_transient_trouble(
    url: str, ports: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProxiedStore, "endpoint", f"http://127.0.0.1:{ports(1)[0]}")
    with pytest.raises(StorageUnavailable, match="there"):
        ProxiedStore(url).read("there")


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
    with pytest.raises(StorageUnavailable, match="SlowDown"):
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


@pytest.mark.parametrize("kind", ["ignored", "ignored in parts", "unsupported"])
def test_a_store_without_conditional_writes_is_refused_in_one_line(
    proxy: FaultyProxy, behind: ProxiedStore, server: S3Store, kind: str
) -> None:
    if kind.startswith("ignored"):
        proxy.ignores_conditions_of = ("POST",) if kind == "ignored in parts" else ("PUT",)
    else:
        proxy.faults = [Fault("unsupported", "PUT", "", times=1_000)]
    with pytest.raises(InvalidInput, match="--unsafe-single-writer") as refused:
        check_conditional_writes(behind)
    assert "\n" not in str(refused.value)
    assert list(server.list_names("")) == []


def test_a_single_writer_who_is_told_so_needs_no_conditions(
    proxy: FaultyProxy, behind: ProxiedStore, url: str, file: Path
) -> None:
    proxy.ignores_conditions_of = ("PUT", "POST")
    store = ProxiedStore(url, is_conditional=False)
    check_conditional_writes(store)
    assert store.put_if_absent("a", b"one")
    assert store.put_if_absent("a", b"one")
    assert not store.put_if_absent("a", b"two")
    assert not store.upload_if_absent(file, "a")
    assert not store.upload_if_absent(file, "a", in_parts=True)
    assert store.upload_if_absent(file, "b", in_parts=True)
    assert store.upload_if_absent(file, "b", in_parts=True)
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
    monkeypatch.setattr(
        s3,
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


LARGE_BYTES = 192 << 20
MOST_BYTES = 32 << 20  # 10 and 16 MiB were measured, whatever the file's size
TRANSFER = """
import re, sys
from pathlib import Path
from pipelines.storage.s3 import S3Store

def most_bytes():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

store, file = S3Store(sys.argv[1]), Path(sys.argv[2])
store.put_if_absent("small", bytes(1 << 20))
before = most_bytes()
assert store.upload_if_absent(file, "large")
uploaded = most_bytes()
assert store.upload_if_absent(file, "large")
with store.local_copy("large") as path:
    assert path.stat().st_size == file.stat().st_size
print(uploaded - before, most_bytes() - uploaded)
"""


def test_large_files_travel_in_bounded_memory(server: S3Store, tmp_path: Path) -> None:
    """In a process of its own, whose high-water mark is nobody else's."""
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)
    found = subprocess.run(
        [sys.executable, "-c", TRANSFER, server.url, str(large)], check=True, capture_output=True, text=True
    )
    uploading, further = (int(number) for number in found.stdout.split())
    assert uploading < MOST_BYTES
    assert further < MOST_BYTES, "comparing and downloading"
    server.delete("large")
