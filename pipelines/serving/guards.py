"""What a request meets before the app: its bytes are counted as they come, and its token is compared."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.refusals import Interrupted, Refusal, answer_of

FORM_BYTES = 256 << 10
"""What a form may hold beside its picture."""
PROTECTED = (
    "/search", "/similar", "/products", "/pictures", "/attention", "/attributes", "/snapshots", "/metrics",
)  # fmt: skip
"""Addresses that tell something of the catalog. What is left, /healthz, the page, the description of the
service, tells nothing, and a browser must be able to show it before a person can give a token."""


def token_digest(token: str) -> bytes:
    """Return what is kept of a token: no process but the one that was given it can tell it."""
    return hashlib.sha256(token.encode()).digest()


class BodyLimit:
    """Refuses bodies that are too long: by what the request says of it, or once that much has come."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Stand before an app.

        Args:
            app: what follows.
            max_bytes: of a picture.
        """
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and no more of its body than is allowed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bound = self._max_bytes + FORM_BYTES
        said = Headers(scope=scope).get("content-length", "")
        if said.isdecimal() and int(said) > bound:
            await answer_of(self._refusal(f"{said} bytes"), {"Connection": "close"})(scope, receive, send)
            return
        num_bytes = 0

        async def counting() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > bound:
                raise Interrupted(self._refusal(f"more than {bound} bytes"))
            return message

        await self._app(scope, counting, send)

    def _refusal(self, found: str) -> Refusal:
        return Refusal(
            413,
            "The upload is too large.",
            where="body",
            expected=f"a picture of at most {self._max_bytes} bytes",
            found=found,
            do="Send a smaller copy: the network looks at a few hundred pixels.",
        )


class Token:
    """Lets in who shows the token, where there is one."""

    def __init__(self, app: ASGIApp, digest: bytes) -> None:
        """Stand before an app.

        Args:
            app: what follows.
            digest: of the token, as `token_digest` gives it.
        """
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is open to everybody or shows the token."""
        if scope["type"] == "http" and _is_protected(scope["path"]):
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            # Both digests have one length, and comparing them takes one time.
            is_right = hmac.compare_digest(token_digest(token.strip()), self._digest)
            if scheme.lower() != "bearer" or not is_right:
                refusal = Refusal(
                    401,
                    "This service wants a token.",
                    where="header Authorization",
                    expected="Bearer and the token",
                    found="another one" if token else "none",
                    do="Ask who runs the service for its token.",
                )
                await answer_of(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_protected(path: str) -> bool:
    return any(path == start or path.startswith(f"{start}/") for start in PROTECTED)
