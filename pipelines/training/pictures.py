"""The pictures that a training learns from, and their split into shares of equal size.

They lie in one Arrow table that all workers of a node read from the same memory: some 50 bytes a picture.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from agman.taxonomy import Taxonomy
from pipelines.dataset import Dataset
from pipelines.labels import Labels, taught_labels
from pipelines.shards.read import Sample, stream_samples

_SHA256_BYTES = 32


@dataclass(frozen=True, slots=True)
class TrainingPictures:
    """What workers are given of a dataset."""

    urls: tuple[str, ...]
    """The tars that hold them."""
    table: pa.Table
    """By tar, then by digest: sha256 (32 bytes), tar (position in `urls`), shown (attribute and value
    indices in turn, nothing where a data set lists triplets)."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Labels that the taxonomy does not know, counted."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        return int(self.table.num_rows)

    def share(self, index: int, num_shares: int) -> "Share":
        """Return one of the shares that hold every picture once."""
        return Share(self, share_rows(len(self), index, num_shares))


class Share:
    """A range of the pictures."""

    def __init__(self, pictures: TrainingPictures, rows: range) -> None:
        """Take rows of the table."""
        self._table = pictures.table.slice(rows.start, len(rows))
        self._tars = self._table["tar"].to_numpy()
        self.urls = tuple(pictures.urls[tar] for tar in np.unique(self._tars))
        self._number = {url: number for number, url in enumerate(pictures.urls)}

    def __len__(self) -> int:
        """Return the number of pictures."""
        return int(self._table.num_rows)

    def stream(self, urls: Sequence[str] | None = None) -> Iterator[tuple[Sample, Labels]]:
        """Stream the pictures in the order of their tars, with what they show.

        Args:
            urls: the share's tars in another order.
        """
        for url in self.urls if urls is None else urls:
            shown = self._shown(url)
            for sample in stream_samples([url]):
                if sample.sha256 in shown:
                    yield sample, shown[sample.sha256]

    def _shown(self, url: str) -> dict[str, Labels]:
        """Return what the share's pictures of one tar show: only a tar's are Python objects at a time."""
        number = self._number[url]
        start, stop = np.searchsorted(self._tars, [number, number + 1])
        rows = self._table.slice(start, stop - start)
        pairs = zip(rows["sha256"].to_pylist(), rows["shown"].to_pylist(), strict=True)
        return {digest.hex(): _unpacked(flat) for digest, flat in pairs}


def share_rows(num_rows: int, index: int, num_shares: int) -> range:
    """Return the rows of a share: each row is in exactly one, and sizes differ by one at most."""
    return range(index * num_rows // num_shares, (index + 1) * num_rows // num_shares)


def training_pictures(dataset: Dataset, taxonomy: Taxonomy) -> TrainingPictures:
    """Choose the pictures that teach a known label, or that listed triplets name.

    Tars are put in the order of a check sum of their names, since a source may list its values one after the
    other: a share then has some of all, wherever the lake is.
    """
    urls = tuple(sorted(dataset.urls, key=lambda url: (zlib.crc32(_file_name(url)), url)))
    tar_of = {url: number for number, url in enumerate(urls)}
    unknown: Counter[str] = Counter()
    tars, digests, shown, ends = array("i"), bytearray(), array("h"), array("q", [0])
    for digest, labels in _chosen(dataset, taxonomy, unknown):
        tars.append(tar_of[dataset.homes[digest]])
        digests += bytes.fromhex(digest)
        shown.extend(number for a, values in labels.items() for value in values for number in (a, value))
        ends.append(len(shown))
    columns = {
        "sha256": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(_SHA256_BYTES), len(tars), [None, pa.py_buffer(bytes(digests))]
        ),
        "tar": pa.array(np.frombuffer(tars, np.int32)),
        "shown": pa.LargeListArray.from_arrays(np.frombuffer(ends, np.int64), np.frombuffer(shown, np.int16)),
    }
    table = pa.table(columns).sort_by([("tar", "ascending"), ("sha256", "ascending")]).combine_chunks()
    return TrainingPictures(urls, table, unknown)


def _chosen(dataset: Dataset, taxonomy: Taxonomy, unknown: Counter[str]) -> Iterator[tuple[str, Labels]]:
    listed = dataset.triplets.get("train")
    if listed is not None:
        yield from ((digest, {}) for digest in listed.pictures if digest in dataset.homes)
        return
    for digest, uses in dataset.described.items():
        labels = taught_labels(uses, taxonomy, unknown)
        if labels:
            yield digest, labels


def _unpacked(flat: Sequence[int]) -> Labels:
    labels: Labels = {}
    for attribute, value in zip(flat[::2], flat[1::2], strict=True):
        labels.setdefault(attribute, []).append(value)
    return labels


def _file_name(url: str) -> bytes:
    return url.rsplit("/", 1)[-1].encode()
