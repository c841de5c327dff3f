"""Bodies of objects to and from S3, of any size in bounded memory.

A file is sent in parts, a few at a time; what is read arrives in blocks, and a body that breaks off goes on
where it was. Nothing here looks at an ETag but to name a version: those of parts and of whole objects are not
digests.
"""

import asyncio
import io
import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipelines.storage.objects import BLOCK_BYTES
from pipelines.storage.s3_connection import ATTEMPTS, BROKEN, wait_s

MAX_PARTS = 10_000
MIN_PART_BYTES = 5 << 20
"""Of every part but the last: S3 refuses less."""

Target = dict[str, str]
"""Bucket and Key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfers:
    """How files travel: read from disk and written to it as the network takes and gives, never held whole."""

    multipart_bytes: int = 64 << 20
    """Files of this size and more are sent in parts, smaller ones whole."""
    part_bytes: int = 16 << 20
    """Of a part; more where a file would have more than `MAX_PARTS`."""
    parts_at_once: int = 4
    """Of one upload."""
    attempts: int = ATTEMPTS
    """Times in a row that a body may break off at the same block before it counts as unavailable."""

    def __post_init__(self) -> None:
        """Refuse what S3 would."""
        if self.part_bytes < MIN_PART_BYTES or self.parts_at_once < 1:
            raise ValueError(
                f"expected parts of at least {MIN_PART_BYTES} bytes and one at a time, found {self}"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """How one file is cut."""

    num_parts: int
    part_bytes: int
    """Of all parts but the last."""


def plan_parts(num_bytes: int, transfers: Transfers) -> Plan:
    """Cut a file into at most `MAX_PARTS` parts.

    Args:
        num_bytes: of the file, from 0 on; S3 takes 5 TiB, whose parts have 525 MiB.
        transfers: sizes that are wished for.
    """
    part_bytes = max(transfers.part_bytes, math.ceil(num_bytes / MAX_PARTS))
    return Plan(max(1, math.ceil(num_bytes / part_bytes)), part_bytes)


async def send_whole(client: Any, local: Path, target: Target, **condition: str) -> None:
    """Send a file by one request; arguments and errors as in `send_in_parts`."""
    with local.open("rb") as body:
        await client.put_object(**target, Body=body, **condition)


async def send_in_parts(
    client: Any, local: Path, target: Target, transfers: Transfers, **condition: str
) -> None:
    """Send a file as a multipart upload; the object appears whole when it is completed, or not at all.

    Args:
        client: of aiobotocore.
        local: the file.
        target: where to.
        transfers: sizes.
        condition: carried by the completion, which alone makes the object.

    Raises:
        ClientError: as the store replied; the upload is given up and its parts are dropped.
    """
    plan = plan_parts(local.stat().st_size, transfers)
    async with _upload(client, target) as upload:
        parts = await _send(client, local, upload, plan, transfers.parts_at_once)
        await client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)


@asynccontextmanager
async def _upload(client: Any, target: Target) -> AsyncIterator[Target]:
    upload = {**target, "UploadId": (await client.create_multipart_upload(**target))["UploadId"]}
    try:
        yield upload
    except BaseException:
        # Where this fails too, the bucket's lifecycle rule drops the parts (infra/s3/lifecycle.json).
        with suppress(ClientError, BotoCoreError, *BROKEN):
            await client.abort_multipart_upload(**upload)
        raise


async def _send(
    client: Any, local: Path, upload: Target, plan: Plan, parts_at_once: int
) -> list[dict[str, Any]]:
    """Return what the completion must say of each part, in order."""
    sent: dict[int, dict[str, Any]] = {}
    numbers = iter(range(1, plan.num_parts + 1))

    async def send_next() -> None:
        for number in numbers:
            sent[number] = await _send_part(client, local, upload, number, plan.part_bytes)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(parts_at_once):
                group.create_task(send_next())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [sent[number] for number in sorted(sent)]


async def _send_part(
    client: Any, local: Path, upload: Target, number: int, part_bytes: int
) -> dict[str, Any]:
    with _Part(local, (number - 1) * part_bytes, part_bytes) as body:
        reply = await client.upload_part(**upload, PartNumber=number, Body=body)
    checksums = {name: value for name, value in reply.items() if name.startswith("Checksum")}
    return {"PartNumber": number, "ETag": reply["ETag"], **checksums}


class _Part(io.RawIOBase):
    """A stretch of a file as a file: bytes in memory would be held twice, and their freed blocks kept."""

    def __init__(self, local: Path, start: int, num_bytes: int) -> None:
        self._file = local.open("rb", buffering=0)
        self._start = start
        self._num_bytes = max(0, min(num_bytes, local.stat().st_size - start))
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._num_bytes}[whence]
        return self._file.seek(self._start + origin + offset) - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what RawIOBase.read gives
        left = max(0, self._num_bytes - self.tell())
        return self._file.readinto(memoryview(buffer)[:left])

    def close(self) -> None:
        self._file.close()
        super().close()


async def fetch(
    client: Any,
    target: Target,
    write: Callable[[bytes], object],
    start: int = 0,
    num_bytes: int | None = None,
    *,
    attempts: int,
) -> str:
    """Give an object's bytes to `write`, block by block, and return the version that all of them had.

    Args:
        client: of aiobotocore.
        target: where from.
        write: takes each block.
        start: first byte.
        num_bytes: how many from there; None: all.
        attempts: times in a row that a body may break off within a block.

    Raises:
        ClientError: as the store replied; 412 where the object changed while it was read.
    """
    stop = None if num_bytes is None else start + num_bytes
    version, failures = "", 0
    while stop is None or start < stop:
        asked = {**_range(start, stop), **({"IfMatch": version} if version else {})}
        reply = await client.get_object(**target, **asked)
        # What there is: a range may ask for more, and a body may break after its last byte.
        version, began, stop = reply["ETag"], start, start + reply["ContentLength"]
        try:
            async with reply["Body"] as body:
                async for block in body.iter_chunks(BLOCK_BYTES):
                    write(block)
                    start += len(block)
        except BROKEN:
            failures = 1 if start - began >= BLOCK_BYTES else failures + 1
            if failures == attempts:
                raise
            await asyncio.sleep(wait_s(failures))
        else:
            break
    return version


def _range(start: int, stop: int | None) -> dict[str, str]:
    if stop is None:
        return {"Range": f"bytes={start}-"} if start else {}
    return {"Range": f"bytes={start}-{stop - 1}"}
