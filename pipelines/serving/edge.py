"""What stands in Serve's own proxy on this machine: its plain refusals become ours, and /healthz never waits.

The proxy answers by itself where no replica can: while the first one loads, when too many requests wait, when
one takes too long. It says so in plain text. Named by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which the
proxies of a cluster do not have: they keep Serve's words, with the same codes.
"""

import asyncio
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.refusals import Refusal, answer_of

IMPORT_PATH = "pipelines.serving.edge.middlewares"
HEALTH_S = 2.0
"""Longest wait for an answer to /healthz before it is 503."""
_SAID = {
    404: ("Nothing is served here yet.", "Try again in a moment."),
    408: ("The request took too long.", "Try again; a smaller picture is read faster."),
    429: ("Too many requests wait.", "Try again in a moment."),
    503: ("No process can answer now.", "Try again in a moment."),
}


class OurRefusals:
    """Puts the proxy's own refusals into our shape."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before the proxy's app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; hold back what the proxy says itself, and say it our way."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        said: Refusal | None = None

        async def translating(message: Message) -> None:
            nonlocal said
            if message["type"] == "http.response.start":
                said = _said_by_proxy(message)
            if said is None:
                await send(message)

        await self._app(scope, receive, translating)
        if said is not None:
            await answer_of(said)(scope, receive, send)


class QuickHealth:
    """Answers /healthz with 503 where no replica does in time."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before the proxy's app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and this one for no longer than HEALTH_S."""
        if scope["type"] != "http" or scope["path"] != "/healthz":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        # The proxy takes the end of the time for a caller who left, and ends without a word.
        with suppress(TimeoutError):
            async with asyncio.timeout(HEALTH_S):
                await self._app(scope, receive, noting)
        if not has_begun:
            what, do = _SAID[503]
            await answer_of(Refusal(503, what, where="/healthz", do=do))(scope, receive, send)


def middlewares() -> list[Any]:
    """Return what the proxy puts before its app."""
    return [Middleware(OurRefusals), Middleware(QuickHealth)]


def _said_by_proxy(start: Message) -> Refusal | None:
    """Return what the proxy refuses itself, in our words; None where a replica answers."""
    code = start["status"]
    if code not in _SAID or not Headers(raw=start["headers"]).get("content-type", "").startswith(
        "text/plain"
    ):
        return None
    what, do = _SAID[code]
    return Refusal(503 if code == 404 else code, what, do=do)
