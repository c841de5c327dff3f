"""A night whose model has attributes added: parts that are there get files of these alone.

The model embeds under the attributes of before as the one that made the parts, which was checked tensor by
tensor (`agman.extension`). So a part keeps its rows and its files, and the pictures of its rows go once
through the model for one more file. Row order is the same in all files of a part, so a row whose product has
left the catalog is embedded too: its picture is still in the part's own tar.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.embedding import plan_extension
from pipelines.merging import LiveRows
from pipelines.scheduling import Unit
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Part
from pipelines.tonight import Tonight

ShardFiles = Callable[[str], tuple[FileEntry, ...]]
"""Gives a shard's tar and index."""


@dataclass(frozen=True, slots=True)
class Home:
    """A shard that holds pictures of a part's live rows."""

    shard: str
    digests: tuple[str, ...]


def lacking(parts: Mapping[str, Part], live: Mapping[str, int], attributes: Sequence[str]) -> dict[str, Part]:
    """Return by name the parts that hold a live picture and lack a file of an attribute."""
    return {name: parts[name] for name in sorted(live) if set(attributes) - parts[name].files.keys()}


def scattered(tonight: Tonight, parts: Mapping[str, Part]) -> dict[str, tuple[Home, ...]]:
    """Return by part where its live pictures lie, of those that are not all in the part's own shard.

    Such are merged parts, and parts of a shard of which pictures were packed again.
    """
    found: dict[str, tuple[Home, ...]] = {}
    for part, shard, digests in tonight.homes_of(parts):
        found[part] = (*found.get(part, ()), Home(shard, tuple(digests)))
    return {
        name: homes for name, homes in found.items() if {home.shard for home in homes} != {parts[name].shard}
    }


def thinned(
    tonight: Tonight,
    parts: Mapping[str, Part],
    homes: Mapping[str, tuple[Home, ...]],
    live: Mapping[str, int],
) -> list[LiveRows]:
    """Return what is live of scattered parts with rows of products that left: who knows where those lie."""
    names = [name for name in homes if live[name] < parts[name].num_rows]
    return [
        LiveRows(parts[name], tuple(rows), tuple(digests)) for name, rows, digests in tonight.rows_of(names)
    ]


def plan_extensions(
    parts: Mapping[str, Part],
    homes: Mapping[str, tuple[Home, ...]],
    model: str,
    attributes: Sequence[str],
    shard_files: ShardFiles,
) -> Iterator[Unit]:
    """Yield a unit for each part that lacks attributes.

    Args:
        parts: by name.
        homes: of the scattered ones among them.
        model: model id.
        attributes: the model's.
        shard_files: gives a shard's tar and index.
    """
    for name, part in parts.items():
        elsewhere = [(shard_files(home.shard), home.digests) for home in homes.get(name, ())]
        own = () if elsewhere else shard_files(part.shard)
        yield plan_extension(part, own, model, attributes, elsewhere)
