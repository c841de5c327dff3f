"""Web servers that mean ill: where they send us, and how they try to hold us up."""

import gzip
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from agman.errors import BadSample
from pipelines.sources import TableSource, fetch
from pipelines.sources.allowed import Allowed, allow
from pipelines.sources.tokens import version_token
from pipelines.sources.web import read_web


class Handler(http.server.BaseHTTPRequestHandler):
    """/to/<url> redirects, /drip sends a byte now and then for ever, /gzip/<n> unpacks to n bytes."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        _, what, rest = self.path.split("/", 2)
        if what == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif what == "drip":
            self.drip()
        elif what == "gzip":
            body = gzip.compress(bytes(int(rest)))
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif what == "head" and self.command == "HEAD":
            self.send_error(403)
        else:
            self.send_response(200)
            self.send_header("ETag", "e1")
            self.end_headers()
            self.wfile.write(b"picture" if self.command == "GET" else b"")

    def drip(self):
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.stopped.wait(0.02):
                self.wfile.write(b"x")
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.stopped, self.hung_up = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that is allowed, one that is not."""
    both = Server(), Server()
    for server in both:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield both
    for server in both:
        server.stopped.set()
        server.shutdown()
        server.server_close()


def refused(uri: str, allowed: Allowed) -> str:
    with pytest.raises(BadSample) as caught:
        fetch(uri, allowed)
    assert caught.value.kind == "uri_not_allowed"
    return caught.value.message


def test_a_redirect_is_followed_where_it_is_allowed(servers):
    ours, _ = servers
    assert fetch(f"{ours.url}/to/{ours.url}/picture/1", allow((), [ours.url])) == b"picture"


def test_a_redirect_to_another_server_is_refused_before_it_is_asked(servers):
    ours, other = servers
    allowed = allow((), [ours.url])
    uri = f"{ours.url}/to/{other.url}/picture/1"
    assert f"{other.url}/picture/1: expected a uri below {ours.url}/" in refused(uri, allowed)
    assert version_token(uri, allowed) == ""
    assert ours.asked
    assert other.asked == []


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/", "file:///etc/passwd", "//localhost:1/"])
def test_a_redirect_out_of_the_web_is_refused(servers, target):
    ours, _ = servers
    with pytest.raises(BadSample) as caught:
        fetch(f"{ours.url}/to/{target}", allow((), [ours.url]))
    assert caught.value.kind == "uri_not_allowed"


def test_a_prefix_holds_for_redirects_too(servers):
    ours, _ = servers
    refused(f"{ours.url}/to/{ours.url}/private/1", allow((), [f"{ours.url}/to"]))
    assert [path for _, path in ours.asked] == [f"/to/{ours.url}/private/1"]


def test_a_name_that_leads_to_a_private_address_is_refused_before_it_is_asked(servers):
    _, other = servers
    uri = f"http://localhost:{other.server_port}/picture/1"
    assert "is no public address" in refused(uri, Allowed())
    assert fetch(uri, allow((), [f"http://localhost:{other.server_port}"])) == b"picture"
    assert len(other.asked) == 1


def test_any_spelling_of_the_loopback_address_is_refused(servers):
    _, other = servers
    for host in ("0x7f.1", "017700000001", "localhost.", "ip6-localhost", socket.gethostname()):
        with pytest.raises(Exception) as caught:  # noqa: PT011  a name that this machine cannot resolve
            fetch(f"http://{host}:{other.server_port}/picture/1", Allowed())
        assert other.asked == [], caught.value


def test_a_stream_without_an_end_costs_a_minute_at_most(servers):
    ours, _ = servers
    with pytest.raises(BadSample, match=r"bytes after 0\.3 s and no end") as caught:
        read_web(f"{ours.url}/drip/1", allow((), [ours.url]), 1000, timeout_s=0.3)
    assert caught.value.kind == "unavailable"
    assert ours.hung_up.wait(5)


def test_a_stream_without_an_end_is_cut_at_the_most_bytes(servers):
    ours, _ = servers
    with pytest.raises(BadSample, match="expected 5 at most") as caught:
        read_web(f"{ours.url}/drip/1", allow((), [ours.url]), 5)
    assert caught.value.kind == "too_large"
    assert ours.hung_up.wait(5)


def test_a_small_body_that_unpacks_to_a_large_one_is_cut(servers):
    ours, _ = servers
    assert len(read_web(f"{ours.url}/gzip/1000", allow((), [ours.url]), 1000)) == 1000
    with pytest.raises(BadSample, match="expected 1000000 at most"):
        read_web(f"{ours.url}/gzip/{10**8}", allow((), [ours.url]), 10**6)


def test_a_signature_for_get_alone_tells_a_token(servers):
    ours, _ = servers
    assert version_token(f"{ours.url}/head/1", allow((), [ours.url])) == "e1"
    assert [command for command, _ in ours.asked] == ["HEAD", "GET"]


def test_a_table_asks_nobody_whom_it_may_not_ask(servers, tmp_path):
    ours, other = servers
    (tmp_path / "t.csv").write_text(f"key,uri\na,{ours.url}/p/1\nb,{other.url}/p/1\nc,/etc/passwd\n")
    (batch,) = TableSource(str(tmp_path / "t.csv"), [ours.url]).batches()
    assert batch["token"].to_pylist() == ["e1", "", ""]
    assert other.asked == []
