"""Labelled pictures to learn from or to judge by: tars, and what the catalog says of their pictures now.

A tar keeps the role and labels of the day it was written. Labels come later, are corrected, and products
leave; so the catalog of tonight decides who takes part and what is shown.
"""

from dataclasses import dataclass, field

from agman.taxonomy import Taxonomy
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
    packed_side: int = 0
    """Short side in pixels to which larger pictures were scaled down before they were packed; 0: none was."""
