"""Labelled pictures to learn from or to judge by: tars, and what the catalog says of their pictures now.

A tar keeps the role and labels of the day it was written. Labels come later, are corrected, and products
leave; so the catalog of tonight decides who takes part and what is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.shards.read import Sample, stream_samples


@dataclass(frozen=True, slots=True)
class Description:
    """What the catalog says of a picture."""

    role: str
    labels: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The pictures of one source on one night."""

    name: str
    urls: tuple[str, ...]
    """The tars that hold them: local paths or s3:// URLs."""
    described: dict[str, Description]
    """By sha256; a picture of the tars that is not here is not in the source any more."""

    def share(self, urls: Sequence[str]) -> "Dataset":
        """Return the part of the dataset that lies in some of its tars."""
        return replace(self, urls=tuple(urls))

    def samples(self, *, shuffle: int = 0, seed: int = 0) -> Iterator[Sample]:
        """Stream the pictures with their roles and labels of now; see `stream_samples`."""
        for sample in stream_samples(self.urls, shuffle=shuffle, seed=seed):
            known = self.described.get(sample.sha256)
            if known is not None:
                yield replace(sample, role=known.role, labels=known.labels)
