"""Which brands and which products look alike: questions about vectors, asked of a snapshot's own index.

One attribute's index is open at a time, and of its vectors a block is in memory, so memory is that of a
search of one attribute and of the answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.analytics import Analysis
from pipelines.places import CatalogRows, Places
from pipelines.retrieval import AttributeIndex, Live, SearchThreads, live_rows, nearest_of_all

Rows = NDArray[np.int64]
BLOCK_ROWS = 8192
"""Vectors in memory at once: 16 MB of 512 dimensions, and the same of them gathered."""
MAX_PAIRS = 100_000
"""Pairs of pictures that are told, the closest ones."""
_TEXT, _COSINE, _COUNT = pa.string(), pa.float32(), pa.int64()
BRAND_SCHEMA = pa.schema(
    {
        "attribute": _TEXT, "brand": _TEXT, "rank": pa.int32(), "other_brand": _TEXT, "cosine": _COSINE,
        "products": _COUNT, "other_products": _COUNT,
    }
)  # fmt: skip
COPY_SCHEMA = pa.schema(
    {
        "key": _TEXT, "brand": _TEXT, "other_key": _TEXT, "other_brand": _TEXT, "cosine": _COSINE,
        "lowest": _COSINE, "lowest_attribute": _TEXT, "same_picture": pa.bool_(),
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class BrandOptions:
    """Which brands are compared."""

    min_products: int = 3
    """Products that a brand must have under an attribute: the mean of fewer is a product, not a brand."""
    max_brands: int = 2000
    """The largest so many are compared; the comparison's memory grows by the square."""
    nearest: int = 10
    """Brands that are told for each."""

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        if min(self.min_products, self.max_brands, self.nearest) < 1:
            raise ValueError("--brands: expected numbers of at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyOptions:
    """Which products are likely copies."""

    min_cosine: float = 0.95
    """Mean cosine over all attributes from which on a pair is told; what it means depends on the model."""
    attributes: tuple[str, ...] = ()
    """Attributes whose index is asked for neighbours; left out, all. Each costs a search a picture."""
    neighbours: int = 20
    """Pictures that each search returns, the closest ones."""
    max_pictures: int = 5000
    """Pictures that are searched with: first those that the compared snapshot lacks, then others, chosen by
    their digest."""
    max_products: int = 20
    """Products of one picture that are told, the first by key: a placeholder is shown by thousands."""

    def __post_init__(self) -> None:
        """Refuse what finds nothing."""
        if not -1 <= self.min_cosine <= 1:
            raise ValueError(f"--copies.min-cosine: expected -1 to 1, found {self.min_cosine}")
        if min(self.neighbours, self.max_pictures, self.max_products) < 1:
            raise ValueError("--copies: expected numbers of at least 1")


class LookAlikes:
    """The vectors of a snapshot, by attribute, and what its products are."""

    def __init__(self, analysis: Analysis, brand_column: str) -> None:
        """Read the products' places and brands.

        Args:
            analysis: of the snapshot.
            brand_column: of the catalog; empty: no brands.
        """
        self._analysis = analysis
        self._places = Places(analysis.manifest, analysis.catalog)
        self._brand_column = brand_column
        self._threads = SearchThreads()
        self.num_pictures = int(self._places.alive.sum())

    def close(self) -> None:
        """End the threads."""
        self._threads.close()

    def similar_brands(self, options: BrandOptions) -> pa.Table:
        """Return each brand's nearest brands, attribute by attribute, by the mean of their products' vectors.

        Products that the model says to lack the attribute do not count.
        """
        brands, codes = self._brands()
        positions, products = self._places.of_products()
        tables = [BRAND_SCHEMA.empty_table()]
        for attribute in self._analysis.manifest.attributes:
            counts_for = (codes >= 0) & ~self._lacking(attribute)
            kept = counts_for[products]
            sums = brand_sums(
                self._index(attribute), positions[kept], codes[products[kept]], len(brands), BLOCK_ROWS
            )
            counts = np.bincount(codes[products[kept]], minlength=len(brands))
            tables.append(nearest_brands(attribute, brands, sums, counts, options))
        return pa.concat_tables(tables)

    def likely_copies(self, options: CopyOptions) -> pa.Table:
        """Return pairs of products that look alike under every attribute, as COPY_SCHEMA.

        They are of different brands where these are known. The index gives candidates; pairs are told by
        their exact cosines.
        """
        pairs = self._candidates(options)
        cosines = {
            attribute: pair_cosines(self._index(attribute), pairs, BLOCK_ROWS)
            for attribute in self._analysis.manifest.attributes
        }
        stacked = np.stack(list(cosines.values())) if cosines else np.zeros((1, len(pairs)), np.float32)
        mean, lowest = stacked.mean(0), stacked.argmin(0)
        found = np.flatnonzero(mean >= options.min_cosine)
        names = list(cosines)
        told = [
            (pairs[i], float(mean[i]), float(stacked[lowest[i], i]), names[lowest[i]])
            for i in found[np.argsort(-mean[found], kind="stable")][:MAX_PAIRS]
        ]
        return self._told(told, options)

    def chosen(self, options: CopyOptions) -> Rows:
        """Return the index rows that are searched with, ascending."""
        old = "select sha256 from old_shown" if self._is_compared() else "select null::varchar where false"
        (picked,) = self._analysis.db.execute(
            f"""select coalesce(list(file_row_number), []) from (
                select min(file_row_number) as file_row_number from new_catalog group by sha256
                order by sha256 in ({old}), md5(sha256) limit {options.max_pictures})"""
        ).fetchall()[0]
        is_picked = np.zeros(pq.read_metadata(self._analysis.catalog).num_rows, bool)
        is_picked[np.array(picked, np.int64)] = True
        return np.flatnonzero(self._places.positions_of(is_picked))

    def _is_compared(self) -> bool:
        return bool(self._analysis.count("duckdb_views() where view_name = 'old_shown'"))

    def _candidates(self, options: CopyOptions) -> Rows:
        """Return [N, 2] index rows of pictures that are neighbours under any attribute, the smaller first."""
        live = live_rows(self._places.alive, self._places.starts)
        rows = self.chosen(options)
        found = [np.zeros((0, 2), np.int64)]
        for attribute in options.attributes or self._analysis.manifest.attributes:
            index = self._index(attribute)
            for block in _blocks(rows):
                found.append(neighbours(index, block, options.neighbours, live))
            found = [np.unique(np.concatenate(found), axis=0)]
        return found[0]

    def _told(self, pairs: Sequence[tuple[Rows, float, float, str]], options: CopyOptions) -> pa.Table:
        """Return the products of pairs of pictures, and those that share a picture, as COPY_SCHEMA."""
        catalog = CatalogRows(self._analysis.catalog)
        try:
            rows = []
            for pair, mean, lowest, attribute in pairs:
                ours, others = (self._products(catalog, int(row), options) for row in pair)
                rows += [
                    (*a, *b, mean, lowest, attribute, False) for a in ours for b in others if _differ(a, b)
                ]
        finally:
            catalog.close()
        columns = list(zip(*(*self._same_pictures(options), *rows), strict=True)) or [()] * len(COPY_SCHEMA)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, COPY_SCHEMA, strict=True)], COPY_SCHEMA)

    def _products(
        self, catalog: CatalogRows, position: int, options: CopyOptions
    ) -> list[tuple[str, str | None]]:
        """Return (key, brand) of the products of an index row, the first by key."""
        rows = catalog.read(sorted(self._places.products(position))[: options.max_products])
        return [(row["key"], str(row[self._brand_column]) if self._brand_column else None) for row in rows]

    def _same_pictures(self, options: CopyOptions) -> list[tuple[object, ...]]:
        """Return pairs of products, of different brands where these are known, that share a picture."""
        brand = (
            f"{self._analysis.quoted(self._brand_column)}::varchar" if self._brand_column else "null::varchar"
        )
        return self._analysis.all(
            f"""with shared as (
                select key, sha256, {brand} as brand from new_catalog
                where sha256 in (select sha256 from new_catalog group by 1 having count(*) > 1)
                qualify row_number() over (partition by sha256 order by key) <= {options.max_products})
            select a.key, a.brand, b.key, b.brand, 1::double, 1::double, null, true
            from shared a join shared b on a.sha256 = b.sha256 and a.key < b.key
            where a.brand is null or b.brand is null or a.brand <> b.brand order by a.key, b.key"""
        )

    def _brands(self) -> tuple[list[str], Rows]:
        """Return the brands' names and, by catalog row, which of them it is; -1 where there is none."""
        self._analysis.quoted(self._brand_column)
        with pq.ParquetFile(self._analysis.catalog) as file:
            column = file.read(columns=[self._brand_column])[self._brand_column].cast(pa.string())
        coded = column.combine_chunks().dictionary_encode()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0)
        codes = np.asarray(pc.fill_null(coded.indices.cast(pa.int64()), -1))
        return coded.dictionary.to_pylist(), codes

    def _lacking(self, attribute: str) -> NDArray[np.bool_]:
        """Return, by catalog row, whether the model says that a product lacks an attribute."""
        lacking = np.zeros(pq.read_metadata(self._analysis.catalog).num_rows, bool)
        rows = self._analysis.db.execute(
            """select file_row_number from new_catalog
            semi join (select key from new_shown where attribute = $name and not applies) using (key)""",
            {"name": attribute},
        ).fetchnumpy()["file_row_number"]
        lacking[np.asarray(rows, np.int64)] = True
        return lacking

    def _index(self, attribute: str) -> AttributeIndex:
        analysis = self._analysis
        return AttributeIndex(analysis.verified, attribute, analysis.manifest.groups, self._threads)


