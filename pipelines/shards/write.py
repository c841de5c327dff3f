"""Make one shard: fetch, check, hash, pack into a tar, write its index.

The tar is plain WebDataset: `<sha256>.<extension>` and `<sha256>.json` of each picture, the sha256 of the
source's bytes also where a smaller picture is packed. Times, owners and modes are constant, so the same
records give the same bytes. Pictures are named by their digest because WebDataset cuts names at the first
dot, which shop keys are full of.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from agman.errors import BadSample
from agman.images import ImageHeader, decode_square, probe, shrink
from pipelines.errors import StorageUnavailable
from pipelines.lake import Lake, bytes_sha256, shard_index, shard_tar, working_folder
from pipelines.scheduling import Receipt, Unit
from pipelines.shards.plan import ShardOptions, ShardPlan, SourceRecord
from pipelines.shards.read import PACKED, rescue_picture
from pipelines.shards.tar import TarWriter
from pipelines.sources import ABSENT, NOT_ALLOWED, fetch
from pipelines.storage.objects import store_file

FETCH_THREADS = 8
FETCH_ATTEMPTS = 3
SLOW_S, PATIENCE_S = 0.001, 0.05
"""Local files that take longer than this each, and what they may be late by together, before threads wait for
several at once."""
_TO_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
# Trouble of the source, not of the bytes: tried again every night although the version is the same, unless
# the version says that there is no file.
PASSING_KINDS = ("unavailable", "forbidden", "missing", NOT_ALLOWED)
LABELS = pa.map_(pa.string(), pa.list_(pa.string()))
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("token", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("role", pa.string()),
        ("labels", LABELS),
        ("status", pa.string()),
        ("kind", pa.string()),
        ("error", pa.string()),
        (PACKED, pa.string()),
    ]
)


_OF_THE_TAR = ("member", "offset", "num_bytes", "width", "height", "format", PACKED)


@dataclass(slots=True)
class IndexRow:
    """One row of a shard's index; `status` is `ok` or `quarantined`.

    A good row without a member is of a picture that the lake had already: it lies in an earlier shard. What
    follows `sha256`, and `num_bytes`, are of what lies in the tar.
    """

    key: str
    uri: str
    token: str
    role: str
    labels: dict[str, list[str]]
    member: str | None = None
    offset: int | None = None
    """First byte of the picture inside the tar."""
    num_bytes: int | None = None
    sha256: str | None = None
    """Of the source's bytes: the picture's identity, also where a smaller one was packed."""
    width: int | None = None
    height: int | None = None
    format: str | None = None
    status: str = "ok"
    kind: str | None = None
    error: str | None = None
    packed_sha256: str | None = None
    """Of the bytes in the tar, where they are not the source's."""


@dataclass(frozen=True, slots=True)
class _Shrunk:
    """A known picture as an earlier shard packed it, smaller than it came."""

    encoded: bytes


def write_shard(lake: Lake, unit: Unit) -> Receipt:
    """Make the shard of a unit whose payload is a `ShardPlan`; a bad picture costs its row, not the shard."""
    plan: ShardPlan = unit.payload
    seconds = {"read": 0.0, "write": 0.0}
    with working_folder() as folder:
        tar_path, index_path = folder / "shard.tar", folder / "index.parquet"
        with TarWriter(tar_path) as tar:
            rows = list(_pack(lake, tar, plan, seconds))
        started = time.perf_counter()
        pq.write_table(index_table(rows), index_path, compression="zstd")
        good = [row for row in rows if row.status == "ok"]
        files = (
            store_file(
                lake.store,
                tar_path,
                shard_tar(plan.dataset, unit.name),
                len({r.member for r in good} - {None}),
                sha256=tar.sha256,
            ),
            store_file(lake.store, index_path, shard_index(plan.dataset, unit.name), len(rows)),
        )
        seconds["write"] += time.perf_counter() - started
    passing = sum(
        row.kind in PASSING_KINDS and record.token != ABSENT
        for row, record in zip(rows, plan.records, strict=True)
    )
    counts = {"input": len(rows), "ok": len(good), "quarantined": len(rows) - len(good), "passing": passing}
    detail = {"options": plan.options.naming()}
    return Receipt(unit=unit.name, files=files, counts=counts, seconds=seconds, detail=detail)


def index_table(rows: list[IndexRow]) -> pa.Table:
    """Return the rows as an Arrow table of `INDEX_SCHEMA`."""
    columns = {name: [getattr(row, name) for row in rows] for name in INDEX_SCHEMA.names}
    columns["labels"] = [list(row.labels.items()) for row in rows]
    return pa.table(columns, schema=INDEX_SCHEMA)


