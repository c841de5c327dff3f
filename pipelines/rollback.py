"""Publish an earlier snapshot again: one swap of the pointer, after a look at whether it is all there."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.history import named_digest, resolve_snapshot
from pipelines.lake import CURRENT, Lake, bytes_sha256, snapshot_file
from pipelines.lineage import absent_model_files, find_absent
from pipelines.storage.snapshots import Manifest, Pointer, read_manifest, read_pointer, swap_pointer


@dataclass(frozen=True, slots=True)
class Rollback:
    """What was done."""

    published: Manifest
    """What serves now."""
    replaced: str | None
    """What served before; None where the pointer was gone or could not be read."""


def roll_back(lake: Lake, snapshot: str = "") -> Rollback:
    """Publish an earlier snapshot again.

    A pointer that cannot be read stands in the way of nothing but `previous`.

    Args:
        lake: where.
        snapshot: its id or the beginning of it; empty: the one that was published before.

    Raises:
        InvalidInput: if there is no such snapshot, it serves already, a gate refused it, or files are gone.
        CorruptShard: if its manifest is not what it was, or the pointer is damaged and no snapshot is named.
        StaleSnapshot: if somebody else published meanwhile; nothing changed.
        CommitUnknown: if the reply was lost and reading back failed as well.
    """
    pointer, version = _pointer(lake, is_needed=not snapshot)
    target = resolve_snapshot(lake, snapshot) if snapshot else _previous(lake, pointer)
    replaced = pointer.snapshot if pointer else None
    if target == replaced:
        raise InvalidInput(f"lake {lake.url}: snapshot {target} is what serves now; nothing to do")
    manifest = read_manifest(lake, target, named_digest(lake, target))
    _check_fit(lake, manifest)
    body = lake.store.read(snapshot_file(target, "manifest.json")).body
    swap_pointer(
        lake,
        Pointer(
            snapshot=target,
            commit_uuid=uuid4().hex,
            previous=replaced,
            published=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            manifest_sha256=bytes_sha256(body),
        ),
        version,
    )
    return Rollback(manifest, replaced)


def _pointer(lake: Lake, *, is_needed: bool) -> tuple[Pointer | None, str | None]:
    """Return the pointer, and the version to swap: of whatever bytes are there, None where there are none."""
    try:
        pointer = read_pointer(lake)
        return pointer, pointer.version if pointer else None
    except CorruptShard:
        if is_needed:
            raise
        return None, lake.store.read(CURRENT).version


def _previous(lake: Lake, pointer: Pointer | None) -> str:
    if pointer is None or pointer.previous is None:
        raise InvalidInput(
            f"lake {lake.url}: nothing was published before what is published now; name a SNAPSHOT, "
            "jobs/inspect_lake.py shows them"
        )
    return pointer.previous


def _check_fit(lake: Lake, manifest: Manifest) -> None:
    failed = [gate["name"] for gate in manifest.gates if not gate["passed"]]
    if failed and not manifest.forced:
        raise InvalidInput(
            f"snapshot {manifest.id}: was refused by gate {failed[0]} and never served; "
            "jobs/nightly.py --force WHY publishes against gates"
        )
    absent = [*absent_model_files(lake, manifest.model), *find_absent(lake, manifest.entries())]
    if absent:
        first = absent[0]
        raise InvalidInput(
            f"snapshot {manifest.id}: {len(absent)} of its files are not in lake {lake.url}, first "
            f"{first.name}: expected {first.expected}, found {first.found}; choose one that was not retired: "
            "jobs/inspect_lake.py shows them"
        )
