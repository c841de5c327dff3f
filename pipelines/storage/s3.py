"""Objects in an S3 bucket, with conditional writes.

Credentials and the endpoint come from the usual AWS variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, instance roles, …). s3fs' own file interface is for reading alone: it ignores `IfMatch` on
multipart writes, and an aborted `open(…, "wb")` publishes the part already written.
"""

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import aiohttp
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync

from agman.errors import InvalidInput
from pipelines.errors import CommitUnknown, StorageUnavailable
from pipelines.storage.full import told_when_full
from pipelines.storage.objects import Versioned, check_name

_PRECONDITION_CODES = frozenset({"PreconditionFailed", "412"})
_CONFLICT_CODES = frozenset({"ConditionalRequestConflict", "409"})  # somebody else is writing right now
_TRANSIENT_ERRNOS = frozenset({errno.EBUSY, getattr(errno, "EREMOTEIO", -1), errno.EIO})
_CONFLICT_ATTEMPTS = 5


class S3Store:
    """An `ObjectStore` below `s3://bucket/prefix`; the version is the object's ETag."""

    def __init__(self, url: str, *, is_conditional: bool = True) -> None:
        """Keep the address; the connection is made on first use, in whichever process that is.

        Args:
            url: where.
            is_conditional: whether writes carry conditions; without, each looks before it writes, which is
                safe for a single writer alone.
        """
        self._url = url.rstrip("/")
        self._is_conditional = is_conditional
        self.bucket, _, self._prefix = self._url.removeprefix("s3://").partition("/")

    @property
    def has_conditions(self) -> bool:
        """False where it is for the store to show; a single writer who was told so needs none."""
        return not self._is_conditional

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return self._url

    def __reduce__(self) -> tuple[Callable[..., "S3Store"], tuple[str]]:
        """Travel to Ray workers without the connection."""
        return partial(S3Store, is_conditional=self._is_conditional), (self._url,)

    @cached_property
    def _fs(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(use_listings_cache=False)

    def read(self, name: str) -> Versioned:
        """Return bytes and ETag from one response."""
        with _translated(f"{self._url}/{name}"):
            body, etag = sync(self._fs.loop, self._get, self._key(name))
        return Versioned(body, etag)

    def put_if_absent(self, name: str, body: bytes) -> bool:
        """PutObject with `If-None-Match: *`."""
        if not self._is_conditional and self.size(name) is not None:
            return self._holds(name, body)
        return self._put(name, body, IfNoneMatch="*")

    def compare_and_swap(self, name: str, body: bytes, version: str | None) -> bool:
        """PutObject with `If-Match`, or `If-None-Match: *` where the object must be absent."""
        if version is None:
            return self.put_if_absent(name, body)
        if not self._is_conditional and not self._has_version(name, version):
            return self._holds(name, body)
        return self._put(name, body, IfMatch=version)

    def upload_if_absent(self, local: Path, name: str) -> bool:
        """PutObject of a whole file; the unit of work is a shard, far below the 5 GB of one PUT."""
        return self.put_if_absent(name, local.read_bytes())

    def replace(self, local: Path, name: str) -> None:
        """PutObject without a condition: for repair alone."""
        self._put(name, local.read_bytes())

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Download to a temporary file for the time of the `with`."""
        with tempfile.TemporaryDirectory(prefix="lake-") as folder:
            path = Path(folder) / name.rsplit("/", 1)[-1]
            with told_when_full(folder), _translated(f"{self._url}/{name}"):
                self._fs.get_file(self._path(name), str(path))
            yield path

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Ranged GetObject."""
        with _translated(f"{self._url}/{name}"):
            body: bytes = self._fs.cat_file(self._path(name), start=start, end=start + num_bytes)
        return body

    def size(self, name: str) -> int | None:
        """HeadObject."""
        try:
            with _translated(f"{self._url}/{name}"):
                head = self._fs.call_s3("head_object", Bucket=self.bucket, Key=self._key(name))
        except FileNotFoundError:
            return None
        return int(head["ContentLength"])

    def list_names(self, prefix: str) -> Iterator[str]:
        """ListObjectsV2 below a prefix, sorted."""
        root = f"{self.bucket}/{self._prefix}".rstrip("/")
        with _translated(f"{self._url}/{prefix}"):
            found = self._fs.find(f"{root}/{prefix}".rstrip("/"))
        # s3fs answers for an empty folder with an object that has the folder's own name.
        folder = f"{root}/{prefix}".rstrip("/") + "/"
        yield from sorted(path.removeprefix(root + "/") for path in found if path.startswith(folder))

    def delete(self, name: str) -> None:
        """DeleteObject."""
        with _translated(f"{self._url}/{name}"):
            self._fs.call_s3("delete_object", Bucket=self.bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{check_name(name)}".lstrip("/")

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self._key(name)}"

    async def _get(self, key: str) -> tuple[bytes, str]:
        reply = await self._fs._call_s3("get_object", Bucket=self.bucket, Key=key)
        async with reply["Body"] as stream:
            return await stream.read(), reply["ETag"]

    def _put(self, name: str, body: bytes, **condition: str) -> bool:
        condition = condition if self._is_conditional else {}
        for _ in range(_CONFLICT_ATTEMPTS):
            try:
                with _translated(f"{self._url}/{name}"):
                    self._fs.call_s3(
                        "put_object", Bucket=self.bucket, Key=self._key(name), Body=body, **condition
                    )
                return True
            except OSError as error:
                code = _code(error)
                if code in _PRECONDITION_CODES or isinstance(error, FileExistsError):
                    # A retried PUT is told 412 by its own success: what is stored decides. Two writers of
                    # the same bytes both succeed, which is what both of them wanted.
                    return bool(condition) and self._holds(name, body)
                if code == "NoSuchBucket":
                    raise InvalidInput(f"lake {self._url}: no such bucket; is the name right?") from error
                if code == "NoSuchKey" or isinstance(error, FileNotFoundError):
                    return False  # If-Match on an object that is gone
                if code not in _CONFLICT_CODES:
                    raise
        raise CommitUnknown(
            f"{self._url}/{name}: {_CONFLICT_ATTEMPTS} conditional writes met a concurrent one"
        )

    def _has_version(self, name: str, version: str) -> bool:
        try:
            return self.read(name).version == version
        except FileNotFoundError:
            return False

    def _holds(self, name: str, body: bytes) -> bool:
        try:
            return self.read(name).body == body
        except FileNotFoundError:
            return False


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn transient failures into `StorageUnavailable`; everything else passes."""
    try:
        yield
    except (TimeoutError, ConnectionError, BotoCoreError, aiohttp.ClientError) as error:
        raise StorageUnavailable(f"{what}: {error}") from error
    except OSError as error:
        if error.errno in _TRANSIENT_ERRNOS and _code(error) not in _CONFLICT_CODES | _PRECONDITION_CODES:
            raise StorageUnavailable(f"{what}: {error}") from error
        raise


def _code(error: OSError) -> str:
    cause: Any = error.__cause__
    return str(cause.response["Error"].get("Code", "")) if isinstance(cause, ClientError) else ""
