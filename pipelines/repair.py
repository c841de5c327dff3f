"""What is damaged in a lake, and from where a night can still start.

A damaged file is never overwritten: what it held is made again under another name, and the next snapshot
lists that. Whole pictures of a damaged tar are packed anew from it, the others from the source; parts are
embedded anew from the tars; groups are built anew from the parts. A damaged manifest or catalog sends the
night back to the snapshot before it, from where all finished work is found again by its receipts.
"""

from collections.abc import Collection, Set
from pathlib import PurePosixPath

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.lake import CURRENT, Lake, snapshot_file
from pipelines.lineage import find_damage
from pipelines.storage.snapshots import Manifest, Pointer, read_manifest, read_pointer

NEEDED = ("catalog.parquet", "quarantine.parquet")


def newest_whole(lake: Lake, pointer: Pointer | None, damaged: Collection[str]) -> Manifest | None:
    """Return the newest manifest, from the published one back, of which a night can start.

    Args:
        lake: where.
        pointer: what is published.
        damaged: names of objects not to read.

    Returns:
        None where nothing is published, or nothing of it can be read.

    Raises:
        CorruptShard: naming a manifest that is found damaged now.
    """
    if pointer is None:
        return None
    snapshot, sha256 = pointer.snapshot, pointer.manifest_sha256
    if snapshot_file(snapshot, "manifest.json") in damaged:
        snapshot, sha256 = pointer.previous or "", ""
    while snapshot and snapshot_file(snapshot, "manifest.json") not in damaged:
        try:
            manifest = read_manifest(lake, snapshot, sha256)
        except InvalidInput:
            if snapshot != pointer.snapshot:
                return None  # retired
            raise
        if not {manifest.files[name].name for name in NEEDED} & set(damaged):
            return manifest
        snapshot, sha256 = manifest.parent or "", manifest.parent_sha256
    return None


def damage_behind(lake: Lake, error: CorruptShard, known: Set[str]) -> frozenset[str]:
    """Return the names of everything damaged in the published snapshot, once one damaged object was met.

    Reads every published file: where one bit flipped, others may have.

    Args:
        lake: where.
        error: what was met.
        known: what is known to be damaged.

    Returns:
        What is newly known; empty where a night cannot repair it.
    """
    if not error.name or error.name == CURRENT or error.name in known:
        return frozenset()
    return (frozenset({error.name}) | published_damage(lake, known | {error.name})) - known


def published_damage(lake: Lake, known: Collection[str] = ()) -> frozenset[str]:
    """Return the names of the damaged files of the published snapshot, reading every one of them."""
    try:
        manifest = newest_whole(lake, read_pointer(lake), known)
    except CorruptShard as error:
        if not error.name or error.name == CURRENT or error.name in known:
            raise
        return frozenset({error.name}) | published_damage(lake, {*known, error.name})
    return frozenset(damage.name for damage in find_damage(lake, manifest)) if manifest else frozenset()


def unit_names(damaged: Collection[str]) -> frozenset[str]:
    """Return the names of the units whose files are damaged: they are of no more use."""
    return frozenset(PurePosixPath(name).stem for name in damaged)


def shards_of(damaged: Collection[str]) -> frozenset[str]:
    """Return the shards of which the tar or the index is damaged."""
    return unit_names([name for name in damaged if name.startswith("shards/")])


def parts_of(damaged: Collection[str], manifest: Manifest | None) -> frozenset[str]:
    """Return the parts of which an attribute's file is damaged, wherever it lies.

    Args:
        damaged: names of objects.
        manifest: the snapshot that tells of its own parts.
    """
    named = unit_names([name for name in damaged if name.startswith("embeddings/")])
    lost = set(damaged)
    parts = manifest.parts if manifest else ()
    return named | {part.name for part in parts if any(e.name in lost for e in part.files.values())}
