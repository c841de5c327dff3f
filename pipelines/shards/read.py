"""Read shards: pictures by digest for embedding and reports, streams for training."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import webdataset as wds

from pipelines.errors import CorruptShard
from pipelines.lake import Lake, shard_index, shard_tar

_NOT_PICTURES = frozenset({"json"})


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture with what training knows about it."""

    sha256: str
    encoded: bytes
    role: str
    labels: dict[str, list[str]]
    url: str
    """The tar that it was read from."""


def read_index(lake: Lake, dataset: str, shard: str) -> Any:
    """Return a shard's index as an Arrow table of `INDEX_SCHEMA`."""
    with lake.store.local_copy(shard_index(dataset, shard)) as path:
        return pq.read_table(path)


def read_pictures(
    lake: Lake, dataset: str, shard: str, digests: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield (sha256, encoded picture) of the wanted pictures, in the order wanted, each checked.

    Raises:
        CorruptShard: if a picture is not in the index or its bytes differ from their digest.
    """
    places = _places(read_index(lake, dataset, shard), set(digests))
    name = shard_tar(dataset, shard)
    with lake.store.local_copy(name) as path, path.open("rb") as tar:
        for digest in digests:
            offset, num_bytes = places[digest] if digest in places else (-1, 0)
            if offset < 0:
                raise CorruptShard(f"{lake.url}/{name}: its index has no picture {digest[:12]}…")
            tar.seek(offset)
            yield digest, checked_picture(tar.read(num_bytes), digest, f"{lake.url}/{name}")


def read_picture(lake: Lake, dataset: str, shard: str, digest: str) -> bytes:
    """Return one picture by a ranged read of the tar."""
    places = _places(read_index(lake, dataset, shard), {digest})
    if digest not in places:
        raise CorruptShard(f"{lake.url}/{shard_index(dataset, shard)}: no picture {digest[:12]}…")
    name = shard_tar(dataset, shard)
    return checked_picture(lake.store.read_range(name, *places[digest]), digest, f"{lake.url}/{name}")


def checked_picture(encoded: bytes, digest: str, where: str) -> bytes:
    """Return `encoded` if it has the digest it should have.

    Raises:
        CorruptShard: otherwise.
    """
    found = hashlib.sha256(encoded).hexdigest()
    if found != digest:
        raise CorruptShard(
            f"{where}: picture {digest[:12]}… has digest {found[:12]}…: the tar was changed after it was "
            "written; restore it from a copy, or publish the catalog into a new lake"
        )
    return encoded


def stream_samples(urls: Sequence[str], *, shuffle: int = 0, seed: int = 0) -> Iterator[Sample]:
    """Stream samples from tars through webdataset, once.

    Args:
        urls: local paths or s3:// URLs of tars; opened by `open_tar`, never by a shell.
        shuffle: size of webdataset's shuffle buffer, samples; 0 keeps the order.
        seed: of the shuffle.
    """
    # Our own opener stands in for webdataset's gopen, whose `pipe:` scheme runs a shell.
    sources = ({"url": url, "stream": stream} for url, stream in _open_all(urls))
    files = wds.tariterators.tar_file_expander(sources)
    samples: Iterator[dict[str, Any]] = wds.tariterators.group_by_keys(files)
    if shuffle:
        samples = wds.filters.shuffle(shuffle, initial=shuffle, seed=seed)(samples)
    for sample in samples:
        extension = next(name for name in sample if not name.startswith("__") and name not in _NOT_PICTURES)
        described = json.loads(sample["json"])
        yield Sample(
            str(sample["__key__"]),
            sample[extension],
            described["role"],
            described["labels"],
            sample["__url__"],
        )


def pick_worker_shards(shards: Sequence[str], rank: int, num_workers: int) -> list[str]:
    """Return a worker's share: every shard belongs to exactly one worker, shares differ by one at most."""
    return list(shards[rank::num_workers])


def _open_all(urls: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for url in urls:
        with open_tar(url) as stream:
            yield url, stream


@contextmanager
def open_tar(url: str) -> Iterator[Any]:
    """Open a tar for reading from a local path or from S3."""
    if url.startswith("s3://"):
        import s3fs

        with s3fs.S3FileSystem().open(url, "rb", cache_type="readahead", block_size=8 << 20) as stream:
            yield stream
    else:
        with Path(url).open("rb") as stream:
            yield stream


def _places(index: Any, wanted: Collection[str]) -> dict[str, tuple[int, int]]:
    good = index.filter(pc.equal(index["status"], "ok"))
    rows = zip(*(good[name].to_pylist() for name in ("sha256", "offset", "num_bytes")), strict=True)
    return {digest: (offset, num_bytes) for digest, offset, num_bytes in rows if digest in wanted}
