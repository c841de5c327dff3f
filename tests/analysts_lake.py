"""A small published lake for analysts: what each product shows is known, and stray files lie beside.

Three nights. The second brings products, among them a copy and the same picture under a second key; the third
deletes a product, changes a picture and merges the parts of the first two. Another model's parts under the
same names, rows that are no longer live and a refused night lie in the same folders.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.index import IndexOptions, build_group, group_of, plan_groups
from pipelines.lake import Lake, bytes_sha256, snapshot_file, to_json
from pipelines.merging import LiveRows, merge_parts, plan_merges
from pipelines.parts import VALUE_SCHEMA, Shown, round_to_half, write_part
from pipelines.storage.objects import FileEntry, store_file
from pipelines.storage.snapshots import Manifest, Part, publish, put_manifest, read_pointer
from pipelines.views import put_views

ATTRIBUTES = ("neckline_design", "sleeve_length")
VALUES = {"neckline_design": ("v", "round", "off_shoulder"), "sleeve_length": ("long", "short", "sleeveless")}
DIM = 16
MODEL, OTHER_MODEL = "1234567890123456", "0badbadbadbadbad"  # the first reads as a number
NIGHTS = {
    "night-1": "2024-01-08T02:00:00Z",
    "night-2": "2024-01-16T02:00:00Z",
    "night-3": "2024-01-24T02:00:00Z",
}
NEW, OLD = "night-3", "night-2"
WEEKS = {"night-2": "2024-01-15", "night-3": "2024-01-22"}  # their Mondays
QUARANTINE = pa.schema(
    [(name, pa.string()) for name in ("key", "uri", "token", "stage", "kind", "message", "sha256")]
    + [("first_seen", pa.string()), ("last_seen", pa.string()), ("attempts", pa.int32())]
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: what the model says of it, and its vectors, by attribute."""

    sha256: str
    shown: Mapping[str, Shown]
    vectors: np.ndarray
    """[A, DIM] unit vectors as they are stored."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product of a catalog."""

    picture: str
    brand: str
    price: float
    listed: str = "2024-02-29"


@dataclass(frozen=True, slots=True)
class Analysed:
    """The lake and what is in it."""

    lake: Lake
    pictures: Mapping[str, Picture]
    catalogs: Mapping[str, Mapping[str, Product]]
    """By snapshot, products by key."""
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def shown(self, snapshot: str, key: str, attribute: str) -> Shown:
        """Return what the model says of a product."""
        return self.pictures[self.catalogs[snapshot][key].picture].shown[attribute]

    def vector(self, snapshot: str, key: str, attribute: str) -> np.ndarray:
        """Return a product's vector, [DIM] float64."""
        vectors = self.pictures[self.catalogs[snapshot][key].picture].vectors
        return vectors[ATTRIBUTES.index(attribute)].astype(np.float64)


def said(analysed: Analysed, snapshot: str = NEW) -> Iterator[tuple[str, str, Any]]:
    """Yield (key, attribute, what the model says) of a snapshot."""
    for key, attribute in itertools.product(analysed.catalogs[snapshot], ATTRIBUTES):
        yield key, attribute, analysed.shown(snapshot, key, attribute)


def shares(named: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[int, float]]:
    """Return (count, share among those that differ in the last alone) of tuples."""
    counts = Counter(named)
    totals = Counter()
    for named_as, count in counts.items():
        totals[named_as[:-1]] += count
    return {each: (count, count / totals[each[:-1]]) for each, count in counts.items()}


def first_night(analysed: Analysed, key: str) -> str:
    return next(name for name in NIGHTS if key in analysed.catalogs[name])


def make(lake: Lake, folder: Path) -> Analysed:
    """Write and publish the lake."""
    pictures = _pictures()
    found = Analysed(lake, pictures, _catalogs())
    parts: dict[str, Part] = {}
    for name, members in _packed(found.catalogs).items():
        shown = [pictures[each] for each in members]
        parts[name] = _write(lake, MODEL, name, shown, ATTRIBUTES[:1] if name == "part-3" else ATTRIBUTES)
        _write(lake, OTHER_MODEL, name, [_other(pictures[each]) for each in members])
    places = {
        pictures[each].sha256: (name, row)
        for name, members in _packed(found.catalogs).items()
        for row, each in enumerate(members)
    }
    # One attribute of a part as it is where it was added later: in a file of another name.
    added = _write(lake, MODEL, "part-3-added", shown, ATTRIBUTES[1:])
    parts["part-3"] = replace(parts["part-3"], files={**parts["part-3"].files, **added.files})
    _publish(found, "night-1", [parts["part-1"]], places, folder)
    _publish(found, "night-2", [parts["part-1"], parts["part-2"]], places, folder)
    merged = _merge(found, [parts["part-1"], parts["part-2"]], places)
    _publish(found, "night-3", [merged, parts["part-3"]], places, folder)
    _refuse(found, folder, places)
    return found