def brand_sums(
    index: AttributeIndex, positions: Rows, codes: Rows, num_brands: int, block_rows: int
) -> NDArray[np.float64]:
    """Return the sum of each brand's vectors, [num_brands, D].

    Args:
        index: of the attribute.
        positions: [N] index row of each product, ascending.
        codes: [N] its brand.
        num_brands: number of brands.
        block_rows: products at a time.
    """
    sums: NDArray[np.float64] | None = None
    for start in range(0, len(positions), block_rows):
        block = slice(start, start + block_rows)
        rows, row_of = np.unique(positions[block], return_inverse=True)
        vectors = index.vectors(rows)
        if sums is None:
            sums = np.zeros((num_brands, vectors.shape[1]))
        np.add.at(sums, codes[block], vectors[row_of])
    return np.zeros((num_brands, 1)) if sums is None else sums


def nearest_brands(
    attribute: str,
    brands: Sequence[str],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    options: BrandOptions,
) -> pa.Table:
    """Return each brand's nearest ones as BRAND_SCHEMA, from sums [B, D] and numbers [B] of vectors."""
    kept = np.flatnonzero(counts >= options.min_products)
    kept = np.sort(kept[np.argsort(-counts[kept], kind="stable")][: options.max_brands])
    centres = sums[kept] / np.maximum(np.linalg.norm(sums[kept], axis=1, keepdims=True), 1e-12)
    cosines = centres @ centres.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(options.nearest, max(len(kept) - 1, 0))]
    rows = [
        {
            "attribute": attribute, "brand": brands[kept[one]], "rank": rank,
            "other_brand": brands[kept[other]], "cosine": float(cosines[one, other]),
            "products": int(counts[kept[one]]), "other_products": int(counts[kept[other]]),
        }
        for one in range(len(kept))
        for rank, other in enumerate(order[one], start=1)
    ]  # fmt: skip
    rows.sort(key=lambda row: (-row["cosine"], row["brand"], row["other_brand"]))
    return pa.Table.from_pylist(rows, BRAND_SCHEMA)


def neighbours(index: AttributeIndex, rows: Rows, wanted: int, live: Live) -> Rows:
    """Return [N, 2] pairs of some index rows, ascending, with their nearest live ones, the smaller first."""
    pairs = []
    for row, vector in zip(rows, index.vectors(rows), strict=True):
        found = nearest_of_all(*index.search(vector, wanted + 1, live), wanted + 1)
        found = found[found != row]
        pairs.append(np.stack([np.minimum(found, row), np.maximum(found, row)], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def pair_cosines(index: AttributeIndex, pairs: Rows, block_rows: int) -> NDArray[np.float32]:
    """Return the cosine [N] of each pair of index rows [N, 2]."""
    cosines = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), block_rows):
        block = pairs[start : start + block_rows]
        rows, places = np.unique(block, return_inverse=True)
        vectors = index.vectors(rows)
        ours, others = vectors[places.reshape(block.shape)].swapaxes(0, 1)
        cosines[start : start + block_rows] = np.einsum("nd,nd->n", ours, others)
    return cosines


def _blocks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]


def _differ(one: tuple[str, str | None], other: tuple[str, str | None]) -> bool:
    """Tell whether two products' brands differ, as far as they are known."""
    return one[1] is None or other[1] is None or one[1] != other[1]
