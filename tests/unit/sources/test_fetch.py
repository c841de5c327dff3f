import http.server
import os
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest

from agman.errors import BadSample
from pipelines.errors import StorageUnavailable
from pipelines.sources import FolderSource, TableSource, fetch
from pipelines.sources.allowed import Allowed, allow, folder_place
from pipelines.sources.tokens import ABSENT, version_token

LOCAL = Allowed(folder_place("/"))


def anywhere(uri: str) -> Allowed:
    """Allow all that is not the web, and the server that this uri names."""
    servers = [f"http://{urlsplit(uri).netloc.rpartition('@')[2]}"] if uri.startswith("http") else []
    return allow((), ["/", "memory://", "generated:", *servers])


def fetch_any(uri: str, **options) -> bytes:
    return fetch(uri, anywhere(uri), **options)


class Handler(http.server.BaseHTTPRequestHandler):
    """/status/<n> answers with that status, /bytes/<n> with n bytes, /stream/<n> does not tell how many."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        num_bytes = self.answer()
        if num_bytes:
            self.wfile.write(b"x" * num_bytes)

    def answer(self) -> int:
        _, what, number = self.path.split("/")
        self.send_response(int(number) if what == "status" else 200)
        if what == "bytes":
            self.send_header("Content-Length", number)
            self.send_header("ETag", '"e7"')
        self.end_headers()
        return 0 if what == "status" else int(number)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def refused(uri: str, **options) -> str:
    with pytest.raises(BadSample) as caught:
        fetch_any(uri, **options)
    return caught.value.kind


def test_reads_local_files(tmp_path):
    path = tmp_path / "a b%.jpg"
    path.write_bytes(b"abc")
    assert fetch_any(str(path)) == b"abc"
    assert fetch_any(f"file://{tmp_path}/a%20b%25.jpg") == b"abc"
    (tmp_path / "empty").touch()
    assert fetch_any(str(tmp_path / "empty")) == b""


def test_reads_what_a_folder_lists(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"odd")
    (tmp_path / "b.jpg").write_bytes(b"even")
    (batch,) = FolderSource(tmp_path).batches()
    assert [fetch_any(uri) for uri in batch["uri"].to_pylist()] == [b"even", b"odd"]
    assert [version_token(uri, LOCAL) for uri in batch["uri"].to_pylist()] == batch["token"].to_pylist()


def test_a_link_is_followed_to_where_it_may_lead_and_no_further(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "shop/a.jpg").write_bytes(b"a")
    (tmp_path / "shop/inside.jpg").symlink_to(tmp_path / "shop/a.jpg")
    (tmp_path / "shop/outside.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "shop/up").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path / "shop")
    allowed = Allowed(folder_place(str(tmp_path / "alias")))
    for uri in ("shop/a.jpg", "alias/a.jpg", "shop/inside.jpg", "shop/up/shop/a.jpg", "shop/../alias/a.jpg"):
        assert fetch(f"{tmp_path}/{uri}", allowed) == b"a"
    for uri in (
        "shop/outside.jpg",
        "shop/up/secret",
        "shop/../secret",
        "secret",
        "shop/missing/../../secret",
    ):
        with pytest.raises(BadSample) as caught:
            fetch(f"{tmp_path}/{uri}", allowed)
        assert caught.value.kind == "uri_not_allowed"


def test_a_single_file_may_be_the_place(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert fetch(f"{tmp_path}/a.jpg", allow((), [f"{tmp_path}/a.jpg"])) == b"a"


def test_without_handles_of_names_local_files_are_read_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["pipelines.sources.fetch"], "_NAME_ONLY", 0)  # as on macOS
    test_a_link_is_followed_to_where_it_may_lead_and_no_further(tmp_path)


def test_says_what_is_wrong_with_a_local_file(tmp_path):
    for path in (tmp_path / "gone.jpg", tmp_path, tmp_path / ("x" * 300), "a\0b"):
        assert version_token(str(path), LOCAL) == ABSENT
    assert refused(str(tmp_path / "gone.jpg")) == "missing"
    assert refused(str(tmp_path)) == "missing"
    assert refused(str(tmp_path / ("x" * 300))) == "missing"
    assert refused("a\0b") == "missing"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refused(str(tmp_path / "pipe.jpg")) == "missing"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_says_when_reading_is_not_allowed(tmp_path):
    (tmp_path / "a.jpg").touch(mode=0)
    assert refused(str(tmp_path / "a.jpg")) == "forbidden"


def test_checks_the_size_before_reading(tmp_path):
    path = tmp_path / "big.jpg"
    with path.open("wb") as stream:
        stream.truncate(2**40)  # a hole: reading it would need 1 TiB
    assert refused(str(path)) == "too_large"
    path.write_bytes(b"1234")
    assert fetch_any(str(path), max_bytes=4) == b"1234"
    assert refused(str(path), max_bytes=3) == "too_large"


@pytest.mark.parametrize(
    "uri",
    [
        "pipe:touch pwned",
        "ftp://host/a.jpg",
        "zip://a.jpg::/etc/x.zip",
        "simplecache::file:///etc/passwd",
        "data:image/png;base64,AA==",
        "s3:bucket/a.jpg",
        "PIPE:id",
    ],
)
def test_refuses_schemes_that_are_not_listed(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(uri) == "uri_not_allowed"
    assert version_token(uri, LOCAL) == ""
    assert list(tmp_path.iterdir()) == []


def test_never_follows_a_chain(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    assert refused(f"memory://a::file://{tmp_path}/secret") == "missing"


def test_reads_remote_objects():
    fsspec.filesystem("memory").pipe("/fetch/a.jpg", b"abc")
    assert fetch_any("memory://fetch/a.jpg") == b"abc"
    assert refused("memory://fetch/gone.jpg") == "missing"
    assert refused("memory://fetch/a.jpg", max_bytes=2) == "too_large"


def test_reads_over_http(server):
    assert fetch_any(f"{server}/bytes/5") == b"xxxxx"
    assert fetch_any(f"{server}/stream/300000") == b"x" * 300000
    assert refused(f"{server}/bytes/5", max_bytes=4) == "too_large"
    assert refused(f"{server}/stream/300000", max_bytes=4) == "too_large"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "missing"), (410, "missing"), (403, "forbidden"), (401, "forbidden"), (418, "unreadable")],
)
def test_http_refusals_are_bad_samples(server, status, kind):
    assert refused(f"{server}/status/{status}") == kind


@pytest.mark.parametrize("status", [500, 503, 429])
def test_http_trouble_is_worth_another_try(server, status):
    with pytest.raises(StorageUnavailable, match=str(status)):
        fetch_any(f"{server}/status/{status}")


def test_an_unreachable_server_is_worth_another_try(server):
    with pytest.raises(StorageUnavailable):
        fetch_any("http://127.0.0.1:1/a.jpg")


def test_messages_hide_signatures():
    with pytest.raises(StorageUnavailable) as caught:
        fetch_any("http://user:word@127.0.0.1:1/a.jpg?signature=secret")
    assert "secret" not in str(caught.value)
    assert "word" not in str(caught.value)


def test_draws_generated_pictures():
    picture = fetch_any("generated:0/1/64/style-000001")
    assert picture[:2] == b"\xff\xd8"
    assert picture == fetch_any("generated:0/1/64/style-000001")
    assert picture != fetch_any("generated:0/0/64/style-000001")
    assert refused("generated:nonsense") == "missing"
    assert version_token("generated:0/1/64/style-000001", anywhere("generated:")) == "v1"


def test_a_server_tells_tokens(server, tmp_path):
    (tmp_path / "t.csv").write_text(f"key,uri\na,{server}/bytes/5\nb,{server}/status/404\n")
    (batch,) = TableSource(str(tmp_path / "t.csv"), [server]).batches()
    assert batch["token"].to_pylist() == ["e7", ""]
