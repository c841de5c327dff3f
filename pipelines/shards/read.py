"""Read shards: pictures by digest for embedding and reports, streams for training."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import IO, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import CorruptShard
from pipelines.lake import Lake, shard_index, shard_tar
from pipelines.shards.tar import header
from pipelines.storage.objects import FileEntry
from pipelines.storage.opening import open_store
from pipelines.storage.ranges import open_ranges

PACKED = "packed_sha256"
"""Column of an index: digest of the bytes in the tar where they are not the picture's own."""
KEPT_PLACES = 200_000
"""Pictures whose places a `PictureReader` keeps: some 0.3 KB each."""
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


def read_pictures(
    lake: Lake, files: Sequence[FileEntry], digests: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield (sha256, encoded picture) of the wanted pictures, in the order wanted, each checked.

    Args:
        lake: where.
        files: the shard's tar and index, as a manifest or a receipt lists them.
        digests: sha256 of the pictures.

    Raises:
        CorruptShard: if the index is not what its entry says, a picture is not in it, or a picture's bytes
            differ from their digest.
    """
    tar, index = files
    places = _checked_places(lake, index, digests)
    with lake.store.local_copy(tar.name) as path, path.open("rb") as stream:
        for digest in digests:
            place = places[digest]
            stream.seek(place.offset)
            yield digest, checked_picture(lake, tar.name, stream.read(place.num_bytes), place.sha256)


def read_picture(lake: Lake, files: Sequence[FileEntry], digest: str) -> bytes:
    """Return one picture by a ranged read of the tar; `files` and errors as in `read_pictures`."""
    return PictureReader(lake).read(files, digest)


class PictureReader:
    """Reads single pictures of a lake again and again: what was read of a shard's index is kept."""

    def __init__(self, lake: Lake) -> None:
        """Begin with no index read."""
        self._lake = lake
        self._places: OrderedDict[str, dict[str, _Place]] = OrderedDict()

    def read(self, files: Sequence[FileEntry], digest: str) -> bytes:
        """Return one picture by a ranged read of the tar; `files` and errors as in `read_pictures`."""
        tar, index = files
        places = self._places.get(index.sha256)
        if places is None or digest not in places:
            places = _checked_places(self._lake, index, [digest], every=True)
            self._places[index.sha256] = places
        while len(self._places) > 1 and sum(map(len, list(self._places.values()))) > KEPT_PLACES:
            self._places.popitem(last=False)
        place = places[digest]
        encoded = self._lake.store.read_range(tar.name, place.offset, place.num_bytes)
        return checked_picture(self._lake, tar.name, encoded, place.sha256)


def rescue_picture(lake: Lake, dataset: str, shard: str, digest: str) -> bytes | None:
    """Return a picture of a shard of which something is damaged; None where it is not whole.

    Nothing is believed but the picture's digest. Of one that was packed smaller, what the tar says before its
    bytes must be its name: the index may be what is damaged, and tell the place of another.
    """
    name = shard_tar(dataset, shard)
    try:
        with lake.store.local_copy(shard_index(dataset, shard)) as path:
            place = _places(pq.read_table(path), {digest})[digest]
        first = place.offset - BLOCKSIZE
        member = lake.store.read_range(name, first, BLOCKSIZE + place.num_bytes)
        if place.sha256 != digest and member[:BLOCKSIZE] != header(f"{digest}.jpg", place.num_bytes):
            return None
        return checked_picture(lake, name, member[BLOCKSIZE:], place.sha256)
    except (CorruptShard, OSError, ValueError, KeyError, TypeError, OverflowError):  # Arrow's are among these
        return None


def _checked_places(
    lake: Lake, index: FileEntry, digests: Sequence[str], *, every: bool = False
) -> dict[str, "_Place"]:
    """Return where the wanted pictures are, or with `every` all of the shard's, the wanted among them."""
    with lake.checked(index) as path:
        places = _places(pq.read_table(path), None if every else set(digests))
    for digest in digests:
        if digest not in places:
            raise CorruptShard(f"{lake.url}/{index.name}: has no picture {digest[:12]}…", index.name)
    return places


def checked_picture(lake: Lake, name: str, encoded: bytes, digest: str) -> bytes:
    """Return `encoded`, read from the tar `name`, if it has the digest it should have.

    Raises:
        CorruptShard: otherwise.
    """
    found = hashlib.sha256(encoded).hexdigest()
    if found != digest:
        raise CorruptShard(
            f"{lake.url}/{name}: picture {digest[:12]}… has digest {found[:12]}…: the tar was changed after "
            "it was written; the next night makes it again",
            name,
        )
    return encoded


def stream_samples(urls: Sequence[str]) -> Iterator[Sample]:
    """Stream samples from tars through webdataset, once.

    Args:
        urls: local paths or s3:// URLs of tars; opened by `open_tar`, never by a shell.
    """
    import webdataset as wds  # it loads torch: who packs or indexes need not wait two seconds for that

    # Our own opener stands in for webdataset's gopen, whose `pipe:` scheme runs a shell.
    sources = ({"url": url, "stream": stream} for url, stream in _open_all(urls))
    files = wds.tariterators.tar_file_expander(sources)
    samples: Iterator[dict[str, Any]] = wds.tariterators.group_by_keys(files)
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


def _open_all(urls: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for url in urls:
        with open_tar(url) as stream:
            yield url, stream


def open_tar(url: str) -> IO[bytes]:
    """Open a tar for reading from a local path or from S3."""
    if not url.startswith("s3://"):
        return Path(url).open("rb")
    folder, _, name = url.rpartition("/")
    return open_ranges(open_store(folder), name)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a picture's bytes are in a tar, and their digest: not the picture's own if packed smaller."""

    offset: int
    num_bytes: int
    sha256: str


def _places(index: Any, wanted: Collection[str] | None) -> dict[str, _Place]:
    packed = pc.and_(pc.equal(index["status"], "ok"), pc.is_valid(index["member"]))
    good = index.filter(packed)
    own = good["sha256"]
    # Indexes of before pictures could be scaled have no such column.
    stored = pc.coalesce(good[PACKED], own) if PACKED in good.column_names else own
    columns = (own, good["offset"], good["num_bytes"], stored)
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return {
        digest: _Place(offset, size, sha256)
        for digest, offset, size, sha256 in rows
        if wanted is None or digest in wanted
    }
