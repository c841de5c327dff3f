"""The snapshots of a lake by their parents, and the names that people give them.

Order is that of the parent chain and of the nights, never that of the clock in an id.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.lake import Lake, bytes_sha256, snapshot_file
from pipelines.lineage import Damage
from pipelines.storage.snapshots import Manifest, Pointer, list_snapshots, read_manifest, read_pointer

CURRENT_WORD, PREVIOUS_WORD = "current", "previous"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A manifest in short: those of a large lake do not all fit into memory."""

    id: str
    parent: str | None
    night: int
    created: str
    model: str
    num_rows: int
    """Rows of the catalog."""
    counts: dict[str, int]
    failed_gates: tuple[str, ...]
    forced: dict[str, str] | None
    pins: tuple[str, ...]
    """Names of what keeps it from being retired."""


@dataclass(frozen=True, slots=True)
class History:
    """All snapshots of a lake."""

    pointer: Pointer | None
    chain: tuple[Snapshot, ...]
    """The published one and those before it by their parents, newest first."""
    apart: tuple[Snapshot, ...]
    """Those that no published one stems from, by night."""
    trouble: tuple[str, ...]
    """What cannot be read, in a line each."""


def read_history(lake: Lake) -> History:
    """Read all manifests, one at a time; what is damaged is told in `trouble`, not raised."""
    trouble: list[str] = []
    seen: set[str] = set()
    chain: list[Snapshot] = []
    pointer = None
    pins = _pins(lake)
    try:
        pointer = read_pointer(lake)
        if pointer:
            seen.add(pointer.snapshot)
            for manifest in ancestry(lake, pointer.snapshot, pointer.manifest_sha256):
                chain.append(_in_short(manifest, pins))
                if manifest.parent:
                    seen.add(manifest.parent)
    except (CorruptShard, InvalidInput) as error:
        trouble.append(f"{error}; snapshots before it are shown apart")
    apart = []
    for snapshot in list_snapshots(lake):
        if snapshot not in seen:
            try:
                apart.append(_in_short(read_manifest(lake, snapshot), pins))
            except (CorruptShard, InvalidInput) as error:
                trouble.append(str(error))
    apart.sort(key=lambda found: (found.night, found.id))
    return History(pointer, tuple(chain), tuple(apart), tuple(trouble))


def ancestry(lake: Lake, snapshot: str, sha256: str = "") -> Iterator[Manifest]:
    """Yield a snapshot's manifest and those before it by their parents; ends where a parent is retired.

    Args:
        lake: where.
        snapshot: the first one's id.
        sha256: digest that its bytes must have; empty: any. Each names that of its parent.

    Raises:
        InvalidInput: if there is no such snapshot, or another version of this code wrote one.
        CorruptShard: at the first manifest that cannot be read or has another digest.
    """
    manifest = read_manifest(lake, snapshot, sha256)
    yield manifest
    while manifest.parent and lake.store.size(snapshot_file(manifest.parent, "manifest.json")) is not None:
        manifest = read_manifest(lake, manifest.parent, manifest.parent_sha256)
        yield manifest


def find_manifest(lake: Lake, name: str) -> Manifest:
    """Return the manifest of a snapshot as a person names it.

    Args:
        lake: where.
        name: as for `resolve_snapshot`.

    Raises:
        InvalidInput: if there is no such snapshot, or several begin so.
        CorruptShard: if the manifest, or a pointer that is needed, is not what it was.
    """
    snapshot = resolve_snapshot(lake, name)
    return read_manifest(lake, snapshot, named_digest(lake, snapshot))


def resolve_snapshot(lake: Lake, name: str) -> str:
    """Return the id of a snapshot that is named by id, by its beginning, or as `current` or `previous`.

    Raises:
        InvalidInput: if none or several are meant.
        CorruptShard: if `current` or `previous` is asked of a damaged pointer.
    """
    if name in (CURRENT_WORD, PREVIOUS_WORD):
        pointer = read_pointer(lake)
        found = pointer and (pointer.snapshot if name == CURRENT_WORD else pointer.previous)
        if not found:
            raise InvalidInput(
                f"lake {lake.url}: has no {name} snapshot; is the path right? jobs/inspect_lake.py shows all"
            )
        return found
    known = list(list_snapshots(lake))
    matches = [name] if name in known else [snapshot for snapshot in known if snapshot.startswith(name)]
    if len(matches) != 1:
        raise InvalidInput(
            f"lake {lake.url}: expected one snapshot that begins with {name!r}, found {len(matches)}; "
            f"snapshots here: {', '.join(known) or 'none'}; {CURRENT_WORD} and {PREVIOUS_WORD} are names too"
        )
    return matches[0]


def named_digest(lake: Lake, snapshot: str) -> str:
    """Return the digest that a snapshot's manifest must have; empty where nothing published names it."""
    try:
        pointer = read_pointer(lake)
        if pointer is None:
            return ""
        if pointer.snapshot == snapshot:
            return pointer.manifest_sha256
        children = ancestry(lake, pointer.snapshot, pointer.manifest_sha256)
        return next((child.parent_sha256 for child in children if child.parent == snapshot), "")
    except (CorruptShard, InvalidInput):  # nothing between it and the pointer that could be believed
        return ""


def is_current(lake: Lake, snapshot: str) -> bool:
    """Tell whether a snapshot serves, as far as the pointer can be read."""
    try:
        pointer = read_pointer(lake)
    except CorruptShard:
        return False
    return pointer is not None and pointer.snapshot == snapshot


def find_chain_damage(lake: Lake, manifest: Manifest) -> tuple[int, list[Damage]]:
    """Read the manifests before one, each against the digest that its child names.

    Returns:
        How many were read, and what is wrong with the last of them: nothing before it can be believed.
    """
    num_read = 0
    while manifest.parent:
        name, sha256 = snapshot_file(manifest.parent, "manifest.json"), manifest.parent_sha256
        if lake.store.size(name) is None:  # retired
            break
        num_read += 1
        try:
            manifest = read_manifest(lake, manifest.parent, sha256)
        except CorruptShard:
            found = bytes_sha256(lake.store.read(name).body)
            return num_read, [Damage(name, f"sha256 {sha256[:12]}…", f"sha256 {found[:12]}…")]
    return num_read, []


def _in_short(manifest: Manifest, pins: dict[str, tuple[str, ...]]) -> Snapshot:
    return Snapshot(
        id=manifest.id,
        parent=manifest.parent,
        night=manifest.night,
        created=manifest.created,
        model=manifest.model,
        num_rows=manifest.files["catalog.parquet"].num_rows or 0,
        counts=manifest.counts,
        failed_gates=tuple(gate["name"] for gate in manifest.gates if not gate["passed"]),
        forced=manifest.forced,
        pins=pins.get(manifest.id, ()),
    )


def _pins(lake: Lake) -> dict[str, tuple[str, ...]]:
    """Return by snapshot the names of its pins: `pins/<snapshot>/<name>.json`."""
    found: dict[str, tuple[str, ...]] = {}
    for name in lake.store.list_names("pins"):
        snapshot, _, pin = name.removeprefix("pins/").partition("/")
        found[snapshot] = (*found.get(snapshot, ()), pin.removesuffix(".json"))
    return found
