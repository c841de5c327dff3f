"""Which records go into which shard: pure arithmetic, no input or output."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, Literal

from agman.images import MIN_SIDE
from pipelines.lake import short_digest
from pipelines.scheduling import Unit, fresh_unit
from pipelines.sources.allowed import Allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOptions:
    """How pictures become tars; part of a shard's name, since it changes the shard's bytes."""

    images_per_shard: int = 512
    """Pictures of one tar: a unit of work of seconds to minutes."""
    check: Literal["header", "full"] = "header"
    """`header` finds broken files without decoding them; `full` decodes each one as well."""
    max_pixels: int = 100_000_000
    """Larger pictures are quarantined before anything is decoded."""
    max_bytes: int = 64 << 20
    """Larger files are quarantined."""
    resize: int = 0
    """Short side in pixels to which larger pictures are scaled down before packing, as JPEGs of quality 95; 0
    packs files as they are. A model is trained for one size, and a lake keeps its own."""
    allow_uris: tuple[str, ...] = ()
    """Where pictures may be beside the source's own folder: beginnings of uris, such as s3://shop-pictures or
    https://images.shop.example. Empty: for a table, at public web addresses. No part of a shard's name."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no shard."""
        if self.images_per_shard < 1:
            raise ValueError(f"images_per_shard: expected at least 1, found {self.images_per_shard}")
        if self.resize and self.resize < MIN_SIDE:
            raise ValueError(f"resize: expected 0 or at least {MIN_SIDE} pixels, found {self.resize}")

    def naming(self) -> dict[str, Any]:
        """Return what a shard's bytes depend on: not what was allowed, since no byte of it tells.

        Nor a size that is not asked for: shards of before there was a choice keep their names.
        """
        left_out = {"allow_uris"} if self.resize else {"allow_uris", "resize"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One record to fetch."""

    key: str
    uri: str
    token: str
    """Version of the bytes as the source names it; empty where it cannot tell."""
    role: str
    labels: dict[str, list[str]]
    attempt: int = 0
    """How often this version was quarantined before: a retry is new work, so it has a new name."""
    known: str = ""
    """Digest of the picture that the lake has for this record: where it is still that, it is not packed."""
    damaged: str = ""
    """Shard whose tar or index is damaged: `known` is packed anew, from there where it is whole."""


_RECORD = tuple(each.name for each in fields(SourceRecord))


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What one shard is made of."""

    dataset: str
    records: tuple[SourceRecord, ...]
    options: ShardOptions
    allowed: Allowed
    """Where the records' uris may lead."""


def plan_shards(
    dataset: str,
    records: Iterable[SourceRecord],
    options: ShardOptions,
    salt: str = "",
    is_spent: Callable[[Unit], bool] = lambda unit: False,
    *,
    allowed: Allowed = Allowed(),  # noqa: B008  frozen
    anew: bool = False,
) -> Iterator[Unit]:
    """Cut records, in their order, into units of `images_per_shard`.

    Args:
        dataset: folder below `shards/`.
        records: sorted by key, so that the same catalog gives the same shards.
        options: see `ShardOptions`.
        salt: enters the names where the records alone do not tell what will be fetched: the parent snapshot,
            if a source has no version tokens.
        is_spent: tells whether a unit's name is of no more use: it was made while the source was in trouble
            that may have passed, or its files are damaged. It is then made again under another name, since
            what was written stays.
        allowed: where the records' uris may lead; left out: to public web addresses.
        anew: the salt counts for records with tokens too, because their bytes are to be looked at again.
    """
    remaining = iter(records)
    while batch := tuple(islice(remaining, options.images_per_shard)):
        salted = anew or any(not record.token for record in batch)
        unit = Unit(
            stage=f"shards/{dataset}",
            name=shard_name(dataset, batch, options, salt if salted else ""),
            payload=ShardPlan(dataset, batch, options, allowed),
            num_images=len(batch),
        )
        yield fresh_unit(unit, is_spent)


def shard_name(dataset: str, records: Sequence[SourceRecord], options: ShardOptions, salt: str = "") -> str:
    """Return the digest of everything a shard's bytes depend on."""
    described = [{name: getattr(record, name) for name in _RECORD} for record in records]
    return short_digest([dataset, options.naming(), described, salt])
