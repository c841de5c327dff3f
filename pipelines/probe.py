"""A fixed set of pictures that every night embeds anew and compares with what is stored.

A picture's embedding depends on its bytes and the model alone. Where tonight's software, hardware and model
make another vector of the same bytes than the one that is published, a library, the preprocessing, a
processor or the model changed without a word, and what tonight embeds cannot be compared with the rest.

One picture of each new part is asked with them: another kind of worker may have made that, or an earlier
attempt at this night on other software. On the night of a new model the fixed pictures tell how far it moves
from the old one.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb
import numpy as np
import ray
import torch

from agman.errors import BadSample
from pipelines.catalog import Catalog
from pipelines.cluster import num_gpus
from pipelines.drift import Moved, compare_vectors, drift_gates, model_gates, sample_gates
from pipelines.embed_workers import uses_gpu
from pipelines.embedding import EmbedOptions, PartEmbedder
from pipelines.errors import CorruptShard, StorageUnavailable
from pipelines.lake import Lake
from pipelines.parts import read_embeddings
from pipelines.quality import Gate, GateOptions
from pipelines.scheduling import TASK_RETRIES, Ref
from pipelines.shards.read import read_picture
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Manifest, Part

READ_THREADS = 8  # reading, hashing and decoding release the GIL

Shards = Mapping[str, Sequence[FileEntry]]
"""By shard its tar and index."""


class Place(NamedTuple):
    """Where a picture and its embeddings are."""

    sha256: str
    shard: str
    part: str
    row: int
    """In the part."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a night's probe compares."""

    places: tuple[Place, ...] = ()
    """Under tonight's model, in the order of digests."""
    shards: Shards = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    """By name, those of `places` and `sample`."""
    sample: tuple[Place, ...] = ()
    """One picture of each part that is new tonight, or of some of them."""
    before: tuple[Place, ...] = ()
    """The same pictures under the parent's model, where that is another one and its files are whole."""
    parts_before: Mapping[str, Part] = field(default_factory=dict)

    @property
    def digests(self) -> tuple[str, ...]:
        """What the manifest keeps, so that the next night asks the same pictures."""
        return tuple(place.sha256 for place in self.places)


@dataclass(frozen=True, slots=True)
class Anew:
    """Pictures that were embedded anew."""

    digests: tuple[str, ...]
    vectors: np.ndarray
    """[N, A, D] float32, rounded to what is stored."""
    attributes: tuple[str, ...]
    """The A names."""
    refused: Mapping[str, str]
    """By digest, why a picture could not be decoded this time."""


def sample_places(
    db: duckdb.DuckDBPyConnection, table: str, kept: Collection[str], wanted: int
) -> tuple[Place, ...]:
    """Choose pictures of a catalog that have an embedding: the same ones as long as they live.

    Args:
        db: where the table is.
        table: with columns sha256, shard, part and row; a picture may stand in several equal rows.
        kept: digests that come first, where they live; the lowest digests fill up.
        wanted: how many.

    Returns:
        At most `wanted`, in the order of digests.
    """
    rows = db.execute(
        f"""select sha256, shard, part, row
        from (select distinct sha256, shard, part, row from {table} where part is not null)
        order by sha256 not in (select unnest($kept::varchar[])), sha256 limit $wanted""",
        {"kept": sorted(kept), "wanted": wanted},
    ).fetchall()
    return tuple(sorted(Place(*row) for row in rows))


def sample_parts(db: duckdb.DuckDBPyConnection, parts: Collection[str], wanted: int) -> tuple[Place, ...]:
    """Choose a picture of each of some parts, at most `wanted`; by digest, which is no order of theirs."""
    rows = db.execute(
        """select min(sha256), arg_min(shard, sha256), part, arg_min(row, sha256) from pictures
        where part in (select unnest($parts::varchar[])) group by part order by 1 limit $wanted""",
        {"parts": sorted(parts), "wanted": wanted},
    ).fetchall()
    return tuple(Place(*row) for row in rows)


def published_places(lake: Lake, manifest: Manifest, wanted: int) -> tuple[Place, ...]:
    """Return the places of a snapshot's probe; of one that kept none, of as many pictures as wanted."""
    with lake.checked(manifest.files["catalog.parquet"]) as path, duckdb.connect() as db:
        db.read_parquet(str(path), hive_partitioning=False).create_view("published")
        return sample_places(db, "published", manifest.probe, len(manifest.probe) or wanted)


def plan_probe(
    catalog: Catalog,
    model: str,
    parent: Manifest | None,
    parts: Iterable[Part],
    shard_files: Callable[[str], Sequence[FileEntry]],
    wanted: int,
    lost: Collection[str] = (),
) -> Probe:
    """Choose tonight's probe, once everything is embedded.

    Args:
        catalog: tonight's.
        model: tonight's.
        parent: the snapshot that tonight is compared with, if there is one.
        parts: tonight's.
        shard_files: gives a shard's tar and index.
        wanted: pictures, and new parts.
        lost: names of parts that are damaged.
    """
    known = {part.name: part for part in parts}
    chosen = sample_places(catalog.db, "pictures", parent.probe if parent else (), wanted)
    # A part in no group is another gate's business.
    places = tuple(place for place in chosen if place.part in known)
    before: tuple[Place, ...] = ()
    old: dict[str, Part] = {}
    published = {part.name for part in parent.parts} if parent and parent.model == model else set()
    sample = sample_parts(catalog.db, known.keys() - published, wanted)
    if parent is not None and parent.model != model:
        old = {part.name: part for part in parent.parts if part.name not in lost}
        digests = {place.sha256 for place in places}
        found = sample_places(catalog.db, "previous", digests, len(digests))
        before = tuple(place for place in found if place.sha256 in digests and place.part in old)
    asked = (*places, *sample)
    return Probe(
        places,
        {shard: shard_files(shard) for shard in sorted({place.shard for place in asked})},
        {place.part: known[place.part] for place in asked},
        sample,
        before,
        {place.part: old[place.part] for place in before},
    )


