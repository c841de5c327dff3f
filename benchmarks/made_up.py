"""Made-up embeddings of one attribute, and a published lake of them: what benchmarks of the index work on.

Vectors are drawn as embeddings of a trained network lie: an attribute has a few values, a value some hundred
styles, pictures gather about their style in a few dozen dimensions whose variance falls off, and a little of
them is spread over all dimensions. They have unit norm and float16's precision, as what is stored. Part by
part, so that memory does not grow with their number, and the same for the same seed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.index import IndexOptions, build_group, choose_kind, group_of, plan_groups
from pipelines.inverted_lists import plan_template, template_of, train_template
from pipelines.lake import Lake, snapshot_file, working_folder
from pipelines.parts import round_to_half, write_part
from pipelines.storage.objects import store_file
from pipelines.storage.snapshots import Group, Manifest, Part, Template, publish, read_pointer
from pipelines.tonight import ROWS_PER_GROUP

ATTRIBUTE = "neckline_design"
MODEL = "0123456789abcdef"
NUM_VALUES = 12
LATENT_DIM = 48
STYLE_SPREAD, PICTURE_SPREAD, NOISE = 0.7, 0.5, 0.15
SNAPSHOT = "20260101T000000Z-00000000"


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """Vectors that can be drawn again and again."""

    num_rows: int
    dim: int = 512
    num_styles: int = 3000
    rows_per_part: int = 512
    seed: int = 0

    @property
    def num_parts(self) -> int:
        """Parts, the last one with what is left."""
        return -(-self.num_rows // self.rows_per_part)

    def part(self, number: int) -> np.ndarray:
        """Return the vectors of a part: [N, D] float32 of unit norm and float16's precision."""
        num_rows = min(self.rows_per_part, self.num_rows - number * self.rows_per_part)
        return self._draw(np.random.default_rng([self.seed, 1, number]), num_rows)

    def queries(self, number: int) -> np.ndarray:
        """Return vectors that are none of the parts': [number, D]."""
        return self._draw(np.random.default_rng([self.seed, 2]), number)

    def exact(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the k best scores of each query over all parts: [Q, k] float32, best first."""
        best = np.full((len(queries), k), -np.inf, np.float32)
        for number in range(self.num_parts):
            scores = np.concatenate([best, queries @ self.part(number).T], axis=1)
            best = -np.partition(-scores, k - 1, axis=1)[:, :k]
        return -np.sort(-best, axis=1)

    @cached_property
    def _styles(self) -> tuple[np.ndarray, np.ndarray]:
        """Return styles [S, L] and the basis [L, D] of the dimensions that they lie in."""
        rng = np.random.default_rng([self.seed, 0])
        falling = (1 + np.arange(LATENT_DIM) / 8) ** -0.5
        values = rng.standard_normal((NUM_VALUES, LATENT_DIM)) * falling
        chosen = values[rng.integers(0, NUM_VALUES, self.num_styles)]
        styles = chosen + STYLE_SPREAD * rng.standard_normal(chosen.shape) * falling
        basis, _ = np.linalg.qr(rng.standard_normal((self.dim, min(LATENT_DIM, self.dim))))
        return styles[:, : basis.shape[1]].astype(np.float32), basis.T.astype(np.float32)

    def _draw(self, rng: np.random.Generator, num_rows: int) -> np.ndarray:
        styles, basis = self._styles
        falling = (1 + np.arange(len(basis), dtype=np.float32) / 8) ** -0.5
        # Styles sell unequally: the square favours the first ones.
        chosen = styles[(len(styles) * rng.random(num_rows) ** 2).astype(int)]
        near = chosen + PICTURE_SPREAD * falling * rng.standard_normal(chosen.shape, np.float32)
        spread = rng.standard_normal((num_rows, self.dim), np.float32) * np.float32(NOISE / self.dim**0.5)
        vectors = near @ basis + spread * np.linalg.norm(near, axis=1, keepdims=True)
        return round_to_half(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def publish_made_up(
    lake: Lake, made_up: MadeUp, options: IndexOptions, say: Callable[[str], None] = lambda _: None
) -> Manifest:
    """Publish a lake of one attribute: parts, groups of the kind that the options choose, and a catalog.

    Args:
        lake: empty, or one whose publication was broken off.
        made_up: its vectors.
        options: of the index.
        say: told what is done.
    """
    say(f"writing {made_up.num_parts} parts of {made_up.num_rows} vectors")
    parts = [_write_part(lake, made_up, number) for number in range(made_up.num_parts)]
    groups, template = build(lake, parts, choose_kind(made_up.num_rows, options, made_up.dim), options, say)
    with working_folder() as folder:
        _write_catalog(folder / "catalog.parquet", made_up)
        name = snapshot_file(SNAPSHOT, "catalog.parquet")
        entry = store_file(lake.store, folder / "catalog.parquet", name, made_up.num_rows)
    manifest = Manifest(
        id=SNAPSHOT, parent=None, night=1, created="2026-01-01T00:00:00Z", dataset="catalog", source="",
        model=MODEL, attributes=(ATTRIBUTE,), taxonomy_digest="", config={}, config_digest="", versions={},
        counts={}, gates=[], files={"catalog.parquet": entry}, shards={}, parts=tuple(parts), groups=groups,
        template=template,
    )  # fmt: skip
    publish(lake, manifest, read_pointer(lake))
    return manifest


def build(
    lake: Lake, parts: list[Part], kind: str, options: IndexOptions, say: Callable[[str], None]
) -> tuple[tuple[Group, ...], Template | None]:
    """Build the groups of parts, in this process and one after the other."""
    template = None
    if kind != "flat":
        say(f"training {kind}")
        made = train_template(lake, plan_template(MODEL, ATTRIBUTE, parts, kind))
        template = template_of(kind, sum(part.num_rows for part in parts), {ATTRIBUTE: made})
    units = list(plan_groups(MODEL, parts, options, template))
    say(f"building {len(units)} groups of {kind}")
    return tuple(group_of(build_group(lake, unit)) for unit in units), template


def _write_part(lake: Lake, made_up: MadeUp, number: int) -> Part:
    name, vectors = _part_name(number), made_up.part(number)
    first = number * made_up.rows_per_part
    digests = [_digest(row) for row in range(first, first + len(vectors))]
    files = write_part(
        lake, MODEL, name, (ATTRIBUTE,), digests, vectors[:, None], {ATTRIBUTE: _values(len(vectors))}
    )
    return Part(name=name, shard=name, num_rows=len(vectors), files=files)


def _values(num_rows: int) -> pa.Table:
    """Return what a model says of pictures: one of a few values, surely enough."""
    rows = np.arange(num_rows)
    said = pa.array([f"value {value}" for value in rows % NUM_VALUES])
    score = pa.array((0.5 + rows % 50 / 100).astype(np.float32))
    return pa.table({"value": said, "score": score, "applies": pa.array([True] * num_rows)})


def _write_catalog(path: Path, made_up: MadeUp) -> None:
    """Write a product a picture, as `Tonight.write` does."""
    with duckdb.connect() as db:
        db.execute(
            f"""copy (select 'style-' || lpad(i::varchar, 9, '0') as key,
                   's3://shop-pictures/' || i || '.jpg' as uri, md5(i::varchar) as token, 'train' as role,
                   map{{'{ATTRIBUTE}': ['value ' || i % {NUM_VALUES}]}} as labels,
                   sha256(i::varchar) as sha256, p.name as shard, p.name as part,
                   (i % {made_up.rows_per_part})::integer as row,
                   'brand ' || i % 40 as brand, (i % 9000) / 100 as price
                from (select range as i, printf('part-%08d', i // {made_up.rows_per_part}) as name
                      from range({made_up.num_rows})) p order by key)
            to '{path}' (format parquet, compression zstd, row_group_size {ROWS_PER_GROUP})"""
        )


def _part_name(number: int) -> str:
    return f"part-{number:08d}"


def _digest(row: int) -> str:
    return hashlib.sha256(str(row).encode()).hexdigest()
