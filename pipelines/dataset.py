"""Labelled pictures to learn from or to judge by: tars, and what the catalog says of their pictures now.

A tar keeps the role and labels of the day it was written. Labels come later, are corrected, and products
leave; so the catalog of tonight decides who takes part and what is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from agman.taxonomy import Taxonomy
from pipelines.shards.read import Sample, stream_samples
from pipelines.sources.records import ListedTriplets

__all__ = ["Dataset", "Description", "ListedTriplets"]


@dataclass(frozen=True, slots=True)
class Description:
    """What the catalog says of a picture: one use of it."""

    role: str
    labels: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The pictures of one source on one night."""

    name: str
    urls: tuple[str, ...]
    """The tars that hold them: local paths or s3:// URLs."""
    described: dict[str, tuple[Description, ...]]
    """By sha256, each different use once: a picture may ask under one attribute and be a candidate under
    another. A picture of the tars that is not here is not in the source any more."""
    taxonomy: Taxonomy | None = None
    """The data set's own attributes, where its files name them."""
    triplets: dict[str, ListedTriplets] = field(default_factory=dict)
    """By split (train, valid, test), where the data set lists triplets."""
    homes: dict[str, str] = field(default_factory=dict)
    """By sha256, the tar to read a picture from: two tars hold it where two keys that have it fell apart."""

    def share(self, urls: Sequence[str]) -> "Dataset":
        """Return the part of the dataset that lies in some of its tars."""
        return replace(self, urls=tuple(urls))

    def pictures(self, *, shuffle: int = 0, seed: int = 0) -> Iterator[Sample]:
        """Stream each described picture once, with the role and labels of its tar; see `stream_samples`."""
        for sample in stream_samples(self.urls, shuffle=shuffle, seed=seed):
            is_home = self.homes.get(sample.sha256, sample.url) == sample.url
            if is_home and sample.sha256 in self.described:
                yield sample

    def samples(self) -> Iterator[Sample]:
        """Stream the pictures once for each use, with its role and labels."""
        for sample in self.pictures():
            for use in self.described[sample.sha256]:
                yield replace(sample, role=use.role, labels=use.labels)
