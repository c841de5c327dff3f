"""Search a published snapshot: pictures that look alike in one attribute, or in several with weights.

Where the model says which attributes a picture has (`parts.Shown`), a search under an attribute that the
query has leaves out pictures that it says not to have it: like this neckline, but no trousers. The catalog's
own labels know better: a product that they give the attribute is never left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import duckdb
import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agman.checkpoint import load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.prototypes import INVISIBLE
from agman.taxonomy import position_in
from agman.transforms import normalise, read_pixels
from pipelines.index import IDS_SCHEMA, read_ids, read_index
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.parts import Shown, read_embeddings
from pipelines.shards.read import read_picture
from pipelines.storage.snapshots import Group, Manifest, current_manifest, read_manifest
from pipelines.values import said_of

MIN_CANDIDATES = 200  # candidates taken per attribute before the weighted sum ranks them exactly


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer."""

    rank: int
    key: str
    score: float
    """Weighted mean of cosines, in [-1, 1]."""
    scores: dict[str, float]
    """Cosine by attribute."""
    sha256: str
    row: dict[str, Any]
    """The catalog's row, with the shop's own columns."""
    shows: dict[str, Shown]
    """By attribute, what the model says that the picture shows."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """A picture of an index on its way to a hit."""

    score: float
    scores: dict[str, float]
    sha256: str
    group: Group
    position: int
    """Row of the group."""


class _Live(NamedTuple):
    """Which rows of a group answer a search."""

    positions: np.ndarray
    """[N] int64, ascending."""
    hidden: int
    """Products left out for lack of an attribute."""


def open_searcher(lake: Lake, snapshot: str | None = None) -> "Searcher":
    """Open the published snapshot, or the one named.

    Raises:
        InvalidInput: if nothing is published, or there is no such snapshot.
    """
    return Searcher(lake, read_manifest(lake, snapshot) if snapshot else current_manifest(lake))


class Searcher:
    """One snapshot opened for search; stays on it whatever is published later."""

    def __init__(self, lake: Lake, manifest: Manifest) -> None:
        """Open the catalog; indexes and the model are loaded when they are first needed."""
        self.lake = lake
        self.manifest = manifest
        self._stack = ExitStack()
        catalog = self._stack.enter_context(lake.checked(self.manifest.files["catalog.parquet"]))
        self._db = duckdb.connect()
        quoted = str(catalog).replace("'", "''")
        self._db.execute(
            f"create view catalog as select * from read_parquet('{quoted}', hive_partitioning=false)"
        )
        self._indexes: dict[tuple[str, str], faiss.Index] = {}
        self._ids: dict[str, pa.Table] = {}
        self._shows: dict[str, pa.Table] = {}
        self._live: dict[tuple[str, frozenset[str]], _Live] = {}

    def close(self) -> None:
        """Drop temporary copies."""
        self._db.close()
        self._stack.close()

    def __enter__(self) -> "Searcher":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that can be asked about."""
        return self.manifest.attributes

    def check_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return weights that sum to 1.

        Raises:
            InvalidInput: if an attribute is unknown or the weights are of no use.
        """
        for name in weights:
            position_in(name, self.attributes, "attribute")
        total = sum(weights.values())
        if not weights or min(weights.values()) < 0 or not 0 < total < math.inf:
            raise InvalidInput(
                f"attribute weights {dict(weights)}: expected at least one above zero, none below"
            )
        return {name: weight / total for name, weight in weights.items()}

    def embed_image(self, encoded: bytes) -> dict[str, np.ndarray]:
        """Embed a picture with the snapshot's model; returns [D] by attribute.

        Raises:
            InvalidInput: if it is no usable picture.
        """
        try:
            pixels = read_pixels(encoded, self._model[1].preprocess)
        except BadSample as error:
            raise InvalidInput(f"query picture: {error}") from error
        embedder, loaded = self._model
        vectors = embedder.embed(normalise(pixels[None], loaded.preprocess))[0].numpy()
        return dict(zip(loaded.taxonomy.names, vectors, strict=True))

    def embedding_of(self, key: str) -> dict[str, np.ndarray]:
        """Return the stored embeddings of a product, [D] by attribute.

        Raises:
            InvalidInput: if the snapshot has no such key.
        """
        row = self.row_of(key)
        part = next(part for part in self.manifest.parts if part.name == row["part"])
        vectors = {}
        for attribute, entry in part.files.items():
            with self.lake.checked(entry) as path:
                vectors[attribute] = read_embeddings(path)[1][row["row"]]
        return vectors

    def shown_on(self, row: Mapping[str, Any]) -> dict[str, Shown]:
        """Return what the model says that a catalog row's picture shows, by attribute."""
        group = next(group for group in self.manifest.groups if row["part"] in group.parts)
        ids = self._ids_of(group)
        here = pc.and_(pc.equal(ids["part"], row["part"]), pc.equal(ids["row"], row["row"]))
        return self._shown_at(group, pc.index(here, True).as_py())

    def shown_by(self, query: Mapping[str, np.ndarray]) -> dict[str, Shown]:
        """Return what the snapshot's model says of a picture that `embed_image` embedded."""
        loaded = self._model[1]
        stacked = np.stack([query[name] for name in loaded.taxonomy.names])
        rows = said_of(loaded, stacked[None])
        return self._shown({name: table.to_pylist()[0] for name, table in rows.items()})

    def count_hidden(self, having: Iterable[str]) -> int:
        """Return how many products a search with `having` leaves out for lack of an attribute."""
        wanted = frozenset(having)
        return sum(self._live_rows(group, wanted).hidden for group in self.manifest.groups)

    def _shown_at(self, group: Group, position: int) -> dict[str, Shown]:
        shows = self._shows_of(group)
        said = shows["shows"][position].as_py() if "shows" in shows.column_names else {}
        return self._shown(said)

    def _shown(self, shows: Mapping[str, Any]) -> dict[str, Shown]:
        return {name: Shown(**(shows.get(name) or {})) for name in self.attributes}

    def row_of(self, key: str) -> dict[str, Any]:
        """Return a product's catalog row.

        Raises:
            InvalidInput: if the snapshot has no such key.
        """
        rows = self._rows("select * from catalog where key = ?", [key])
        if not rows:
            near = self._rows(
                "select key from catalog order by jaro_winkler_similarity(key, ?) desc limit 3", [key]
            )
            close = ", ".join(str(row["key"]) for row in near)
            raise InvalidInput(
                f"key {key!r}: not in snapshot {self.manifest.id}; the nearest keys are {close}"
            )
        return rows[0]

    def example_rows(self, attribute: str, count: int) -> list[dict[str, Any]]:
        """Return products to show a search with: held-out and labelled with the attribute where any is."""
        return self._rows(
            """select * from catalog
            order by labels[?] is null, role <> 'query', md5(key || ?), key limit ?""",
            [attribute, attribute, count],
        )

    def picture_of(self, row: Mapping[str, Any]) -> bytes:
        """Return the picture of a catalog row, from its tar."""
        return read_picture(self.lake, self.manifest.shards[row["shard"]], row["sha256"])

    def search(
        self,
        query: Mapping[str, np.ndarray],
        weights: Mapping[str, float],
        k: int,
        exclude: str | None = None,
        having: Iterable[str] = (),
    ) -> list[Hit]:
        """Return the k products nearest to a query.

        Args:
            query: [D] unit vector by attribute; at least those of `weights`.
            weights: by attribute, as `check_weights` gives them.
            k: number of products.
            exclude: sha256 of a picture to leave out, such as the query's own.
            having: attributes; pictures that the model says not to have one of them are left out, but for
                those whose labels in the catalog carry it.

        Returns:
            At most k hits, best first; products that share a picture share its score.
        """
        if k < 1:
            raise InvalidInput(f"k: expected at least 1, found {k}")
        wanted = max(MIN_CANDIDATES, 4 * k) if len(weights) > 1 else k + 1
        scored: list[_Scored] = []
        wanted_attributes = frozenset(having)
        for group in self.manifest.groups:
            live = self._live_rows(group, wanted_attributes).positions
            scored += self._search_group(group, live, query, weights, wanted)
        scored = [item for item in scored if item.sha256 != exclude]
        scored.sort(key=lambda item: (-item.score, item.sha256))
        return self._hits(scored[:k], k)

    def _search_group(
        self,
        group: Group,
        live: np.ndarray,
        query: Mapping[str, np.ndarray],
        weights: Mapping[str, float],
        wanted: int,
    ) -> list[_Scored]:
        if not len(live):
            return []
        candidates: set[int] = set()
        for attribute in weights:
            index = self._index(group, attribute)
            selector = faiss.IDSelectorBatch(live)
            _, found = index.search(
                query[attribute][None].astype(np.float32),
                min(wanted, len(live)),
                params=_parameters(index, selector),
            )
            candidates.update(int(i) for i in found[0] if i >= 0)
        rows = np.array(sorted(candidates), np.int64)
        cosines = {
            attribute: self._index(group, attribute).reconstruct_batch(rows) @ query[attribute]
            for attribute in weights
        }
        total = sum(weights[attribute] * cosines[attribute] for attribute in weights)
        digests = self._ids_of(group)["sha256"].take(rows).to_pylist()
        return [
            _Scored(
                score=float(total[i]),
                scores={name: float(cosines[name][i]) for name in weights},
                sha256=digest,
                group=group,
                position=int(rows[i]),
            )
            for i, digest in enumerate(digests)
        ]

    def _hits(self, scored: Sequence[_Scored], k: int) -> list[Hit]:
        digests = pa.array([item.sha256 for item in scored], pa.string())
        self._db.register("wanted", pa.table({"sha256": digests}))
        rows = self._rows(
            "select * from catalog where sha256 in (select sha256 from wanted) order by key", []
        )
        by_digest: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_digest.setdefault(row["sha256"], []).append(row)
        ranked = [(item, row) for item in scored for row in by_digest[item.sha256]]
        return [
            Hit(
                rank,
                row["key"],
                item.score,
                item.scores,
                item.sha256,
                row,
                self._shown_at(item.group, item.position),
            )
            for rank, (item, row) in enumerate(ranked[:k], start=1)
        ]

    def _live_rows(self, group: Group, having: frozenset[str]) -> _Live:
        """Return the index rows that the catalog still places here, less those that lack an attribute."""
        place = (group.name, having)
        if place not in self._live:
            ids = self._ids_of(group)
            self._db.register("ids", ids.append_column("position", pa.array(range(len(ids)), pa.int64())))
            rows = self._db.execute(
                """select position, count(*) as products from ids join catalog using (sha256, part, row)
                group by position order by position"""
            ).fetchnumpy()
            hidden = np.zeros(len(ids), bool)
            for attribute in having:
                hidden[self._lacking(group, attribute)] = True
            positions = np.asarray(rows["position"], np.int64)
            is_hidden = hidden[positions]
            products = int(np.asarray(rows["products"])[is_hidden].sum())
            self._live[place] = _Live(positions[~is_hidden], products)
        return self._live[place]

    def _lacking(self, group: Group, attribute: str) -> np.ndarray:
        """Return the index rows that the model says to lack an attribute, and no label gives it."""
        applies = read_ids(self.lake, group, [f"shows.{attribute}.applies"])
        if "shows" not in applies.column_names:  # written before there were values
            return np.zeros(0, np.int64)
        lacks = pc.equal(pc.struct_field(applies["shows"], [attribute, "applies"]), False)
        rows = self._ids_of(group).append_column("position", pa.array(range(len(applies)), pa.int64()))
        self._db.register("lacking", rows.filter(lacks))
        found = self._db.execute(
            """select position from lacking join catalog using (sha256, part, row) group by position
            having not bool_or(coalesce(len(labels[$name]) > 0 and labels[$name] <> [$absent], false))""",
            {"name": attribute, "absent": INVISIBLE},
        ).fetchnumpy()
        return np.asarray(found["position"], np.int64)

    def _ids_of(self, group: Group) -> pa.Table:
        if group.name not in self._ids:
            self._ids[group.name] = read_ids(self.lake, group, IDS_SCHEMA.names)
        return self._ids[group.name]

    def _shows_of(self, group: Group) -> pa.Table:
        if group.name not in self._shows:
            self._shows[group.name] = read_ids(self.lake, group, ["shows"])
        return self._shows[group.name]

    def _index(self, group: Group, attribute: str) -> faiss.Index:
        place = (group.name, attribute)
        if place not in self._indexes:
            self._indexes[place] = read_index(self.lake, group.files[attribute])
        return self._indexes[place]

    def _rows(self, query: str, parameters: list[Any]) -> list[dict[str, Any]]:
        found: pa.Table = self._db.sql(query, params=parameters).to_arrow_table()
        rows: list[dict[str, Any]] = found.to_pylist(maps_as_pydicts="strict")
        return rows

    @cached_property
    def _model(self) -> tuple[Embedder, Any]:
        with fetch_model(self.lake, self.manifest.model) as folder:
            loaded = load_model(folder)
        return Embedder(loaded.model), loaded


def attributes_had(shows: Mapping[str, Shown], attributes: Iterable[str]) -> list[str]:
    """Return those of the attributes that a picture has as far as the model can tell: it names a value."""
    return [name for name in attributes if shows[name].value is not None]


def _parameters(index: faiss.Index, selector: faiss.IDSelector) -> Any:
    # FAISS' stubs do not know the keyword arguments that its Python wrapper adds.
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)  # type: ignore[call-arg]
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
