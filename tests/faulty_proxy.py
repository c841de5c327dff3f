"""An HTTP proxy on loopback before an S3 server, which lies when it is told to."""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import s3fs

from pipelines.storage.s3_connection import open_filesystem

ATTEMPTS = 2
READ_TIMEOUT_S = 2
HOP = ("connection", "transfer-encoding", "keep-alive", "content-length", "date", "server")

REPLIES = {
    "refuse": (503, "SlowDown"),
    "break": (500, "InternalError"),
    "unsupported": (501, "NotImplemented"),
    "deny": (403, "AccessDenied"),
    "reject": (400, "InvalidRequest"),
    "homeless": (404, "NoSuchBucket"),
    "conflict": (409, "ConditionalRequestConflict"),
    "forget": (404, "NoSuchUpload"),
}


@cache
def impatient_filesystem(endpoint: str) -> s3fs.S3FileSystem:
    """Return a client that gives up soon; one for an endpoint, since making it costs half a second."""
    return open_filesystem(endpoint, attempts=ATTEMPTS, read_timeout_s=READ_TIMEOUT_S)


@dataclass
class Fault:
    """What happens to the next requests of a method whose path has a word in it."""

    kind: str
    """A key of `REPLIES`, which is said in place of doing anything; `truncate` (half a body), `stall` (half a
    body, then silence), `lose` (no reply to what was done)."""
    method: str
    word: str
    times: int = 1_000_000


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that gave up has closed its end, and tests look at what it got."""


class FaultyProxy:
    """Passes requests on to 127.0.0.1:`port`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.faults: list[Fault] = []
        self.ignores_conditions_of: tuple[str, ...] = ()
        """Methods: PUT, and POST, which completes an upload of parts."""
        self.requests: list[str] = []
        self.before_reply: Callable[[], object] | None = None
        """Called once, when the server has answered and the client has not been told yet."""
        self.is_closed = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fault(self, method: str, path: str) -> str:
        """Return the kind of fault that a request meets; empty for none."""
        for fault in self.faults:
            if fault.times and fault.method == method and fault.word in path:
                fault.times -= 1
                return fault.kind
        return ""

    @staticmethod
    def overwrite(path: str, body: bytes) -> str:
        """Put an object without a condition, as a store that knows none would, and return its ETag."""
        bucket, _, key = unquote(path.split("?")[0]).lstrip("/").partition("/")
        files = s3fs.S3FileSystem(use_listings_cache=False)
        return str(files.call_s3("put_object", Bucket=bucket, Key=key, Body=body)["ETag"])

    def close(self) -> None:
        self.is_closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.proxy.fault(self.command, self.path)
        self.proxy.requests.append(f"{self.command} {self.path}")
        if kind in REPLIES:
            status, code = REPLIES[kind]
            said = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
            return self._answer(status, [("Content-Type", "application/xml")], said)
        server = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=30)
        try:
            server.request(self.command, self.path, body, dict(self.headers))
            reply = server.getresponse()
            found = reply.read()
            if self.proxy.before_reply:
                happen, self.proxy.before_reply = self.proxy.before_reply, None
                happen()
            kept = [(name, value) for name, value in reply.getheaders() if name.lower() not in HOP]
            is_ignored = self.command in self.proxy.ignores_conditions_of
            if reply.status == HTTPStatus.PRECONDITION_FAILED and is_ignored:
                etag = self.proxy.overwrite(self.path, body)
                return self._answer(200, [("ETag", etag)], f"<Result><ETag>{etag}</ETag></Result>".encode())
            if kind == "lose":
                self.close_connection = True
                return self.connection.close()
            length = reply.getheader("Content-Length") if self.command == "HEAD" else None
            return self._answer(reply.status, kept, found, kind=kind, length=length)
        finally:
            server.close()

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        *,
        kind: str = "",
        length: str | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        is_cut = kind in ("truncate", "stall")
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.wfile.flush()
            if kind == "stall":
                self.proxy.is_closed.wait()
            self.close_connection = True
            self.connection.close()

    do_GET: Callable[..., None] = _pass_on
    do_HEAD: Callable[..., None] = _pass_on
    do_PUT: Callable[..., None] = _pass_on
    do_POST: Callable[..., None] = _pass_on
    do_DELETE: Callable[..., None] = _pass_on
