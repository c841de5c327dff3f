"""Headers of every answer: nothing is loaded from elsewhere, and nothing is taken for another kind."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DOCS = "/docs"
SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_INLINE = SAFE["Content-Security-Policy"].replace("default-src 'self'", "default-src 'self' 'unsafe-inline'")
"""For the page of the API, which is not ours: its script and styles stand in it."""


class SafeHeaders:
    """Adds the headers that an answer does not have itself."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"] == DOCS:
                    headers["Content-Security-Policy"] = _INLINE
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)
