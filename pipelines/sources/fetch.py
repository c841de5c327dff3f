"""Bytes of one picture from wherever its `uri` points: only where the source may read, by no shell."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import aiohttp
import botocore.exceptions
import fsspec
from fsspec import AbstractFileSystem

from agman.errors import BadSample, InvalidInput
from pipelines.errors import StorageUnavailable
from pipelines.redaction import shown_uri, without_secrets
from pipelines.sources.allowed import NOT_ALLOWED, REMOTE_SCHEMES, WEB_SCHEMES, Allowed, scheme_of
from pipelines.sources.web import read_web
from pipelines.storage.s3_connection import shared_filesystem

MAX_BYTES = 256 * 2**20

NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a path that leads to no file, as opposed to one that it cannot follow just now."""

_NAME_ONLY = getattr(os, "O_PATH", 0)
"""Opens a file for nothing but asking where it is; 0 where the system cannot."""

_TRANSIENT_HTTP = (408, 425, 429)


def fetch(uri: str, allowed: Allowed, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read the bytes of one picture.

    Args:
        uri: a local path, or a URI of scheme file, s3, gs, http, https, memory or generated.
        allowed: where it may lead.
        max_bytes: more than this is refused, before reading where the size is told.

    Returns:
        The bytes, possibly none.

    Raises:
        BadSample: kind "uri_not_allowed", "missing", "forbidden" (no permission), "too_large", "unreadable",
            or "unavailable" (a server that does not come to an end).
        StorageUnavailable: on timeouts, reset connections and server errors: worth another try.
        InvalidInput: if a scheme's client is not installed.
    """
    if _NAME_ONLY and uri.startswith("/"):
        body = _read_plain(uri, allowed, max_bytes)
        if body is not None:
            return body
    place, scheme = allowed.check(uri), scheme_of(uri)
    if place.scheme == "file":
        # The path that was checked, not the one that was written: its links may be other ones by now.
        return _read_local(Path(str(place)), uri, max_bytes)
    if scheme == "generated":
        return _draw(uri)
    with translated(uri):
        if scheme in WEB_SCHEMES:
            return read_web(uri, allowed, max_bytes)
        return _read_remote(uri, max_bytes)


def remote_file(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec file system of a remote URI and the path in it.

    Raises:
        BadSample: kind "uri_not_allowed" for a scheme that is not on the list.
        InvalidInput: if the scheme's client is not installed.
    """
    scheme = scheme_of(uri)
    if scheme not in REMOTE_SCHEMES or "://" not in uri:
        schemes = ", ".join(REMOTE_SCHEMES)
        raise BadSample(NOT_ALLOWED, f"{shown_uri(uri)}: expected a URI of scheme {schemes}")
    if scheme == "s3":
        filesystem = shared_filesystem()
        return filesystem, filesystem._strip_protocol(uri)
    try:
        # The class, not fsspec.open: only the latter follows "::" chains out of the allowed schemes.
        filesystem = fsspec.filesystem(scheme)
    except ImportError as error:
        raise InvalidInput(f"{shown_uri(uri)}: reading {scheme}:// needs another package: {error}") from error
    return filesystem, filesystem._strip_protocol(uri)


def _read_plain(path: str, allowed: Allowed, max_bytes: int) -> bytes | None:
    """Return an allowed local file's bytes; None where anything is odd: the slower way finds out what.

    A handle that cannot read (O_PATH) follows the links; the system says where it led; that very file is read
    through it. So nothing can be exchanged between looking and reading, and a picture in the page cache takes
    13 microseconds, resolving its path in Python 60.
    """
    try:
        handle = os.open(path, _NAME_ONLY)
        try:
            opened = f"/proc/self/fd/{handle}"
            found = os.fstat(handle)
            if not allowed.has_file(os.readlink(opened)) or not stat.S_ISREG(found.st_mode):
                return None
            return _read_whole(opened, found.st_size) if found.st_size <= max_bytes else None
        finally:
            os.close(handle)
    except (OSError, ValueError):  # ValueError: a null byte in the path
        return None


def _read_whole(path: str, num_bytes: int) -> bytes | None:
    """Return a file's bytes if they are as many as was told."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        body = os.read(descriptor, num_bytes + 1)
    finally:
        os.close(descriptor)
    return body if len(body) == num_bytes else None


def _read_local(path: Path, uri: str, max_bytes: int) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
            raise BadSample("missing", f"{shown_uri(uri)}: expected a file, found a folder or a device")
        _check_size(uri, found.st_size, max_bytes)
        with path.open("rb") as stream:
            return _bounded(stream, uri, max_bytes)
    except PermissionError as error:
        raise BadSample("forbidden", f"{shown_uri(uri)}: no permission to read this file") from error
    except ValueError as error:  # a null byte in the path
        raise BadSample("missing", f"{shown_uri(uri)}: {error}") from error
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            raise BadSample("missing", f"{shown_uri(uri)}: no such file") from error
        raise StorageUnavailable(f"{shown_uri(uri)}: {error}") from error


def _read_remote(uri: str, max_bytes: int) -> bytes:
    filesystem, path = remote_file(uri)
    size = filesystem.info(path).get("size")
    _check_size(uri, size, max_bytes)
    if size == 0:  # of which there is no range
        return b""
    # One byte more than may be: the object may be another, larger one by now.
    body: bytes = filesystem.cat_file(path, start=0, end=max_bytes + 1)
    _check_size(uri, len(body), max_bytes)
    return body


def _bounded(stream: IO[bytes], uri: str, max_bytes: int) -> bytes:
    """Read to the end, whatever size was told before: a file can grow."""
    pieces: list[bytes] = []
    num_bytes = 0
    while piece := stream.read(min(2**20, max_bytes + 1 - num_bytes)):
        pieces.append(piece)
        num_bytes += len(piece)
        _check_size(uri, num_bytes, max_bytes)
    return b"".join(pieces)


def _check_size(uri: str, num_bytes: int | None, max_bytes: int) -> None:
    if num_bytes is not None and num_bytes > max_bytes:
        raise BadSample("too_large", f"{shown_uri(uri)}: {num_bytes} bytes, expected {max_bytes} at most")


def _draw(uri: str) -> bytes:
    from pipelines.sources import drawing  # only the demonstration draws; a shop's run need not load it

    try:
        seed, revision, size, key = uri.removeprefix("generated:").split("/", 3)
        return bytes(drawing.draw_jpeg(key, int(seed), revision=int(revision), size=int(size)))
    except ValueError as error:
        raise BadSample(
            "missing", f"{shown_uri(uri)}: expected generated:<seed>/<revision>/<size>/<key>"
        ) from error


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what the remote clients raise into what the caller does next: quarantine, or try again."""
    try:
        yield
    except (OSError, aiohttp.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise _failure(shown_uri(uri), error) from error


def _failure(where: str, error: BaseException) -> BadSample | StorageUnavailable:
    if isinstance(error, aiohttp.ClientResponseError):
        return _http_failure(where, error)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return BadSample("missing", f"{where}: no such object")
    if isinstance(error, PermissionError | botocore.exceptions.NoCredentialsError):
        return BadSample(
            "forbidden", f"{where}: no permission to read this object: {without_secrets(str(error))}"
        )
    if isinstance(error, aiohttp.NonHttpUrlClientError):
        return BadSample(
            NOT_ALLOWED, f"{where}: redirects to {shown_uri(str(error))}, which is no web address"
        )
    if isinstance(error, aiohttp.InvalidURL | botocore.exceptions.ParamValidationError):
        return BadSample("unreadable", f"{where}: not a valid address")
    return StorageUnavailable(f"{where}: {type(error).__name__}: {without_secrets(str(error))}")


def _http_failure(where: str, error: aiohttp.ClientResponseError) -> BadSample | StorageUnavailable:
    message = f"{where}: HTTP status {error.status}"
    if error.status >= 500 or error.status in _TRANSIENT_HTTP:
        return StorageUnavailable(message)
    kinds = {401: "forbidden", 403: "forbidden", 451: "forbidden", 404: "missing", 410: "missing"}
    return BadSample(kinds.get(error.status, "unreadable"), message)