def _pictures() -> dict[str, Picture]:
    """Draw 12 pictures, 2 of each pair of values, a copy of one, and some that the model cannot name."""
    random = np.random.default_rng(7)
    made: dict[str, Picture] = {}
    for number in range(12):
        said = {
            "neckline_design": Shown(VALUES["neckline_design"][number % 3], 0.5 + number / 32, True),
            "sleeve_length": Shown(VALUES["sleeve_length"][number // 4], 0.75, None),
        }
        made[f"picture-{number}"] = _picture(f"picture-{number}", said, random)
    original = made["picture-1"]
    noise = random.standard_normal(original.vectors.shape) * 0.01
    made["copy"] = Picture(_digest("copy"), original.shown, _unit(original.vectors + noise))
    lacking = {"neckline_design": Shown(applies=False), "sleeve_length": Shown("long", 0.5, None)}
    made["trousers"] = _picture("trousers", lacking, random)
    made["blurred"] = _picture("blurred", {name: Shown() for name in ATTRIBUTES}, random)
    return made


def _picture(name: str, shown: Mapping[str, Shown], random: np.random.Generator) -> Picture:
    vectors = random.standard_normal((len(ATTRIBUTES), DIM)) * 0.2
    for row, attribute in enumerate(ATTRIBUTES):
        if value := shown[attribute].value:
            vectors[row, VALUES[attribute].index(value)] += 1
    return Picture(_digest(name), shown, _unit(vectors))


def _catalogs() -> dict[str, dict[str, Product]]:
    brands = ("Arno", "Bari", "Como")
    first = {f"sku-{n}": Product(f"picture-{n}", brands[n % 3 if n < 6 else n % 2], 10 + n) for n in range(8)}
    first["sku-trousers"] = Product("trousers", "Como", 50)
    second = first | {
        "sku-8": Product("picture-8", "Bari", 18),
        "sku-copy": Product("copy", "Como", 9, listed="2024-03-05"),  # of sku-1, Bari's
        "sku-1-again": Product("picture-1", "Arno", 11),
        "sku-blurred": Product("blurred", "Arno", 1),
    }
    third = {key: product for key, product in second.items() if key != "sku-2"}
    third |= {
        "sku-3": Product("picture-9", "Arno", 13),  # other bytes under the same key
        "sku-10": Product("picture-10", "Bari", 20),
        "sku-11": Product("picture-11", "Como", 21),
        "sku-0": Product("picture-0", "Arno", 8),  # cheaper
    }
    return {"night-1": first, "night-2": second, "night-3": third}


def _packed(catalogs: Mapping[str, Mapping[str, Product]]) -> dict[str, list[str]]:
    """Return the pictures that each night packs, in their rows' order, last first."""
    packed: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, catalog in enumerate(catalogs.values(), start=1):
        new = sorted({product.picture for product in catalog.values()} - seen, reverse=True)
        packed[f"part-{number}"] = new
        seen.update(new)
    return packed


def _publish(
    found: Analysed, snapshot: str, parts: list[Part], places: dict[str, tuple[str, int]], folder: Path
) -> None:
    parent = list(found.manifests.values())[-1] if found.manifests else None
    manifest = _manifest(found, snapshot, found.catalogs[snapshot], parts, places, folder, parent)
    put_views(found.lake)
    publish(found.lake, manifest, read_pointer(found.lake))
    found.manifests[snapshot] = manifest


def _refuse(found: Analysed, folder: Path, places: dict[str, tuple[str, int]]) -> None:
    """Leave a night that a gate refused: it lists a key that was never published."""
    last = found.manifests["night-3"]
    catalog = {"sku-refused": Product("picture-0", "Arno", 1)}
    put_manifest(
        found.lake, _manifest(found, "night-4-refused", catalog, list(last.parts), places, folder, last)
    )


def _manifest(
    found: Analysed,
    snapshot: str,
    products: Mapping[str, Product],
    parts: list[Part],
    places: dict[str, tuple[str, int]],
    folder: Path,
    parent: Manifest | None,
) -> Manifest:
    lake = found.lake
    units = plan_groups(MODEL, parts, IndexOptions(parts_per_group=1))
    bad = _quarantine(snapshot)
    files = {
        "catalog.parquet": _table(
            lake, snapshot, "catalog.parquet", _catalog(found, products, places), folder
        ),
        "quarantine.parquet": _table(lake, snapshot, "quarantine.parquet", bad, folder),
    }
    stored = to_json(parent.to_json()) if parent else b""
    return Manifest(
        id=snapshot, parent=parent.id if parent else None,
        parent_sha256=bytes_sha256(stored) if parent else "",
        night=parent.night + 1 if parent else 1, created=NIGHTS.get(snapshot, "2024-01-25T02:00:00Z"),
        dataset="shop", source="feed.parquet", model=MODEL, attributes=ATTRIBUTES, taxonomy_digest="",
        config={}, config_digest="", versions={}, gates=[],
        counts={"input": len(products) + len(bad), "quarantined": len(bad)},
        files=files, shards={}, parts=tuple(parts),
        groups=tuple(group_of(build_group(lake, unit)) for unit in units),
    )  # fmt: skip


def _quarantine(snapshot: str) -> pa.Table:
    rows = [
        ("torn", "shards", "truncated", "ends early", "night-1", 3),
        ("lost", "shards", "not_found", "no such file", "night-2", 2),
        ("lost-too", "shards", "not_found", "no such file", "night-3", 1),
    ]
    seen = NIGHTS.get(snapshot, "")
    kept = [
        {
            "key": key, "uri": f"{key}.jpg", "token": "", "stage": stage, "kind": kind, "message": message,
            "first_seen": NIGHTS[night], "last_seen": seen, "attempts": attempts,
        }
        for key, stage, kind, message, night, attempts in rows
        if NIGHTS[night] <= seen
    ]  # fmt: skip
    return pa.Table.from_pylist(kept, schema=QUARANTINE)


def _catalog(
    found: Analysed, products: Mapping[str, Product], places: dict[str, tuple[str, int]]
) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for key, product in sorted(products.items()):
        digest = found.pictures[product.picture].sha256
        part, row = places[digest]
        labels = {"neckline_design": ["v"]} if product.picture == "picture-0" else {}
        rows.append(
            {
                "key": key, "uri": f"{key}.jpg", "token": digest, "role": "train",
                "labels": list(labels.items()), "sha256": digest, "shard": "shard", "part": part, "row": row,
                "brand": product.brand, "price": product.price, "listed": product.listed,
            }
        )  # fmt: skip
    texts = ("key", "uri", "token", "role")
    schema = [
        *((name, pa.string()) for name in texts),
        ("labels", pa.map_(pa.string(), pa.list_(pa.string()))),
        *((name, pa.string()) for name in ("sha256", "shard", "part")),
        *(("row", pa.int32()), ("brand", pa.string()), ("price", pa.float64())),
        ("listed", pa.string()),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


def _write(
    lake: Lake, model: str, part: str, pictures: list[Picture], attributes: Sequence[str] = ATTRIBUTES
) -> Part:
    values = {
        name: pa.Table.from_pylist([each.shown[name]._asdict() for each in pictures], schema=VALUE_SCHEMA)
        for name in attributes
    }
    digests = [each.sha256 for each in pictures]
    columns = [ATTRIBUTES.index(name) for name in attributes]
    vectors = np.stack([each.vectors[columns] for each in pictures])
    files = write_part(lake, model, part, attributes, digests, vectors, values)
    return Part(name=part, shard="shard", num_rows=len(digests), files=files)


def _merge(found: Analysed, parts: list[Part], places: dict[str, tuple[str, int]]) -> Part:
    """Merge what is live of parts on the third night; `places` then tells where it lies."""
    live = {found.pictures[product.picture].sha256 for product in found.catalogs["night-3"].values()}
    sources = []
    for part in parts:
        rows = sorted((row, digest) for digest, (name, row) in places.items() if name == part.name)
        kept = [(row, digest) for row, digest in rows if digest in live]
        sources.append(LiveRows(part, tuple(row for row, _ in kept), tuple(digest for _, digest in kept)))
    (unit,) = plan_merges(MODEL, sources, 1000)
    made = merge_parts(found.lake, unit)
    places |= {digest: (unit.name, row) for row, digest in enumerate(made.detail["pictures"])}
    return Part(
        name=unit.name,
        shard="",
        num_rows=made.counts["rows"],
        files=dict(zip(made.detail["attributes"], made.files, strict=True)),
    )


def _other(picture: Picture) -> Picture:
    """Return what another model would say: wrong, if it were read."""
    shown = {name: Shown("wrong", 1.0, True) for name in ATTRIBUTES}
    return Picture(picture.sha256, shown, -picture.vectors)


def _table(lake: Lake, snapshot: str, name: str, table: pa.Table, folder: Path) -> FileEntry:
    path = folder / name
    pq.write_table(table, path)
    return store_file(lake.store, path, snapshot_file(snapshot, name), len(table))


def _digest(name: str) -> str:
    return bytes_sha256(name.encode())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return round_to_half((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
