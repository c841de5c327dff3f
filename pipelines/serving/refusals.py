"""Every refusal in one shape: {"error": {"what", "where", "expected", "found", "do"}}, and the right code.

```
400 the request cannot be read            413 too many bytes or pixels
401 no token, or another one              415 no picture, or a kind that is not read
404 no such key, attribute map or page    422 a value that cannot be
405 another method                        429 too many requests at once
408 it took too long                      503 nothing is loaded yet, or the storage does not answer
```
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from agman.errors import AgmanError, BadSample, InvalidInput
from pipelines.filters import shown
from pipelines.redaction import without_secrets

RETRY_S = 1
MAX_LETTERS = 600
_log = logging.getLogger(__name__)


class Error(BaseModel):
    """What is wrong with a request, for a person."""

    what: str
    """In one sentence."""
    where: str = ""
    """Field, parameter or path."""
    expected: str = ""
    found: str = ""
    do: str = ""
    """What helps."""


class ErrorAnswer(BaseModel):
    """The body of every refusal."""

    error: Error


DESCRIBED: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": what}
    for code, what in {
        400: "The request cannot be read",
        401: "No bearer token, or another one",
        404: "There is no such thing",
        408: "It took too long",
        413: "Too many bytes or pixels",
        415: "No picture, or of a kind that is not read",
        422: "A value that cannot be",
        429: "Too many requests at once",
        503: "Not loaded yet, or the storage does not answer",
    }.items()
}
"""For the OpenAPI description."""


class Refusal(Exception):
    """A request that is refused."""

    def __init__(
        self, code: int, what: str, *, where: str = "", expected: str = "", found: str = "", do: str = ""
    ) -> None:
        """Say with which code, and what is wrong."""
        super().__init__(what)
        self.code = code
        self.error = Error(
            what=_cut(what), where=_cut(where), expected=_cut(expected), found=_cut(found), do=_cut(do)
        )


class Interrupted(HTTPException):
    """A refusal while a form is read, where the framework takes every other error for a form that is none."""

    def __init__(self, refusal: Refusal) -> None:
        """Carry a refusal."""
        super().__init__(refusal.code)
        self.refusal = refusal


def _cut(text: str) -> str:
    """Return a text that fits an answer: not endless, and without half a surrogate pair."""
    whole = text.encode("utf-8", "replace").decode()
    return whole if len(whole) <= MAX_LETTERS else f"{whole[: MAX_LETTERS - 1]}…"


def answer_of(refusal: Refusal, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a refusal as an answer."""
    said = dict(headers or {})
    if refusal.code == 401:
        said["WWW-Authenticate"] = "Bearer"
    if refusal.code in (429, 503):
        said["Retry-After"] = str(RETRY_S)
    return JSONResponse(ErrorAnswer(error=refusal.error).model_dump(), refusal.code, said)


def refusal_of_picture(error: BadSample, where: str = "picture") -> Refusal:
    """Return why an uploaded picture is refused."""
    code = {"too_large": 413, "not_an_image": 415, "unsupported": 415, "empty": 415}.get(error.kind, 422)
    return Refusal(
        code,
        "The picture cannot be used.",
        where=where,
        expected="a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF picture within the limits",
        found=without_secrets(str(error)),
        do="Send another picture, or save it anew as a JPEG.",
    )


@contextmanager
def refused_at(where: str) -> Iterator[None]:
    """Name the field of what is found to be invalid within a `with`."""
    try:
        yield
    except InvalidInput as error:
        said = without_secrets(str(error))
        raise Refusal(422, said, where=where, do="GET /attributes lists what there is.") from error


def install(app: FastAPI) -> None:
    """Let an app answer whatever goes wrong in the one shape."""
    app.exception_handler(Refusal)(_refused)
    app.exception_handler(Interrupted)(_interrupted)
    app.exception_handler(InvalidInput)(_invalid)
    app.exception_handler(RequestValidationError)(_unreadable)
    app.exception_handler(HTTPException)(_http)
    app.exception_handler(AgmanError)(_ours)
    app.exception_handler(OSError)(_ours)
    app.exception_handler(Exception)(_crashed)


async def _interrupted(_: Request, error: Interrupted) -> JSONResponse:
    return answer_of(error.refusal, {"Connection": "close"})


async def _refused(_: Request, refusal: Refusal) -> JSONResponse:
    return answer_of(refusal)


async def _invalid(_: Request, error: InvalidInput) -> JSONResponse:
    return answer_of(Refusal(422, without_secrets(str(error))))


async def _unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()))
    found = "" if first.get("type") == "missing" else shown(first.get("input"))
    what = "The request is not as it should be."
    return answer_of(Refusal(422, what, where=where, expected=str(first.get("msg", "")), found=found))


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    """Answer for what the framework refuses: an unknown path, another method, a body that is no form."""
    found = f"{request.method} {request.url.path}"
    what = {404: "There is nothing at this address.", 405: "This address takes another method."}.get(
        error.status_code, str(error.detail)
    )
    return answer_of(
        Refusal(error.status_code, what, found=found[:200], do="GET /docs lists what there is."),
        error.headers,
    )


async def _ours(request: Request, error: Exception) -> JSONResponse:
    """Answer for storage that is silent and files that are damaged; the log names them, no answer does."""
    _log.warning("%s %s: %s", request.method, request.url.path, without_secrets(str(error)))
    what = "The storage does not give what this needs."
    return answer_of(Refusal(503, what, do="Try again; if it stays so, the service's log says more."))


async def _crashed(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s: %r", request.method, request.url.path, error, exc_info=error)
    return answer_of(Refusal(500, "Something went wrong that should not.", do="The service's log says more."))
