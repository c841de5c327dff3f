"""How S3 is reached: a client for each process, one policy of retries, errors by what the caller does next.

Only transient trouble is tried again: a reply of 500, 502, 503 or 504 or one that asks to slow down, a
timeout, a connection that fails or breaks. botocore does so for requests (its `standard` mode: exponential
backoff with full jitter, and a budget of retries over all requests of the process); `s3_transfers.py` does so
for a body that breaks off, with the same figures. The store asks botocore, past the retries of s3fs. A
refusal (access denied, no such bucket, any other 4xx) is one line at once.
"""

import builtins
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import aiohttp
import s3fs
from botocore import exceptions
from botocore.parsers import ResponseParserError

from agman.errors import InvalidInput
from pipelines.errors import StorageUnavailable

ATTEMPTS = 8
"""Of a request, and of a body that breaks off at the same block: 35 s of waiting on average, 71 s at most."""
MAX_WAIT_S = 20.0
MAX_CONNECTIONS = 16
"""Requests of one process at once; further ones wait for their turn."""
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
"""Longest silence within a reply."""

BROKEN = (
    builtins.ConnectionError,
    TimeoutError,
    aiohttp.ClientError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
)
"""What a connection raises that was cut off or fell silent."""
_TRANSIENT = (
    *BROKEN,
    exceptions.ConnectionError,
    exceptions.CredentialRetrievalError,
    exceptions.FlexibleChecksumError,
    ResponseParserError,
)
_TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "Throttling", "InternalError", "OperationAborted"}
)
_REFUSED, _CONFLICT, _ABSENT, _PAST_END, _DENIED = 412, 409, 404, 416, (401, 403)


class _FewRetries(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs without the five tries that would multiply botocore's.

    Ray Train reads checkpoints through s3fs' files: a body that breaks off is asked for once more.
    """

    retries = 2


def open_filesystem(
    endpoint_url: str | None = None, attempts: int = ATTEMPTS, read_timeout_s: float = READ_TIMEOUT_S
) -> s3fs.S3FileSystem:
    """Return an S3 file system that follows this module's policy; it connects on first use.

    Args:
        endpoint_url: of a store that is not AWS; by default AWS_ENDPOINT_URL's.
        attempts: most times that a request is made.
        read_timeout_s: longest silence within a reply.
    """
    return _FewRetries(
        endpoint_url=endpoint_url,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": attempts},
            "max_pool_connections": MAX_CONNECTIONS,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": read_timeout_s,
        },
    )


def shared_filesystem() -> s3fs.S3FileSystem:
    """Return the file system that all threads of this process share, so that its connections are bounded."""
    return _filesystem_of(os.getpid())


@cache
def _filesystem_of(process: int) -> s3fs.S3FileSystem:
    # By process: a forked child has no use for its parent's connections.
    return open_filesystem()


def wait_s(failures: int) -> float:
    """Return how long to wait after some failures in a row, as botocore's `standard` mode does."""
    return random.random() * min(2.0 ** (failures - 1), MAX_WAIT_S)


def is_refused(error: exceptions.ClientError) -> bool:
    """Tell whether a condition did not hold."""
    return _status(error) == _REFUSED


def is_conflict(error: exceptions.ClientError) -> bool:
    """Tell whether somebody else was writing just then: the write was not done, and may be begun anew."""
    return _status(error) == _CONFLICT


def is_absent(error: exceptions.ClientError) -> bool:
    """Tell whether the object, or the upload, is not there; a bucket that is not there is a mistake."""
    return _status(error) == _ABSENT and _code(error) != "NoSuchBucket"


def is_dropped(error: exceptions.ClientError) -> bool:
    """Tell whether a multipart upload is gone: it was completed before, or somebody gave it up."""
    return _code(error) == "NoSuchUpload"


def is_past_end(error: exceptions.ClientError) -> bool:
    """Tell whether a range began where there is nothing."""
    return _status(error) == _PAST_END


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what a request raised into one line of the class that tells what to do next.

    Args:
        what: the object, for people.

    Raises:
        StorageUnavailable: on transient trouble that outlasted the retries.
        FileNotFoundError: if there is no such object.
        InvalidInput: if the store refused, or there are no credentials.
    """
    try:
        yield
    except exceptions.ClientError as error:
        raise _from_reply(what, error) from error
    except _TRANSIENT as error:
        raise StorageUnavailable(f"{what}: {_line(error)}") from error
    except exceptions.BotoCoreError as error:
        raise InvalidInput(
            f"{what}: {_line(error)}; credentials, region and endpoint come from the AWS variables"
        ) from error


def _from_reply(what: str, error: exceptions.ClientError) -> Exception:
    reply: dict[str, Any] = error.response.get("Error", {})
    status, code = _status(error), _code(error)
    said = f"{code}: {_line(reply.get('Message', ''))}"
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES or status == _CONFLICT:
        tried = 1 + error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        return StorageUnavailable(f"{what}: {said} (tried {tried} times)")
    if status == _REFUSED:
        return StorageUnavailable(f"{what}: somebody changed it meanwhile ({said})")
    if code == "NoSuchBucket":
        return InvalidInput(f"{what}: no such bucket; is the name right?")
    if status == _ABSENT:
        return FileNotFoundError(f"{what}: no such object")
    if status in _DENIED:
        return InvalidInput(
            f"{what}: access denied ({said}); expected credentials with the rights of infra/s3/policy.json"
        )
    return InvalidInput(f"{what}: the store refused ({said})")


def _status(error: exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _line(said: object) -> str:
    return " ".join(str(said).split())
