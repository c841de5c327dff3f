"""Search a published snapshot: pictures that look alike in one attribute, or in several with weights.

Where the model says which attributes a picture has (`parts.Shown`), a search under an attribute that the
query has leaves out pictures that it says not to have it: like this neckline, but no trousers. The catalog's
own labels know better: a product that they give the attribute is never left out.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agman.checkpoint import load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.prototypes import INVISIBLE
from agman.taxonomy import position_in
from agman.transforms import normalise, read_pixels
from pipelines.index import read_ids
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.parts import Shown, read_embeddings
from pipelines.places import CatalogRows, Places
from pipelines.retrieval import AttributeIndex, Live, SearchThreads, live_rows, nearest_of_all
from pipelines.shards.read import read_picture
from pipelines.storage.snapshots import Group, Manifest, current_manifest, read_manifest
from pipelines.values import said_of
from pipelines.verified import Verified

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

    position: int
    """Index row, as `places.Places` counts them."""
    score: float
    scores: dict[str, float]


class _Admitted(NamedTuple):
    """What may answer a search."""

    live: Live
    num_hidden: int
    """Products left out for lack of an attribute."""


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
    ) -> None:
        """Open the catalog; indexes and the model are loaded when they are first needed.

        Args:
            lake: where.
            manifest: of the snapshot.
            verify: compare every file with its digest, also those that this machine compared before.
            mapped: map the index files of a local lake; False reads them whole into this process.
            num_threads: that a search may take; 0: as many as this process may use cores.
        """
        self.lake = lake
        self.manifest = manifest
        self._verified = Verified(lake, verify=verify)
        self._mapped = mapped
        self._stack = ExitStack()
        catalog = self._stack.enter_context(self._verified.checked(self.manifest.files["catalog.parquet"]))
        self._db = duckdb.connect()
        quoted = str(catalog).replace("'", "''")
        self._db.execute(
            f"""create view numbered as
            select * from read_parquet('{quoted}', hive_partitioning=false, file_row_number=true);
            create view catalog as select * exclude (file_row_number) from numbered"""
        )
        self._catalog = CatalogRows(catalog)
        self._threads = SearchThreads(num_threads)
        self._indexes: dict[str, AttributeIndex] = {}
        self._shows: dict[str, pa.Table] = {}
        self._admitted: dict[frozenset[str], _Admitted] = {}

    def close(self) -> None:
        """Drop temporary copies."""
        self._verified.save()
        self._threads.close()
        self._catalog.close()
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
        return self._shown_at(self._places.position(row["part"], row["row"]))

    def shown_by(self, query: Mapping[str, np.ndarray]) -> dict[str, Shown]:
        """Return what the snapshot's model says of a picture that `embed_image` embedded."""
        loaded = self._model[1]
        stacked = np.stack([query[name] for name in loaded.taxonomy.names])
        rows = said_of(loaded, stacked[None])
        return self._shown({name: table.to_pylist()[0] for name, table in rows.items()})

    def count_hidden(self, having: Iterable[str]) -> int:
        """Return how many products a search with `having` leaves out for lack of an attribute."""
        return self._admit(frozenset(having)).num_hidden

    def _shown_at(self, position: int) -> dict[str, Shown]:
        number = int(np.searchsorted(self._places.starts, position, side="right")) - 1
        shows = self._shows_of(self.manifest.groups[number])
        row = position - int(self._places.starts[number])
        return self._shown(shows["shows"][row].as_py() if "shows" in shows.column_names else {})

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
        """Return products to show a search with: held-out and labelled with the attribute where any is.

        Where the manifest's groups are some of the snapshot's alone, only products of theirs.
        """
        parts = [name for group in self.manifest.groups for name in group.parts]
        return self._rows(
            """select * from catalog where list_contains(?, part)
            order by labels[?] is null, role <> 'query', md5(key || ?), key limit ?""",
            [parts, attribute, attribute, count],
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
        live = self._admit(frozenset(having)).live
        if len(weights) > 1:
            found = [
                self._index(name).search(query[name], max(MIN_CANDIDATES, 4 * k), live)[0] for name in weights
            ]
            rows = np.unique(np.concatenate(found))
        else:
            (name,) = weights
            # One more, for the query's own picture.
            rows = np.sort(nearest_of_all(*self._index(name).search(query[name], k + 1, live), k + 1))
        return self._hits(self._scored(rows, query, weights, k + 1), k, exclude) if len(rows) else []

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

    def _hits(self, scored: Iterable[_Scored], k: int, exclude: str | None) -> list[Hit]:
        """Return the best k products of scored pictures."""
        ranked = []
        for item in scored:
            rows = self._catalog.read(self._places.products(item.position))
            ranked += [(item, row) for row in rows if row["sha256"] != exclude]
        ranked.sort(key=lambda each: (-each[0].score, each[1]["sha256"], each[1]["key"]))
        return [
            Hit(
                rank,
                row["key"],
                item.score,
                item.scores,
                row["sha256"],
                row,
                self._shown_at(item.position),
            )
            for rank, (item, row) in enumerate(ranked[:k], start=1)
        ]

    def _admit(self, having: frozenset[str]) -> _Admitted:
        """Return the index rows that the catalog still places here, less those that lack an attribute."""
        if having not in self._admitted:
            places = self._places
            hidden = np.zeros(places.num_rows, bool)
            for attribute in having:
                hidden |= self._lacking(attribute)
            live = live_rows(places.alive & ~hidden, places.starts)
            self._admitted[having] = _Admitted(live, places.count_products(hidden))
        return self._admitted[having]

    def _lacking(self, attribute: str) -> np.ndarray:
        """Return, by index row, what the model says to lack an attribute, and no label gives it."""
        said = [_says_lacking(self.lake, group, attribute) for group in self.manifest.groups]
        lacking = np.concatenate([np.zeros(0, bool), *said])
        if not lacking.any():
            return lacking
        labelled = self._db.execute(
            """select file_row_number from numbered
            where coalesce(len(labels[$name]) > 0 and labels[$name] <> [$absent], false)""",
            {"name": attribute, "absent": INVISIBLE},
        ).fetchnumpy()
        is_labelled = np.zeros(self._catalog.num_rows, bool)
        is_labelled[np.asarray(labelled["file_row_number"], np.int64)] = True
        return lacking & ~self._places.positions_of(is_labelled)

    @cached_property
    def _places(self) -> Places:
        return Places(self.manifest, self._catalog.path)

    def _shows_of(self, group: Group) -> pa.Table:
        if group.name not in self._shows:
            self._shows[group.name] = read_ids(self.lake, group, ["shows"])
        return self._shows[group.name]

    def _index(self, attribute: str) -> AttributeIndex:
        if attribute not in self._indexes:
            self._indexes[attribute] = AttributeIndex(
                self._verified, attribute, self.manifest.groups, self._threads, mapped=self._mapped
            )
            self._verified.save()
        return self._indexes[attribute]

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


def _says_lacking(lake: Lake, group: Group, attribute: str) -> np.ndarray:
    """Return, by row of a group, whether the model says that it lacks an attribute."""
    applies = read_ids(lake, group, [f"shows.{attribute}.applies"])
    if "shows" not in applies.column_names:  # written before there were values
        return np.zeros(group.num_rows, bool)
    said = pc.struct_field(applies["shows"], [attribute, "applies"])
    return np.asarray(pc.fill_null(pc.invert(said), False))
