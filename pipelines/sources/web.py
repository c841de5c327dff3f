"""Pictures from web servers, each hop of a redirect and each address of a host checked before it is asked."""

import asyncio
import threading
import weakref
from collections.abc import Mapping
from functools import lru_cache

import aiohttp
from aiohttp.abc import ResolveResult
from fsspec.asyn import get_loop, sync

from agman.errors import BadSample
from pipelines.redaction import shown_uri
from pipelines.sources.allowed import NOT_ALLOWED, Allowed, not_public

TIMEOUT_S = 60.0
"""For one picture, from the first word to the last byte, so that a byte a second holds nobody up."""
SILENT_S = 20.0
"""Longest wait for a connection, and between two pieces of a body."""
PIECE_BYTES = 1 << 18
_LOCK = threading.Lock()


def read_web(uri: str, allowed: Allowed, max_bytes: int, timeout_s: float = TIMEOUT_S) -> bytes:
    """Read the body behind a web address.

    Args:
        uri: of scheme http or https.
        allowed: where it and its redirects may lead.
        max_bytes: more than this is refused, before reading where the size is told.
        timeout_s: for all of it.

    Raises:
        BadSample: kind NOT_ALLOWED, "too_large", or "unavailable" when the time is up.
        aiohttp.ClientError, TimeoutError: what the server or the way to it did.
    """
    body: bytes = sync(get_loop(), _read, _session(allowed), uri, max_bytes, timeout_s)
    return body


def read_headers(uri: str, allowed: Allowed) -> Mapping[str, str]:
    """Return what a server says of a picture without sending it; errors as for `read_web`."""
    headers: Mapping[str, str] = sync(get_loop(), _head, _session(allowed), uri)
    return headers


async def _read(session: aiohttp.ClientSession, uri: str, max_bytes: int, timeout_s: float) -> bytes:
    pieces: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(timeout_s) as clock, session.get(uri) as reply:
            reply.raise_for_status()
            _check_size(uri, reply.content_length or 0, max_bytes)
            async for piece in reply.content.iter_chunked(PIECE_BYTES):
                pieces.append(piece)
                num_bytes += len(piece)
                _check_size(uri, num_bytes, max_bytes)
    except TimeoutError as error:
        if not clock.expired():
            raise
        # Not tried again tonight: a shard of such pictures would take a night.
        raise BadSample(
            "unavailable", f"{shown_uri(uri)}: {num_bytes} bytes after {timeout_s:g} s and no end"
        ) from error
    return b"".join(pieces)


async def _head(session: aiohttp.ClientSession, uri: str) -> Mapping[str, str]:
    async with asyncio.timeout(TIMEOUT_S):
        async with session.head(uri, allow_redirects=True) as reply:
            if reply.ok:
                return reply.headers
        async with session.get(uri) as reply:  # a signature may be for GET alone
            reply.raise_for_status()
            return reply.headers


def _check_size(uri: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise BadSample("too_large", f"{shown_uri(uri)}: {num_bytes} bytes, expected {max_bytes} at most")


def _session(allowed: Allowed) -> aiohttp.ClientSession:
    with _LOCK:
        return _session_of(get_loop(), allowed)


@lru_cache(maxsize=4)
def _session_of(loop: asyncio.AbstractEventLoop, allowed: Allowed) -> aiohttp.ClientSession:
    """Return the session of this process: its connections are kept from picture to picture."""
    session: aiohttp.ClientSession = sync(loop, _open_session, allowed)
    # An open session complains when it is collected, be it at the end of the process.
    weakref.finalize(session, _close, session.connector)
    return session


async def _open_session(allowed: Allowed) -> aiohttp.ClientSession:
    async def check_hop(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        allowed.check(str(request.url))
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=PublicResolver(allowed)),
        middlewares=(check_hop,),
        cookie_jar=aiohttp.DummyCookieJar(),  # a server tells nothing about another one's pictures
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=SILENT_S, sock_read=SILENT_S),
    )


def _close(connector: aiohttp.BaseConnector | None) -> None:
    if connector is not None:
        connector._close()  # `close` would wait for a loop that has ended


class PublicResolver(aiohttp.ThreadedResolver):
    """Gives only addresses that may be reached: what is connected to is what was checked."""

    def __init__(self, allowed: Allowed) -> None:
        """Remember what is allowed."""
        super().__init__()
        self._allowed = allowed

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Resolve a host.

        Raises:
            BadSample: kind NOT_ALLOWED if all its addresses are refused.
            OSError: if it has none.
        """
        found = await super().resolve(host, port, family)  # type: ignore[arg-type]
        admitted = [each for each in found if self._allowed.admits(host, port, each["host"])]
        if found and not admitted:
            raise BadSample(NOT_ALLOWED, f"{host}: {not_public(found[0]['host'])}")
        return admitted
