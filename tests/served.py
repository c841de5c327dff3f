"""What a reader of a lake sees, through checked files alone."""

import pyarrow.parquet as pq

from pipelines.lake import Lake
from pipelines.parts import read_embeddings
from pipelines.search import Searcher
from pipelines.storage.snapshots import Manifest, current_manifest

Served = dict[str, tuple[str, dict[str, bytes]]]


def catalog_rows(lake: Lake, manifest: Manifest) -> list[dict]:
    with lake.checked(manifest.files["catalog.parquet"]) as path:
        return pq.read_table(path).to_pylist()


def served(lake: Lake) -> Served:
    """Return key -> digest and embedding under each attribute of the published snapshot.

    Fails where a key stands twice, a file differs from its manifest, a row's part holds another picture, or
    the index of an attribute answers with other keys than the catalog's.
    """
    manifest = current_manifest(lake)
    rows = catalog_rows(lake, manifest)
    assert len({row["key"] for row in rows}) == len(rows)
    parts = {
        (part.name, attribute): _read(lake, entry)
        for part in manifest.parts
        for attribute, entry in part.files.items()
    }
    found: Served = {}
    for row in rows:
        vectors = {}
        for attribute in manifest.attributes:
            digests, embeddings = parts[row["part"], attribute]
            assert digests[row["row"]] == row["sha256"]
            vectors[attribute] = embeddings[row["row"]].tobytes()
        found[row["key"]] = (row["sha256"], vectors)
    if rows:
        _check_answers(lake, manifest, rows)
    return found


def _check_answers(lake: Lake, manifest: Manifest, rows: list[dict]) -> None:
    with Searcher(lake, manifest) as searcher:
        query = searcher.embedding_of(rows[0]["key"])
        for attribute in manifest.attributes:
            hits = searcher.search(query, {attribute: 1.0}, 10 * len(rows))
            assert sorted(hit.key for hit in hits) == sorted(row["key"] for row in rows)
            assert hits[0].score > 0.999


def _read(lake: Lake, entry: object) -> tuple:
    with lake.checked(entry) as path:
        return read_embeddings(path)