def _pack(lake: Lake, tar: TarWriter, plan: ShardPlan, seconds: dict[str, float]) -> Iterator[IndexRow]:
    packed: dict[str, IndexRow] = {}
    started = time.perf_counter()
    for record, fetched in zip(plan.records, _fetched(lake, plan), strict=True):
        seconds["read"] += time.perf_counter() - started
        started = time.perf_counter()
        yield _pack_one(tar, record, fetched, plan.options, packed)
        seconds["write"] += time.perf_counter() - started
        started = time.perf_counter()


def _fetched(lake: Lake, plan: ShardPlan) -> Iterator[bytes | _Shrunk | BadSample]:
    """Yield what each record's fetch gave, in order: by threads, but for local files that come at once.

    Threads hide the time that a disk or a server takes. Files in the page cache take none, and there threads
    only hand Python's lock to each other: one alone packs twice as many.
    """
    records = iter(plan.records)
    if all(record.uri.startswith("/") for record in plan.records):
        late_s = 0.0
        for record in records:
            started = time.perf_counter()
            fetched = _bytes_of(lake, plan, record)
            late_s = max(0.0, late_s + time.perf_counter() - started - SLOW_S)
            yield fetched
            if late_s > PATIENCE_S:
                break
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        yield from pool.map(lambda record: _bytes_of(lake, plan, record), records)


def _bytes_of(lake: Lake, plan: ShardPlan, record: SourceRecord) -> bytes | _Shrunk | BadSample:
    """Return a picture from the damaged shard that had it, where it is whole there, else from the source."""
    whole = rescue_picture(lake, plan.dataset, record.damaged, record.known) if record.damaged else None
    if whole is None:
        return _fetch(record, plan)
    return whole if bytes_sha256(whole) == record.known else _Shrunk(whole)


def _fetch(record: SourceRecord, plan: ShardPlan) -> bytes | BadSample:
    """Fetch with a few tries: one source that is down for one picture must not stop the shard."""
    for attempt in range(FETCH_ATTEMPTS):
        try:
            return fetch(record.uri, plan.allowed, max_bytes=plan.options.max_bytes)
        except BadSample as error:
            return error
        except StorageUnavailable as error:
            last = error
            time.sleep(0.2 * 2**attempt)
    return BadSample("unavailable", f"{FETCH_ATTEMPTS} attempts failed: {last}")


def _pack_one(
    tar: TarWriter,
    record: SourceRecord,
    fetched: bytes | _Shrunk | BadSample,
    options: ShardOptions,
    packed: dict[str, IndexRow],
) -> IndexRow:
    row = IndexRow(record.key, record.uri, record.token, record.role, record.labels)
    if isinstance(fetched, BadSample):
        return _quarantine(row, fetched)
    is_shrunk = isinstance(fetched, _Shrunk)
    encoded = fetched.encoded if isinstance(fetched, _Shrunk) else fetched
    row.sha256, row.num_bytes = record.known if is_shrunk else bytes_sha256(encoded), len(encoded)
    if row.sha256 == record.known and not record.damaged:
        return row  # the lake has this picture
    if row.sha256 in packed:
        return _like(packed[row.sha256], row)
    try:
        header = _check(encoded, options)
        smaller = shrink(encoded, options.resize, max_pixels=options.max_pixels) if options.resize else None
    except BadSample as error:
        return _quarantine(row, error)
    if smaller is not None:
        encoded, header = smaller, probe(smaller)
    if is_shrunk or smaller is not None:
        row.packed_sha256 = bytes_sha256(encoded)
    row.num_bytes, row.width, row.height, row.format = (
        len(encoded),
        header.width,
        header.height,
        header.format,
    )
    row.member = f"{row.sha256}.{_extension(header)}"
    row.offset = tar.add(row.member, encoded)
    tar.add(f"{row.sha256}.json", _sample_json(record))
    packed[row.sha256] = row
    return row


def _like(twin: IndexRow, row: IndexRow) -> IndexRow:
    """Describe a picture that another key has as well: it is packed, and later embedded, once."""
    for name in _OF_THE_TAR:
        setattr(row, name, getattr(twin, name))
    return row


def _quarantine(row: IndexRow, error: BadSample) -> IndexRow:
    row.status, row.kind, row.error = "quarantined", error.kind, error.message
    return row


def _check(fetched: bytes, options: ShardOptions) -> ImageHeader:
    header = probe(fetched, max_pixels=options.max_pixels)
    if options.check == "full":
        decode_square(fetched, 32, max_pixels=options.max_pixels)
    return header


def _extension(header: ImageHeader) -> str:
    return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(header.format, header.format.lower())


def _sample_json(record: SourceRecord) -> bytes:
    sample = {"key": record.key, "role": record.role, "labels": record.labels}
    return _TO_JSON(sample).encode("utf-8", "surrogatepass")
