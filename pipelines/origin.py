"""Where one key's embedding came from: catalog row, tar, part, index, receipts, and since when."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.history import ancestry
from pipelines.lake import Lake, receipt, unit_of
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Group, Manifest, Part

CLOSE_KEYS = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """A receipt of a unit of work."""

    stage: str
    """shards, embeddings or indexes."""
    name: str
    seconds: dict[str, float] | None
    """Worker time by part of the work; None where the receipt is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a key's embedding came from."""

    row: dict[str, Any]
    """The catalog's row."""
    tar: FileEntry
    index_row: dict[str, Any]
    """Of the shard's index: member, offset, num_bytes, width, height, format, and what it was fetched for."""
    part: Part
    group: Group
    position: int
    """Row of the group's FAISS files."""
    proofs: tuple[Proof, ...]
    """Receipts of shard, part and group."""
    since: Manifest
    """The oldest snapshot from where on the key has these bytes."""
    embedded_in: Manifest
    """The oldest snapshot from where on the picture has this embedding."""
    is_chain_whole: bool
    """Whether the chain could be followed to where the key had other bytes, or to its beginning."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A key that is in quarantine instead: the rows, one a stage."""

    rows: tuple[dict[str, Any], ...]


def trace(lake: Lake, manifest: Manifest, key: str) -> Origin | Quarantined:
    """Follow a key of a snapshot back to where its embedding came from.

    Raises:
        InvalidInput: if the snapshot has no such key; names those nearest to it.
        CorruptShard: if a file on the way is not what the manifest says.
    """
    rows = _select(lake, manifest, "catalog.parquet", key)
    if not rows:
        return _quarantined(lake, manifest, key)
    row = rows[0]
    tar, index = manifest.shards[row["shard"]]
    part = next(part for part in manifest.parts if part.name == row["part"])
    group = next(group for group in manifest.groups if part.name in group.parts)
    since, embedded_in, is_chain_whole = _first_seen(lake, manifest, row)
    return Origin(
        row=row,
        tar=tar,
        index_row=_index_row(lake, index, row["sha256"]),
        part=part,
        group=group,
        position=_position(lake, group, row),
        proofs=tuple(_proofs(lake, manifest, row["shard"], part, group)),
        since=since,
        embedded_in=embedded_in,
        is_chain_whole=is_chain_whole,
    )


def _quarantined(lake: Lake, manifest: Manifest, key: str) -> Quarantined:
    rows = _select(lake, manifest, "quarantine.parquet", key)
    if not rows:
        with lake.checked(manifest.files["catalog.parquet"]) as path:
            near = _rows(
                f"""select key from read_parquet($path, hive_partitioning=false)
                order by jaro_winkler_similarity(key, $key) desc limit {CLOSE_KEYS}""",
                path=str(path),
                key=key,
            )
        close = ", ".join(row["key"] for row in near) or "none, its catalog is empty"
        raise InvalidInput(
            f"key {key!r}: neither in the catalog nor in the quarantine of snapshot {manifest.id}; "
            f"the nearest keys are {close}"
        )
    return Quarantined(tuple(rows))


def _first_seen(lake: Lake, manifest: Manifest, row: dict[str, Any]) -> tuple[Manifest, Manifest, bool]:
    """Walk back while the key has these bytes, and while the picture has this embedding."""
    since = embedded_in = manifest
    is_same_embedding = True
    try:
        for earlier in ancestry(lake, manifest.id):
            known = _select(lake, earlier, "catalog.parquet", row["key"])
            if not known or known[0]["sha256"] != row["sha256"]:
                return since, embedded_in, True
            since = earlier
            is_same_embedding &= bool(_embeddings_of(earlier, known[0]) & _embeddings_of(manifest, row))
            embedded_in = earlier if is_same_embedding else embedded_in
        return since, embedded_in, since.parent is None
    except (CorruptShard, InvalidInput):
        return since, embedded_in, False


def _embeddings_of(manifest: Manifest, row: dict[str, Any]) -> set[tuple[str, int]]:
    """Return the file and row of each attribute's embedding: added attributes leave those of before alone."""
    part = next(part for part in manifest.parts if part.name == row["part"])
    return {(entry.name, row["row"]) for entry in part.files.values()}


def _index_row(lake: Lake, index: FileEntry, sha256: str) -> dict[str, Any]:
    with lake.checked(index) as path:
        rows = pq.read_table(path, filters=(pc.field("sha256") == sha256) & pc.field("member").is_valid())
    found: list[dict[str, Any]] = rows.to_pylist(maps_as_pydicts="strict")
    if not found:
        raise CorruptShard(f"{lake.url}/{index.name}: has no picture {sha256[:12]}…", index.name)
    return found[0]


def _position(lake: Lake, group: Group, row: dict[str, Any]) -> int:
    with lake.checked(group.ids) as path:
        ids = pq.read_table(path, columns=["part", "row", "sha256"])
    wanted = pc.and_(pc.equal(ids["part"], row["part"]), pc.equal(ids["row"], row["row"]))
    position = pc.index(wanted, True).as_py()
    if position < 0 or ids["sha256"][position].as_py() != row["sha256"]:
        raise CorruptShard(
            f"{lake.url}/{group.ids.name}: expected picture {row['sha256'][:12]}… as row {row['row']} of "
            f"part {row['part']}, found {'none' if position < 0 else 'another'}",
            group.ids.name,
        )
    return int(position)


def _proofs(lake: Lake, manifest: Manifest, shard: str, part: Part, group: Group) -> Iterator[Proof]:
    files = [*part.files.values(), *group.entries()]
    names = [
        receipt(f"shards/{manifest.dataset}", shard),
        *(receipt(*unit_of(entry.name)) for entry in files),
    ]
    for name in dict.fromkeys(names):
        stage = name.split("/")[1]
        try:
            yield Proof(stage, name, dict(json.loads(lake.store.read(name).body)["seconds"]))
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # nothing that serves depends on it
            yield Proof(stage, name, None)


def _select(lake: Lake, manifest: Manifest, file: str, key: str) -> list[dict[str, Any]]:
    with lake.checked(manifest.files[file]) as path:
        return _rows(
            "select * from read_parquet($path, hive_partitioning=false) where key = $key",
            path=str(path),
            key=key,
        )


def _rows(query: str, **parameters: str) -> list[dict[str, Any]]:
    with duckdb.connect() as db:
        found: pa.Table = db.sql(query, params=parameters).to_arrow_table()
    rows: list[dict[str, Any]] = found.to_pylist(maps_as_pydicts="strict")
    return rows
