"""Version tokens: a word about a file that changes when its bytes change, got without reading them."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from agman.errors import BadSample
from pipelines.errors import StorageUnavailable
from pipelines.sources.allowed import WEB_SCHEMES, Allowed, local_path, scheme_of
from pipelines.sources.fetch import NO_SUCH_FILE, remote_file, translated
from pipelines.sources.web import read_headers

LOOKUP_THREADS = 16
"""Requests in flight: a lookup is a round trip, so a batch of 4,096 takes 256 of them in a row."""

ABSENT = "absent"
"""Token of a local file that is not there: all there is to know until it comes, and with it another token. So
nobody looks again before."""

_DIGESTS = ("ETag", "etag", "md5Hash", "checksum", "crc32c")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


def file_token(found: os.stat_result) -> str:
    """Return the token of a local file: its size and the time it was last written."""
    return f"{found.st_size}-{found.st_mtime_ns}"


def version_token(uri: str, allowed: Allowed) -> str:
    """Return the token of the bytes behind a URI.

    Args:
        uri: as `fetch` takes it.
        allowed: where it may lead.

    Returns:
        A token, ABSENT for a local file that is not there, or "" where none can be told: a URI that is not
        allowed, which nobody looks at, or a server that does not say.
    """
    if allowed.refusal(uri):
        return ""
    path = local_path(uri)
    try:
        if path is not None:
            return local_token(path)
        if scheme_of(uri) == "generated":
            return f"v{uri.split('/')[1]}"
        with translated(uri):
            if scheme_of(uri) in WEB_SCHEMES:
                return _remote_token(read_headers(uri, allowed))
            filesystem, remote_path = remote_file(uri)
            return _remote_token(filesystem.info(remote_path))
    # Whatever is wrong is said when the bytes are fetched; here it only means "look at the bytes".
    except (OSError, ValueError, IndexError, BadSample, StorageUnavailable):
        return ""


def local_token(path: str | Path) -> str:
    """Return the token of a local file, ABSENT where there is none.

    Raises:
        OSError: if it cannot be told.
    """
    try:
        found = os.stat(path)
    except ValueError:  # a null byte in the path
        return ABSENT
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return ABSENT
        raise
    return file_token(found) if stat.S_ISREG(found.st_mode) else ABSENT


def _remote_token(facts: Mapping[str, Any]) -> str:
    for name in _DIGESTS:
        if facts.get(name):
            return str(facts[name]).strip('"')
    for name in _TIMES:
        if facts.get(name):
            return f"{facts.get('size')}-{facts[name]}"
    return ""


@contextmanager
def token_lookup(allowed: Allowed) -> Iterator["TokenLookup"]:
    """Give a lookup with its threads, which end with the block."""
    with ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="token") as pool:
        yield TokenLookup(pool, allowed)


class TokenLookup:
    """Looks tokens up, remote ones many at a time."""

    def __init__(self, pool: ThreadPoolExecutor, allowed: Allowed) -> None:
        """Keep the pool that asks remote servers, and where it may ask."""
        self._pool = pool
        self._token = partial(version_token, allowed=allowed)

    def __call__(self, uris: Sequence[str]) -> list[str]:
        """Return one token a URI, "" where the URI is empty or the token unknown."""
        known = ["" if uri == "" or local_path(uri) is None else self._token(uri) for uri in uris]
        remote = [index for index, uri in enumerate(uris) if uri and local_path(uri) is None]
        for index, token in zip(
            remote, self._pool.map(self._token, [uris[index] for index in remote]), strict=True
        ):
            known[index] = token
        return known
