"""Search a published snapshot: pictures that look alike in one attribute, or in several with weights."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import faiss
import numpy as np
import pyarrow as pa

from agman.checkpoint import load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.taxonomy import position_in
from agman.transforms import normalise, read_pixels
from pipelines.index import read_ids, read_index
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.parts import read_embeddings
from pipelines.shards.read import read_picture
from pipelines.storage.snapshots import Group, Manifest, current_manifest, read_manifest

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
        self._live: dict[str, tuple[np.ndarray, list[str]]] = {}

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
        return read_picture(self.lake, self.manifest.dataset, row["shard"], row["sha256"])

    def search(
        self,
        query: Mapping[str, np.ndarray],
        weights: Mapping[str, float],
        k: int,
        exclude: str | None = None,
    ) -> list[Hit]:
        """Return the k products nearest to a query.

        Args:
            query: [D] unit vector by attribute; at least those of `weights`.
            weights: by attribute, as `check_weights` gives them.
            k: number of products.
            exclude: sha256 of a picture to leave out, such as the query's own.

        Returns:
            At most k hits, best first; products that share a picture share its score.
        """
        if k < 1:
            raise InvalidInput(f"k: expected at least 1, found {k}")
        wanted = max(MIN_CANDIDATES, 4 * k) if len(weights) > 1 else k + 1
        scored: list[tuple[float, dict[str, float], str]] = []
        for group in self.manifest.groups:
            scored += self._search_group(group, query, weights, wanted)
        scored = [item for item in scored if item[2] != exclude]
        scored.sort(key=lambda item: (-item[0], item[2]))
        return self._hits(scored[:k], k)

    def _search_group(
        self, group: Group, query: Mapping[str, np.ndarray], weights: Mapping[str, float], wanted: int
    ) -> list[tuple[float, dict[str, float], str]]:
        live, digests = self._live_rows(group)
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
        return [
            (float(total[i]), {name: float(cosines[name][i]) for name in weights}, digests[row])
            for i, row in enumerate(rows.tolist())
        ]

    def _hits(self, scored: Sequence[tuple[float, dict[str, float], str]], k: int) -> list[Hit]:
        self._db.register("wanted", pa.table({"sha256": pa.array([item[2] for item in scored], pa.string())}))
        rows = self._rows(
            "select * from catalog where sha256 in (select sha256 from wanted) order by key", []
        )
        by_digest: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_digest.setdefault(row["sha256"], []).append(row)
        ranked = [(score, each, row) for score, each, digest in scored for row in by_digest[digest]]
        return [
            Hit(rank, row["key"], score, each, row["sha256"], row)
            for rank, (score, each, row) in enumerate(ranked[:k], start=1)
        ]

    def _live_rows(self, group: Group) -> tuple[np.ndarray, list[str]]:
        """Return the index rows of pictures that the catalog still places here, and all rows' digests."""
        if group.name in self._live:
            return self._live[group.name]
        ids = read_ids(self.lake, group)
        self._db.register("ids", ids.append_column("position", pa.array(range(len(ids)), pa.int64())))
        live = self._db.execute(
            "select distinct position from ids join catalog using (sha256, part, row) order by position"
        ).fetchnumpy()["position"]
        self._live[group.name] = np.asarray(live, np.int64), ids["sha256"].to_pylist()
        return self._live[group.name]

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


def _parameters(index: faiss.Index, selector: faiss.IDSelector) -> Any:
    # FAISS' stubs do not know the keyword arguments that its Python wrapper adds.
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)  # type: ignore[call-arg]
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
