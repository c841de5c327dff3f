"""Small pictures, catalogs and published lakes for tests without Ray."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.index import IndexOptions, build_group, choose_kind, group_of, plan_groups
from pipelines.inverted_lists import plan_template, template_of, train_template
from pipelines.lake import Lake, snapshot_file
from pipelines.parts import round_to_half, write_part
from pipelines.storage.objects import store_file
from pipelines.storage.snapshots import Manifest, Part, Template

ATTRIBUTES = ("collar_design", "skirt_length", "sleeve_length")
MODEL = "0123456789abcdef"
DIM = 16


def encode_picture(seed: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """Return a picture of noise: another seed gives other bytes."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).save(encoded, kind)
    return encoded.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Give `encode_picture`."""
    return encode_picture


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake on disk."""
    return Lake(str(tmp_path / "lake"))


def unit_vectors(num_rows: int, seed: int) -> np.ndarray:
    """Return [N, A, D] vectors as a model would have left them in the lake."""
    vectors = np.random.default_rng(seed).standard_normal((num_rows, len(ATTRIBUTES), DIM))
    return round_to_half(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))


class SmallLake:
    """A lake whose embeddings were made up, indexed and put under a manifest, with what it must answer."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake = lake
        self.folder = folder
        self.vectors: dict[str, np.ndarray] = {}  # sha256 -> [A, D]
        self.parts: list[Part] = []

    def add_part(
        self, name: str, num_rows: int, seed: int, values: dict[str, pa.Table] | None = None
    ) -> Part:
        """Write a part of made-up pictures, with what a model says of them by attribute."""
        vectors = unit_vectors(num_rows, seed)
        digests = [hashlib.sha256(f"{name}/{row}".encode()).hexdigest() for row in range(num_rows)]
        files = write_part(self.lake, MODEL, name, ATTRIBUTES, digests, vectors, values)
        self.vectors.update(zip(digests, vectors, strict=True))
        part = Part(name=name, shard=name, num_rows=num_rows, files=files)
        self.parts.append(part)
        return part

    def places(self) -> list[dict[str, Any]]:
        """Return a catalog row for each picture, keyed by its part and row."""
        return [
            {
                "key": f"{part.name}-{row}",
                "sha256": digest,
                "shard": part.shard,
                "part": part.name,
                "row": row,
            }
            for part in self.parts
            for row, digest in enumerate(self.digests(part))
        ]

    def train(self, kind: str) -> Template:
        """Train inverted lists on all parts."""
        made = {
            name: train_template(self.lake, plan_template(MODEL, name, self.parts, kind))
            for name in ATTRIBUTES
        }
        return template_of(kind, sum(part.num_rows for part in self.parts), made)

    @staticmethod
    def digests(part: Part) -> list[str]:
        """Return the made-up digests of a part's rows."""
        return [hashlib.sha256(f"{part.name}/{row}".encode()).hexdigest() for row in range(part.num_rows)]

    def manifest(
        self, rows: list[dict[str, Any]], snapshot: str = "one", options: IndexOptions | None = None
    ) -> Manifest:
        """Index all parts and describe them with a catalog of these rows."""
        options = options or IndexOptions(parts_per_group=4)
        kind = choose_kind(sum(part.num_rows for part in self.parts), options, DIM)
        template = self.train(kind) if kind != "flat" else None
        receipts = [
            build_group(self.lake, unit) for unit in plan_groups(MODEL, self.parts, options, template)
        ]
        catalog = self.folder / f"{snapshot}.parquet"
        columns = ("key", "sha256", "shard", "part", "row")
        table = pa.table({name: [row[name] for row in rows] for name in columns})
        labels = [list(row.get("labels", {}).items()) for row in rows]
        table = table.append_column("labels", pa.array(labels, pa.map_(pa.string(), pa.list_(pa.string()))))
        pq.write_table(table.set_column(4, "row", table["row"].cast(pa.int32())), catalog)
        name = snapshot_file(snapshot, "catalog.parquet")
        files = {"catalog.parquet": store_file(self.lake.store, catalog, name, len(rows))}
        return Manifest(
            id=snapshot, parent=None, night=1, created="2024-01-01T00:00:00Z", dataset="catalog", source="",
            model=MODEL, attributes=ATTRIBUTES, taxonomy_digest="", config={}, config_digest="", versions={},
            counts={}, gates=[], files=files, shards={}, parts=tuple(self.parts),
            groups=tuple(group_of(receipt) for receipt in receipts), template=template,
        )  # fmt: skip


@pytest.fixture
def small_lake(lake: Lake, tmp_path: Path) -> SmallLake:
    """Give an empty `SmallLake`."""
    return SmallLake(lake, tmp_path)