def start_probe(lake: Lake, model: str, probe: Probe, embed: EmbedOptions, bounds: GateOptions) -> Ref:
    """Judge the probe in a Ray task on what the night embeds with; resolves to what `probe_gates` gives."""
    task: Any = ray.remote(probe_gates).options(
        num_cpus=embed.threads,
        num_gpus=1 if uses_gpu(embed, num_gpus()) else 0,
        max_retries=TASK_RETRIES,
        retry_exceptions=[StorageUnavailable],
    )
    ref: Ref = task.remote(lake, model, probe, embed, bounds)
    return ref


def probe_gates(lake: Lake, model: str, probe: Probe, embed: EmbedOptions, bounds: GateOptions) -> list[Gate]:
    """Embed the probe anew and judge how far it is from what is stored.

    Args:
        lake: where.
        model: tonight's.
        probe: which pictures; none gives no gates.
        embed: how the night embeds.
        bounds: what is allowed.

    Raises:
        CorruptShard: if a file is not what its entry says, or a part's row holds another picture.
    """
    if not probe.places:
        return []
    asked = list(dict.fromkeys((*probe.places, *probe.sample)))
    anew = embed_again(PartEmbedder(lake, model, embed), asked, probe.shards)
    same = compare_stored(lake, anew, probe.places, probe.parts)
    sample = compare_stored(lake, anew, probe.sample, probe.parts)
    other = compare_stored(lake, anew, probe.before, probe.parts_before)
    gates = drift_gates(same, anew.refused, bounds)
    return [*gates, *sample_gates(sample, len(probe.sample), bounds), *model_gates(other, bounds)]


def embed_again(embedder: PartEmbedder, places: Sequence[Place], shards: Shards) -> Anew:
    """Read pictures from their tars and embed them; what cannot be decoded is told, not raised.

    Args:
        embedder: the model.
        places: which pictures.
        shards: files of their shards.

    Raises:
        CorruptShard: if a tar or an index is not what its entry says.
    """

    def read(place: Place) -> bytes:
        return read_picture(embedder.lake, shards[place.shard], place.sha256)

    names, size = embedder.loaded.taxonomy.names, embedder.batch_size
    blocks = [np.zeros((0, len(names), embedder.loaded.model.config.embedding_dim), np.float32)]
    digests: list[str] = []
    refused: dict[str, str] = {}
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            pixels = []
            for place, found in zip(batch, embedder.read(list(pool.map(read, batch))), strict=True):
                if isinstance(found, BadSample):
                    refused[place.sha256] = f"{found.kind}: {found.message}"
                else:
                    digests.append(place.sha256)
                    pixels.append(found)
            if pixels:
                blocks.append(embedder.embed(torch.stack(pixels)))
    return Anew(tuple(digests), np.concatenate(blocks), names, refused)


def compare_stored(
    lake: Lake, anew: Anew, places: Sequence[Place], parts: Mapping[str, Part]
) -> dict[str, Moved]:
    """Compare pictures with their stored vectors, under each attribute that both have.

    Args:
        lake: where.
        anew: the pictures now; those of them that are in `places` are compared.
        places: where their stored vectors are.
        parts: by name.

    Returns:
        By attribute; empty where no picture is in both.
    """
    at = {digest: row for row, digest in enumerate(anew.digests)}
    both = [place for place in places if place.sha256 in at]
    if not both:
        return {}
    rows = [at[place.sha256] for place in both]
    has = set.intersection(*(set(parts[place.part].files) for place in both))
    shared = [(index, name) for index, name in enumerate(anew.attributes) if name in has]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        stored = pool.map(lambda item: stored_vectors(lake, both, parts, item[1]), shared)
        return {
            name: compare_vectors(anew.vectors[rows, index], old)
            for (index, name), old in zip(shared, stored, strict=True)
        }


def stored_vectors(
    lake: Lake, places: Sequence[Place], parts: Mapping[str, Part], attribute: str
) -> np.ndarray:
    """Return the stored vectors [N, D] of pictures under an attribute.

    Raises:
        CorruptShard: if a part is not what its entry says, or a row holds another picture.
    """
    found: dict[str, np.ndarray] = {}
    for name in sorted({place.part for place in places}):
        entry = parts[name].files[attribute]
        with lake.checked(entry) as path:
            digests, vectors = read_embeddings(path)
        for place in places:
            if place.part != name:
                continue
            if digests[place.row : place.row + 1] != [place.sha256]:
                raise CorruptShard(
                    f"{lake.url}/{entry.name}: expected picture {place.sha256[:12]}… in row {place.row}, "
                    "found another; the next night makes it again",
                    entry.name,
                )
            found[place.sha256] = vectors[place.row]
    return np.stack([found[place.sha256] for place in places])
