"""Published lakes with real tars and made-up embeddings, night after night, without Ray or a model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from stored_bytes import flip

from pipelines.index import IndexOptions, build_group, group_of, plan_groups
from pipelines.lake import Lake, bytes_sha256, receipt, snapshot_file, to_json
from pipelines.parts import round_to_half, write_part
from pipelines.scheduling import Receipt, Unit
from pipelines.shards.plan import ShardOptions, SourceRecord, plan_shards
from pipelines.shards.write import write_shard
from pipelines.sources.allowed import Allowed, folder_place
from pipelines.storage.objects import FileEntry, store_file
from pipelines.storage.snapshots import Manifest, Part, publish, read_pointer

ATTRIBUTES = ("collar_design", "skirt_length")
DIM = 8
SECONDS = {"read": 1.5, "write": 0.25}
QUARANTINE = (
    "key", "uri", "token", "stage", "kind", "message", "sha256", "first_seen", "last_seen", "attempts",
)  # fmt: skip


class Shop:
    """A shop whose catalog is published by `night`; pictures are any bytes that are a picture."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake = lake
        self.folder = folder
        self.homes: dict[str, str] = {}  # sha256 -> shard
        self.shards: dict[str, tuple[FileEntry, ...]] = {}
        self.parts: dict[tuple[str, str], Part] = {}  # (model, shard)
        self.pictures: dict[str, list[str]] = {}  # shard -> sha256 by row

    def night(
        self,
        snapshot: str,
        pictures: Mapping[str, bytes],
        *,
        parent: Manifest | None = None,
        model: str = "m1",
        columns: Mapping[str, Any] | None = None,
        quarantine: Sequence[Mapping[str, Any]] = (),
        is_published: bool = True,
        **changes: Any,
    ) -> Manifest:
        """Store everything of a snapshot and publish it.

        Args:
            snapshot: its id.
            pictures: by key; a key's uri is its path below the shop's folder, `key` up to a `@`.
            parent: the snapshot before.
            model: whose embeddings are made up; a file stands for its weights unless it is in the lake.
            columns: further columns, each a value for all rows.
            quarantine: rows of it.
            is_published: whether the pointer is swapped as well.
            changes: of the manifest.
        """
        self._store_model(model)
        records = [self._record(key, body) for key, body in sorted(pictures.items())]
        new = [record for record in records if record.token not in self.homes]
        if new:
            self._shard(new)
        shards = sorted({self.homes[record.token] for record in records})
        parts = [self._part(model, shard) for shard in shards]
        groups = []
        for unit in plan_groups(model, parts, IndexOptions(parts_per_group=1)):
            made = build_group(self.lake, unit)
            self._prove(unit, made)
            groups.append(group_of(made))
        manifest = Manifest(
            id=snapshot,
            parent=parent.id if parent else None,
            parent_sha256=self.sha256_of(parent) if parent else "",
            night=parent.night + 1 if parent else 1,
            created="2024-01-31T02:00:00Z",
            dataset="shop",
            source="feed",
            model=model,
            attributes=ATTRIBUTES,
            taxonomy_digest="t",
            config={"gates": {"min_recall": 0.9}, "dataset": "shop"},
            config_digest="c",
            versions={"ray": "2"},
            counts={
                "input": len(records) + len(quarantine),
                "embedded": len(new),
                "reused": len(records) - len(new),
                "quarantined": len(quarantine),
            },
            gates=[{"name": "reconciliation", "passed": True, "found": 1}],
            files={
                "catalog.parquet": self._catalog(snapshot, model, records, columns or {}),
                "quarantine.parquet": self._table(
                    snapshot,
                    "quarantine.parquet",
                    pa.table({name: [row.get(name) for row in quarantine] for name in QUARANTINE}),
                ),
            },
            shards={shard: self.shards[shard] for shard in shards},
            parts=tuple(parts),
            groups=tuple(groups),
        )
        manifest = replace(manifest, **changes)
        if is_published:
            publish(self.lake, manifest, read_pointer(self.lake))
        else:
            body = to_json(manifest.to_json())
            self.lake.store.put_if_absent(snapshot_file(snapshot, "manifest.json"), body)
        return manifest

    def sha256_of(self, manifest: Manifest) -> str:
        """Return the digest of a stored manifest."""
        return bytes_sha256(self.lake.store.read(snapshot_file(manifest.id, "manifest.json")).body)

    def damage(self, name: str) -> None:
        """Flip a bit in the middle of a stored file."""
        flip(self.lake, name)

    def _record(self, key: str, body: bytes) -> SourceRecord:
        key, _, moved = key.partition("@")
        path = self.folder / "pictures" / (moved or key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return SourceRecord(key, str(path), hashlib.sha256(body).hexdigest(), "train", {})

    def _shard(self, records: list[SourceRecord]) -> None:
        options = ShardOptions(images_per_shard=len(records))
        (unit,) = plan_shards("shop", records, options, allowed=Allowed(folder_place("/")))
        made = write_shard(self.lake, unit)
        self._prove(unit, made)
        self.shards[unit.name] = made.files
        self.pictures[unit.name] = sorted({record.token for record in records})
        self.homes |= dict.fromkeys(self.pictures[unit.name], unit.name)

    def _part(self, model: str, shard: str) -> Part:
        if (model, shard) not in self.parts:
            digests = self.pictures[shard]
            vectors = np.random.default_rng(len(self.parts)).standard_normal(
                (len(digests), len(ATTRIBUTES), DIM)
            )
            vectors = round_to_half(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))
            files = write_part(self.lake, model, shard, ATTRIBUTES, digests, vectors)
            made = Receipt(unit=shard, files=tuple(files.values()), seconds=SECONDS)
            self._prove(Unit(stage=f"embeddings/{model}", name=shard), made)
            self.parts[model, shard] = Part(name=shard, shard=shard, num_rows=len(digests), files=files)
        return self.parts[model, shard]

    def _catalog(
        self, snapshot: str, model: str, records: list[SourceRecord], columns: Mapping[str, Any]
    ) -> FileEntry:
        shards = [self.homes[record.token] for record in records]
        rows = [self.pictures[shard].index(r.token) for shard, r in zip(shards, records, strict=True)]
        table = {
            "key": [record.key for record in records],
            "uri": [record.uri for record in records],
            "token": [record.token for record in records],
            "sha256": [record.token for record in records],
            "shard": shards,
            "part": [self.parts[model, shard].name for shard in shards],
            "row": pa.array(rows, pa.int32()),
            **{name: [value] * len(records) for name, value in columns.items()},
        }
        return self._table(snapshot, "catalog.parquet", pa.table(table))

    def _table(self, snapshot: str, name: str, table: pa.Table) -> FileEntry:
        path = self.folder / name
        pq.write_table(table, path)
        return store_file(self.lake.store, path, snapshot_file(snapshot, name), len(table))

    def _prove(self, unit: Unit, made: Receipt) -> None:
        self.lake.store.put_if_absent(receipt(unit.stage, unit.name), to_json(made.to_json()))

    def _store_model(self, model: str) -> None:
        for file in ("weights.safetensors", "config.json"):
            self.lake.store.put_if_absent(f"models/{model}/{file}", json.dumps({"of": model}).encode())
