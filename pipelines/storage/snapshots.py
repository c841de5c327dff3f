"""Snapshots: an immutable manifest each, and one pointer that is swapped to publish.

A reader resolves `CURRENT.json` once and stays on that snapshot. A writer puts the manifest first, then swaps
the pointer under compare-and-swap, so two writers cannot both win and nothing is ever half visible.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from agman.errors import InvalidInput
from pipelines.errors import CommitUnknown, CorruptShard, StaleSnapshot, StorageUnavailable
from pipelines.lake import CURRENT, Lake, bytes_sha256, snapshot_file, to_json
from pipelines.storage.objects import FileEntry

FORMAT = 1


class _OtherFormat(InvalidInput):
    """A manifest that another version of this code wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one shard became under one model."""

    name: str
    shard: str
    """Empty where small parts of many shards were merged."""
    num_rows: int
    files: dict[str, FileEntry]
    """By attribute. Those of a model with attributes added lie where the model that made them has its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gates measured of one attribute of a group: its files never change, so once is enough."""

    key: str
    """Digest of what was judged, and how: `quality.judgement` of the group tells whether it still holds."""
    queries: int
    recall: float
    """Sum of each query's recall@10."""
    selves: int
    found: float
    """Of the `selves` that asked for themselves."""
    norm: float
    """Largest deviation of a vector's norm from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The FAISS files of a group of parts: the same rows in the same order under every attribute."""

    name: str
    kind: str
    """`flat` is an exact search; anything else is FAISS' name of what was built."""
    parts: tuple[str, ...]
    num_rows: int
    ids: FileEntry
    files: dict[str, FileEntry]
    """By attribute."""
    template: str = ""
    """Name of the trained lists that it was built with; empty for `flat`."""
    imbalance: float = 0.0
    """How unequally long its lists are, mean over the attributes: 1 where all are as long."""
    judged: dict[str, Verdict] = field(default_factory=dict)
    """By attribute, what the gates measured of it; empty in a manifest of before that was kept."""

    def entries(self) -> Iterator[FileEntry]:
        """Yield its files."""
        yield self.ids
        yield from self.files.values()


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """Trained and empty inverted lists, an index file an attribute, that every group is added to."""

    name: str
    kind: str
    """FAISS' name of the index."""
    num_rows: int
    """Live pictures of the catalog when they were trained."""
    files: dict[str, FileEntry]
    """By attribute."""
    imbalance: float = 0.0
    """Of the groups that were built when they were trained, mean over rows and attributes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything a snapshot is: where it came from, what it holds, and how good it was found to be."""

    id: str
    parent: str | None
    night: int
    """1 for the first snapshot of a lake, one more than the parent's after that."""
    created: str
    dataset: str
    source: str
    model: str
    attributes: tuple[str, ...]
    taxonomy_digest: str
    config: dict[str, Any]
    config_digest: str
    versions: dict[str, str]
    counts: dict[str, int]
    gates: list[dict[str, Any]]
    files: dict[str, FileEntry]
    """catalog.parquet, quarantine.parquet, report.json, report.html."""
    shards: dict[str, tuple[FileEntry, ...]]
    parts: tuple[Part, ...]
    groups: tuple[Group, ...]
    commit_uuid: str = field(default_factory=lambda: uuid.uuid4().hex)
    parent_sha256: str = ""
    """Digest of the parent's manifest: a chain from the pointer to the first snapshot."""
    code: str = ""
    """Version of this package: its number and the digest of its sources."""
    template: Template | None = None
    """What the groups were built with; None while every group is searched exactly."""
    upkeep: tuple[str, ...] = ()
    """Which parts were merged and what was built anew in the index, and why."""
    probe: tuple[str, ...] = ()
    """sha256 of the pictures that the night embedded anew; the next one keeps those that live."""
    forced: dict[str, str] | None = None
    """Who published against a failed gate, and why."""
    format: int = FORMAT

    def entries(self) -> Iterator[FileEntry]:
        """Yield every file that the snapshot is made of, but for the manifest and the model."""
        yield from self.files.values()
        for files in self.shards.values():
            yield from files
        for part in self.parts:
            yield from part.files.values()
        for group in self.groups:
            yield from group.entries()
        if self.template:
            yield from self.template.files.values()

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Manifest":
        """Read what `to_json` gave.

        Raises:
            InvalidInput: if another version of the format is met.
            ValueError, KeyError, TypeError, AttributeError: if it is no manifest.
        """
        if value.get("format") != FORMAT:
            raise _OtherFormat(
                f"manifest {value.get('id')}: expected format {FORMAT}, found {value.get('format')}"
            )
        read = dict(value)
        read["attributes"] = tuple(value["attributes"])
        read["upkeep"] = tuple(value.get("upkeep", ()))
        read["probe"] = tuple(value.get("probe", ()))
        if trained := value.get("template"):
            read["template"] = Template(**{**trained, "files": _entries(trained["files"])})
        read["files"] = _entries(value["files"])
        read["shards"] = {
            name: tuple(FileEntry(**e) for e in files) for name, files in value["shards"].items()
        }
        read["parts"] = tuple(Part(**{**p, "files": _entries(p["files"])}) for p in value["parts"])
        read["groups"] = tuple(
            Group(
                **{
                    **g,
                    "parts": tuple(g["parts"]),
                    "ids": FileEntry(**g["ids"]),
                    "files": _entries(g["files"]),
                    "judged": {name: Verdict(**judged) for name, judged in g.get("judged", {}).items()},
                }
            )
            for g in value["groups"]
        )
        return cls(**read)


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of `CURRENT.json` and the version it was read at."""

    snapshot: str
    commit_uuid: str
    previous: str | None
    published: str
    manifest_sha256: str = ""
    """Digest of the manifest's bytes; empty in a pointer of before it was kept."""
    next_model: str = ""
    """Model that was promoted for the next night; empty: the snapshot's own."""
    version: str = ""
    """Of the object, for `compare_and_swap`; not stored."""


