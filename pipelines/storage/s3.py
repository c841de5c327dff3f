"""Objects in an S3 bucket, with conditional writes.

Credentials and the endpoint come from the usual AWS variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, instance roles, …). What is tried again, and what an error means, is told in
`s3_connection.py`; how files of any size travel, in `s3_transfers.py`. s3fs gives the connection alone: its
own file interface ignores conditions on multipart writes, and an aborted `open(…, "wb")` publishes the part
already written.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import s3fs
from botocore.exceptions import ClientError
from fsspec.asyn import sync

from pipelines.errors import CommitUnknown
from pipelines.storage.full import told_when_full
from pipelines.storage.objects import Versioned, check_name, file_sha256
from pipelines.storage.s3_connection import (
    is_absent,
    is_conflict,
    is_dropped,
    is_past_end,
    is_refused,
    shared_filesystem,
    told,
    wait_s,
)
from pipelines.storage.s3_transfers import Target, Transfers, fetch, send_in_parts, send_whole

T = TypeVar("T")
Send = Callable[[Any], Coroutine[Any, Any, Any]]
_CONFLICT_ATTEMPTS = 5


class S3Store:
    """An `ObjectStore` below `s3://bucket/prefix`; the version is the object's ETag."""

    def __init__(self, url: str, *, is_conditional: bool = True, transfers: Transfers | None = None) -> None:
        """Keep the address; the connection is made on first use, in whichever process that is.

        Args:
            url: where.
            is_conditional: whether writes carry conditions; without, each looks before it writes, which is
                safe for a single writer alone.
            transfers: how files are sent; by default `Transfers()`.
        """
        self._url = url.rstrip("/")
        self._is_conditional = is_conditional
        self._transfers = transfers or Transfers()
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
        made = partial(S3Store, is_conditional=self._is_conditional, transfers=self._transfers)
        return made, (self._url,)

    @property
    def _fs(self) -> s3fs.S3FileSystem:
        return shared_filesystem()

    def read(self, name: str) -> Versioned:
        """Return bytes and ETag of one version."""
        body = BytesIO()
        version = self._fetch(name, body.write)
        return Versioned(body.getvalue(), version)

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

    def upload_if_absent(
        self, local: Path, name: str, *, in_parts: bool = False, is_final: bool = False
    ) -> bool:
        """PutObject of a small file, a multipart upload of a larger one; both with `If-None-Match: *`."""
        target, condition = self._target(name), self._condition(IfNoneMatch="*")
        if not self._is_conditional and self.size(name) is not None:
            return self._holds_file(name, local)
        send = partial(send_whole, local=local, target=target, **condition)
        if in_parts or local.stat().st_size >= self._transfers.multipart_bytes:
            send = partial(send_in_parts, local=local, target=target, transfers=self._transfers, **condition)
        return self._write(name, send, lambda: self._holds_file(name, local))

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Download to a temporary file for the time of the `with`."""
        with tempfile.TemporaryDirectory(prefix="lake-") as folder:
            path = Path(folder) / check_name(name).rsplit("/", 1)[-1]
            with told_when_full(folder), open(path, "wb") as file:
                self._fetch(name, file.write)
            yield path

    def read_range(self, name: str, start: int, num_bytes: int) -> bytes:
        """Ranged GetObject; less where the object ends before."""
        body, target, attempts = BytesIO(), self._target(name), self._transfers.attempts
        with told(f"{self._url}/{name}"):
            try:
                self._run(
                    lambda client: fetch(client, target, body.write, start, num_bytes, attempts=attempts)
                )
            except ClientError as error:
                if not is_past_end(error):
                    raise
        return body.getvalue()

    def size(self, name: str) -> int | None:
        """HeadObject."""
        target = self._target(name)
        try:
            head = self._ask(name, lambda client: client.head_object(**target))
        except FileNotFoundError:
            return None
        return int(head["ContentLength"])

    def list_names(self, prefix: str) -> Iterator[str]:
        """ListObjectsV2 below a prefix, sorted."""
        return (name for name, _ in self.list_stamps(prefix))

    def list_stamps(self, prefix: str) -> Iterator[tuple[str, str]]:
        """ListObjectsV2, which tells size, ETag and time of each object: a request for a thousand of them."""
        root = f"{self._prefix}/".lstrip("/")
        folder = f"{root}{prefix}".rstrip("/")

        async def objects(client: Any) -> list[tuple[str, str]]:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{folder}/" if folder else ""
            )
            return [
                (found["Key"], f"{found['Size']}-{found['ETag']}-{found['LastModified'].isoformat()}")
                async for page in pages
                for found in page.get("Contents", ())
            ]

        found = self._ask(prefix, objects)
        # A key with a last "/" is what some tools make to show a folder.
        yield from sorted((key.removeprefix(root), stamp) for key, stamp in found if not key.endswith("/"))

    def delete(self, name: str) -> None:
        """DeleteObject."""
        target = self._target(name)
        self._ask(name, lambda client: client.delete_object(**target))

    def _target(self, name: str) -> Target:
        return {"Bucket": self.bucket, "Key": f"{self._prefix}/{check_name(name)}".lstrip("/")}

    def _condition(self, **condition: str) -> dict[str, str]:
        return condition if self._is_conditional else {}

    def _run(self, request: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        async def connected() -> T:
            return await request(await self._fs.set_session())

        result: T = sync(self._fs.loop, connected)
        return result

    def _ask(self, name: str, request: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        with told(f"{self._url}/{name}"):
            return self._run(request)

    def _fetch(self, name: str, write: Callable[[bytes], object]) -> str:
        target, attempts = self._target(name), self._transfers.attempts
        return self._ask(name, lambda client: fetch(client, target, write, attempts=attempts))

    def _put(self, name: str, body: bytes, **condition: str) -> bool:
        request = {**self._target(name), "Body": body, **self._condition(**condition)}
        return self._write(name, lambda client: client.put_object(**request), lambda: self._holds(name, body))

    def _write(self, name: str, send: Send, is_there: Callable[[], bool]) -> bool:
        """Make an object under a condition; what is stored decides where the store says that it did not hold.

        A retried write is told 412, or that its upload is gone, by its own success. Two writers of the same
        bytes both succeed, which is what both of them wanted.
        """
        for conflicts in range(_CONFLICT_ATTEMPTS):
            if conflicts:
                time.sleep(wait_s(conflicts))
            with told(f"{self._url}/{name}"):
                try:
                    self._run(send)
                    return True
                except ClientError as error:
                    if is_refused(error) or is_absent(error):
                        stands = is_there()
                        if stands or not is_dropped(error):
                            return stands
                    elif not is_conflict(error):
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

    def _holds_file(self, name: str, local: Path) -> bool:
        if self.size(name) != local.stat().st_size:
            return False
        digest = hashlib.sha256()
        try:
            self._fetch(name, digest.update)
        except FileNotFoundError:
            return False
        return digest.hexdigest() == file_sha256(local)
