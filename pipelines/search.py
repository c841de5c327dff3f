"""Search a published snapshot: pictures that look alike in one attribute, or in several with weights.

Who may answer is settled by `admission.py`. Once `warm`, a searcher answers several threads at a time.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from agman.errors import InvalidInput
from agman.taxonomy import position_in
from pipelines.admission import Admission, Admitted
from pipelines.filters import Filters
from pipelines.index import read_ids
from pipelines.lake import Lake
from pipelines.parts import Shown, read_embeddings
from pipelines.places import CatalogRows, Places, Rows, by_start
from pipelines.products import Products
from pipelines.query_model import QueryModel
from pipelines.retrieval import AttributeIndex, SearchThreads, nearest_of_all
from pipelines.shards.read import PictureReader
from pipelines.storage.snapshots import Group, Manifest, current_manifest, read_manifest
from pipelines.verified import Verified

MIN_CANDIDATES = 200  # candidates taken per attribute before the weighted sum ranks them exactly

SAMPLE_SEED = 0


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

    position: int
    """Index row, as `places.Places` counts them."""
    score: float
    scores: dict[str, float]


def open_searcher(lake: Lake, snapshot: str | None = None, *, verify: bool = False) -> "Searcher":
    """Open the published snapshot, or the one named.

    Args:
        lake: where.
        snapshot: its id.
        verify: compare every file with its digest, also those that this machine compared before.

    Raises:
        InvalidInput: if nothing is published, or there is no such snapshot.
    """
    manifest = read_manifest(lake, snapshot) if snapshot else current_manifest(lake)
    return Searcher(lake, manifest, verify=verify)


class Searcher:
    """One snapshot opened for search; stays on it whatever is published later."""

    def __init__(
        self,
        lake: Lake,
        manifest: Manifest,
        *,
        verify: bool = False,
        mapped: bool = True,
        num_threads: int = 0,
        model: QueryModel | None = None,
    ) -> None:
        """Open the catalog; indexes and the model are loaded when they are first needed.

        Args:
            lake: where.
            manifest: of the snapshot.
            verify: compare every file with its digest, also those that this machine compared before.
            mapped: map the index files of a local lake; False reads them whole into this process.
            num_threads: that a search may take; 0: as many as this process may use cores.
            model: the snapshot's, where it is loaded already.
        """
        self.lake = lake
        self.manifest = manifest
        self._verified = Verified(lake, verify=verify)
        self._mapped = mapped
        self._stack = ExitStack()
        catalog = self._stack.enter_context(self._verified.checked(self.manifest.files["catalog.parquet"]))
        self.products = Products(catalog, manifest.id)
        self._catalog = CatalogRows(catalog)
        self._threads = SearchThreads(num_threads)
        self._indexes: dict[str, AttributeIndex] = {}
        self._shows: dict[str, pa.Table] = {}
        self._given_model = model
        self._pictures = PictureReader(lake)

    def close(self) -> None:
        """Drop temporary copies."""
        self._verified.save()
        self._threads.close()
        self._catalog.close()
        self.products.close()
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

    @property
    def num_products(self) -> int:
        """Rows of the catalog."""
        return int(self._catalog.num_rows)

    def warm(self) -> None:
        """Open all that a search may need, so that no first one waits, and no two threads open the same."""
        for attribute in self.attributes:
            self._index(attribute)
        for group in self.manifest.groups:
            self._shows_of(group)
        for having in ((), *((attribute,) for attribute in self.attributes)):
            self._admit(frozenset(having))
        if self.manifest.groups:
            self._catalog.read([0])

    def embed_image(self, encoded: bytes) -> dict[str, np.ndarray]:
        """Embed a picture with the snapshot's model; returns [D] by attribute.

        Raises:
            InvalidInput: if it is no usable picture.
        """
        return self.model.embed(encoded)

    def embedding_of(self, key: str) -> dict[str, np.ndarray]:
        """Return the embeddings of a product from their Parquet files, [D] by attribute.

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

    def vectors_of(self, row: Mapping[str, Any], attributes: Iterable[str]) -> dict[str, np.ndarray]:
        """Return a catalog row's embeddings as the index holds them, [D] by attribute: without loss."""
        position = np.array([self._places.position(row["part"], row["row"])], np.int64)
        return {name: self._index(name).vectors(position)[0] for name in attributes}

    def shown_on(self, row: Mapping[str, Any]) -> dict[str, Shown]:
        """Return what the model says that a catalog row's picture shows, by attribute."""
        return self.shown_on_all([row])[0]

    def shown_on_all(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Shown]]:
        """Return the same for several rows, which is faster than one after the other."""
        return self.shown_at([self._places.position(row["part"], row["row"]) for row in rows])

    def shown_at(self, positions: Sequence[int]) -> list[dict[str, Shown]]:
        """Return the same for index rows."""
        shown: dict[int, dict[str, Shown]] = {}
        for number, within in by_start(positions, self._places.starts).items():
            shows = self._shows_of(self.manifest.groups[number])
            said = (
                shows["shows"].take(within).to_pylist()
                if "shows" in shows.column_names
                else [{}] * len(within)
            )
            first = int(self._places.starts[number])
            shown |= {first + row: self._shown(each) for row, each in zip(within, said, strict=True)}
        return [shown[position] for position in positions]

    def shows(self) -> pa.ChunkedArray:
        """Return what the model says of each live picture: a struct with a field an attribute, or null."""
        alive = self._places.alive
        columns = [
            table["shows"] if "shows" in table.column_names else pa.chunked_array([pa.nulls(len(table))])
            for table in map(self._shows_of, self.manifest.groups)
        ]
        found: pa.Table = pa.concat_tables(
            [pa.table({"shows": column}) for column in columns], promote_options="permissive"
        )
        return found["shows"].filter(alive)

    def sample(self, count: int) -> Rows:
        """Return the index rows of some live pictures, ascending: the same ones every time."""
        live = np.flatnonzero(self._places.alive)
        chosen = np.random.default_rng(SAMPLE_SEED).permutation(len(live))[:count]
        return np.sort(live[chosen])

    def vectors_at(self, attribute: str, positions: Rows) -> np.ndarray:
        """Return the vectors [N, D] of index rows, ascending, as the index holds them."""
        return self._index(attribute).vectors(positions)

    def labels_at(self, positions: Rows) -> list[dict[str, list[str]]]:
        """Return the labels of a product of each index row, by attribute."""
        return self.products.labels_of([self._places.products(int(at))[0] for at in positions])

    def shown_by(self, query: Mapping[str, np.ndarray]) -> dict[str, Shown]:
        """Return what the snapshot's model says of a picture that `embed_image` embedded."""
        said = self.model.shown_by(query)
        return {name: said.get(name, Shown()) for name in self.attributes}

    def count_hidden(self, having: Iterable[str], filters: Filters = ()) -> int:
        """Return how many products a search with `having` leaves out for lack of an attribute."""
        return self._admit(frozenset(having), filters).num_hidden

    def _shown(self, shows: Mapping[str, Any]) -> dict[str, Shown]:
        return {name: Shown(**(shows.get(name) or {})) for name in self.attributes}

    def row_of(self, key: str) -> dict[str, Any]:
        """Return a product's catalog row.

        Raises:
            InvalidInput: if the snapshot has no such key.
        """
        return self.products.row_of(key)

    def find(self, key: str) -> dict[str, Any] | None:
        """Return a product's catalog row; None where there is no such key."""
        number = self._catalog.number_of(key)
        return None if number is None else self._catalog.read([number])[0]

    def page(self, text: str, limit: int, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Return some products in the order of their keys, and how many there are.

        Args:
            text: that the key or another text of theirs holds, in letters of any case; empty: all products.
            limit: most products.
            offset: products before the first one.
        """
        numbers = self.products.numbers_with(text) if text else np.arange(self.num_products)
        return self._catalog.read(numbers[offset : offset + limit].tolist()), len(numbers)

    def example_rows(self, attribute: str, count: int) -> list[dict[str, Any]]:
        """Return products to show a search with: held-out and labelled with the attribute where any is.

        Where the manifest's groups are some of the snapshot's alone, only products of theirs.
        """
        parts = [name for group in self.manifest.groups for name in group.parts]
        return self.products.examples(attribute, count, parts)

    def picture_of(self, row: Mapping[str, Any]) -> bytes:
        """Return the picture of a catalog row, from its tar."""
        return self._pictures.read(self.manifest.shards[row["shard"]], row["sha256"])

    def search(
        self,
        query: Mapping[str, np.ndarray],
        weights: Mapping[str, float],
        k: int,
        exclude: Collection[str] = (),
        having: Iterable[str] = (),
        filters: Filters = (),
    ) -> list[Hit]:
        """Return the k products nearest to a query.

        Args:
            query: [D] unit vector by attribute; at least those of `weights`.
            weights: by attribute, as `check_weights` gives them.
            k: number of products.
            exclude: sha256 of pictures to leave out, such as the query's own.
            having: attributes; pictures that the model says not to have one of them are left out, but for
                those whose labels in the catalog carry it.
            filters: on the catalog's own columns, as `products.filters_of` gives them.

        Returns:
            At most k hits, best first; products that share a picture share its score.
        """
        if k < 1:
            raise InvalidInput(f"k: expected at least 1, found {k}")
        admitted = self._admit(frozenset(having), filters)
        live, wanted = admitted.live, k + len(exclude)
        if len(weights) > 1:
            found = [
                self._index(name).search(query[name], max(MIN_CANDIDATES, 4 * wanted), live)[0]
                for name in weights
            ]
            rows = np.unique(np.concatenate(found))
        else:
            (name,) = weights
            rows = np.sort(nearest_of_all(*self._index(name).search(query[name], wanted, live), wanted))
        scored = self._scored(rows, query, weights, wanted) if len(rows) else []
        return self._hits(scored, k, exclude, admitted)

    def _scored(
        self, rows: np.ndarray, query: Mapping[str, np.ndarray], weights: Mapping[str, float], wanted: int
    ) -> list[_Scored]:
        """Score index rows, ascending; return the best `wanted` and all that tie with the last of them."""
        cosines = {name: self._index(name).vectors(rows) @ query[name] for name in weights}
        total = sum(weights[name] * cosines[name] for name in weights)
        best = nearest_of_all(np.arange(len(rows)), total, wanted)
        return [
            _Scored(int(rows[i]), float(total[i]), {name: float(cosines[name][i]) for name in weights})
            for i in best
        ]

    def _hits(
        self, scored: Iterable[_Scored], k: int, exclude: Collection[str], admitted: Admitted
    ) -> list[Hit]:
        """Return the best k products of scored pictures."""
        found = [
            (item, product)
            for item in scored
            for product in self._places.products(item.position)
            if admitted.passes(product)
        ]
        rows = self._catalog.read([product for _, product in found])
        ranked = [
            (item, row) for (item, _), row in zip(found, rows, strict=True) if row["sha256"] not in exclude
        ]
        ranked.sort(key=lambda each: (-each[0].score, each[1]["sha256"], each[1]["key"]))
        best = ranked[:k]
        shows = self.shown_on_all([row for _, row in best])
        return [
            Hit(rank, row["key"], item.score, item.scores, row["sha256"], row, shown)
            for rank, ((item, row), shown) in enumerate(zip(best, shows, strict=True), start=1)
        ]

    def _admit(self, having: frozenset[str], filters: Filters = ()) -> Admitted:
        return self._admission.admit(self.products.cursor, having, filters)

    @cached_property
    def _admission(self) -> Admission:
        return Admission(self.lake, self.manifest, self._places, self._catalog.num_rows)

    @cached_property
    def _places(self) -> Places:
        return Places(self.manifest, self._catalog.path)

    def _shows_of(self, group: Group) -> pa.Table:
        if group.name not in self._shows:
            self._shows[group.name] = read_ids(self.lake, group, ["shows"]).combine_chunks()
        return self._shows[group.name]

    def _index(self, attribute: str) -> AttributeIndex:
        if attribute not in self._indexes:
            self._indexes[attribute] = AttributeIndex(
                self._verified, attribute, self.manifest.groups, self._threads, mapped=self._mapped
            )
            self._verified.save()
        return self._indexes[attribute]

    @cached_property
    def model(self) -> QueryModel:
        """The snapshot's model."""
        return self._given_model or QueryModel.open(self.lake, self.manifest.model)


def attributes_had(shows: Mapping[str, Shown], attributes: Iterable[str]) -> list[str]:
    """Return those of the attributes that a picture has as far as the model can tell: it names a value."""
    return [name for name in attributes if shows[name].value is not None]