def new_snapshot_id(commit_uuid: str) -> str:
    """Return a name that sorts by time for people; nothing in the lake relies on the clock."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{commit_uuid[:8]}"


def read_pointer(lake: Lake) -> Pointer | None:
    """Return what is published, None in a lake where nothing is.

    Raises:
        CorruptShard: if the pointer cannot be read.
    """
    try:
        current = lake.store.read(CURRENT)
    except FileNotFoundError:
        return None
    try:
        return Pointer(**json.loads(current.body), version=current.version)
    except (ValueError, TypeError) as error:
        raise CorruptShard(
            f"{lake.url}/{CURRENT}: not a pointer to a snapshot ({error}); jobs/rollback.py SNAPSHOT puts "
            "one in its place",
            CURRENT,
        ) from error


def read_manifest(lake: Lake, snapshot: str, sha256: str = "") -> Manifest:
    """Return a snapshot's manifest.

    Args:
        lake: where.
        snapshot: its id.
        sha256: digest that its bytes must have, as a pointer or a child's manifest names it; empty: any.

    Raises:
        InvalidInput: if there is no such snapshot, or another version of this code wrote it.
        CorruptShard: if the manifest cannot be read, or has another digest.
    """
    name = snapshot_file(snapshot, "manifest.json")
    try:
        body = lake.store.read(name).body
    except FileNotFoundError:
        raise InvalidInput(
            f"{lake.url}: no snapshot {snapshot}; the lake has {', '.join(list_snapshots(lake))}"
        ) from None
    if sha256 and bytes_sha256(body) != sha256:
        raise CorruptShard(
            f"{lake.url}/{name}: expected sha256 {sha256[:12]}…, found {bytes_sha256(body)[:12]}…: it was "
            "changed after it was published; run the night again, or jobs/rollback.py",
            name,
        )
    try:
        return Manifest.from_json(json.loads(body))
    except _OtherFormat:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptShard(
            f"{lake.url}/{name}: not a manifest ({error}); run the night again, or jobs/rollback.py", name
        ) from error


def current_manifest(lake: Lake) -> Manifest:
    """Return the published snapshot's manifest.

    Raises:
        InvalidInput: if nothing was published yet.
    """
    pointer = read_pointer(lake)
    if pointer is None:
        raise InvalidInput(
            f"lake {lake.url}: nothing is published here (no CURRENT.json); is the path right? "
            "`python jobs/nightly.py --help` tells how to publish, `make demo` makes a lake to try"
        )
    return read_manifest(lake, pointer.snapshot, pointer.manifest_sha256)


def list_snapshots(lake: Lake) -> Iterator[str]:
    """Yield the ids of all snapshots, oldest first."""
    for name in lake.store.list_names("snapshots"):
        if name.endswith("/manifest.json"):
            yield name.split("/")[1]


def publish(lake: Lake, manifest: Manifest, expected: Pointer | None) -> Pointer:
    """Put the manifest, then swap the pointer if it still is what this run began with.

    Args:
        lake: where.
        manifest: complete; all its files are in the lake.
        expected: what `read_pointer` gave at the start of the run.

    Raises:
        StaleSnapshot: if somebody else published meanwhile; nothing changed.
        StorageUnavailable: if the store did not take it; nothing changed.
        CommitUnknown: if the reply was lost and reading back failed as well.
    """
    body = put_manifest(lake, manifest)
    pointer = Pointer(
        snapshot=manifest.id,
        commit_uuid=manifest.commit_uuid,
        previous=expected.snapshot if expected else None,
        published=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        manifest_sha256=bytes_sha256(body),
        # A promotion waits until a night publishes with its model.
        next_model=expected.next_model if expected and expected.next_model != manifest.model else "",
    )
    swap_pointer(lake, pointer, expected.version if expected else None)
    return pointer


def put_manifest(lake: Lake, manifest: Manifest) -> bytes:
    """Put a manifest into the lake and return its bytes."""
    body = to_json(manifest.to_json())
    lake.store.put_if_absent(snapshot_file(manifest.id, "manifest.json"), body)
    return body


def swap_pointer(lake: Lake, pointer: Pointer, version: str | None) -> None:
    """Put a pointer in the place of the one that has `version` (None: of none). Every change goes this way.

    Args:
        lake: where.
        pointer: its `commit_uuid` is this change's own, by which a lost reply is settled.
        version: what `read_pointer` told.

    Raises:
        StaleSnapshot: if somebody else changed the pointer meanwhile; nothing changed.
        StorageUnavailable: if the store did not take it; nothing changed.
        CommitUnknown: if the reply was lost and reading back failed as well.
    """
    body = to_json({name: value for name, value in asdict(pointer).items() if name != "version"})
    try:
        won = lake.store.compare_and_swap(CURRENT, body, version)
    except StorageUnavailable as error:
        won = _was_committed(lake, pointer, version, error)
    if not won:
        raise StaleSnapshot(
            f"lake {lake.url}: another run published while this one worked; snapshot {pointer.snapshot} was "
            "not published; run again to work from the new state"
        )


def _was_committed(lake: Lake, wanted: Pointer, version: str | None, error: StorageUnavailable) -> bool:
    """Decide by reading back: the swap may have happened although its reply was lost."""
    try:
        found = read_pointer(lake)
    except StorageUnavailable as second:
        raise CommitUnknown(
            f"lake {lake.url}: publishing {wanted.snapshot} got no reply ({error}) and CURRENT.json could "
            f"not be read back ({second}); look at CURRENT.json before running again"
        ) from second
    if (found.version if found else None) == version:
        raise error
    return found is not None and found.commit_uuid == wanted.commit_uuid


def _entries(value: dict[str, Any]) -> dict[str, FileEntry]:
    return {name: FileEntry(**entry) for name, entry in value.items()}
