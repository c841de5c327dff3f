"""The driver's own memory stays as it is while the catalog grows: no list of all keys or pictures."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.catalog import Catalog
from pipelines.shards.plan import ShardOptions, plan_shards
from pipelines.sources.records import record_batch
from pipelines.tonight import Tonight

SHARD = 512
TEXT_BYTES = 64  # of a str of some letters, with its place in a list


@dataclass
class Numbers:
    """A source of records 0, 1, 2, …."""

    num_rows: int
    name: str = "numbers"

    def batches(self) -> Iterator[pa.RecordBatch]:
        for first in range(0, self.num_rows, 4096):
            texts = [str(i) for i in range(first, min(first + 4096, self.num_rows))]
            keys = pa.array(texts, pa.string())
            yield record_batch(keys=keys, uris=keys, tokens=keys)


def test_no_list_grows_with_the_catalog(tmp_path: Path) -> None:
    peaks = [peak_of_a_first_night(tmp_path, num_rows) for num_rows in (20_000, 80_000)]
    assert peaks[1] - peaks[0] < 60_000 * TEXT_BYTES / 4


def peak_of_a_first_night(folder: Path, num_rows: int) -> int:
    """Return the most bytes that Python held at once while it planned and settled a night."""
    work = folder / str(num_rows)
    work.mkdir()
    tracemalloc.start()
    try:
        catalog = Catalog(work)
        catalog.read_source(Numbers(num_rows))
        catalog.read_previous(None, None)
        assert catalog.diff().wanted == num_rows
        units = plan_shards("catalog", catalog.records_to_fetch(), ShardOptions(images_per_shard=SHARD))
        assert sum(unit.num_images for unit in units) == num_rows
        catalog.add_shards([packed(work, first, num_rows) for first in range(0, num_rows, SHARD)])
        tonight = Tonight(catalog, same_model=True)
        tonight.add_parts((f"part-{shard}", digests) for shard, digests in tonight.pictures_to_embed())
        tonight.refuse_pictures([])
        tonight.write(work / "catalog.parquet", work / "quarantine.parquet", "now")
        assert tonight.count_published(work / "catalog.parquet")["rows"] == num_rows
        catalog.close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def packed(folder: Path, first: int, num_rows: int) -> Path:
    """Write the index of the shard that begins with a record."""
    path = folder / f"shard-{first}.parquet"
    last = min(first + SHARD, num_rows)
    duckdb.execute(
        f"""copy (select i::varchar as key, i::varchar as uri, i::varchar as token, 'm' as member,
            0::bigint as "offset", sha256(i::varchar) as sha256, 'ok' as status, null::varchar as kind,
            null::varchar as error from range({first}, {last}) t(i)) to '{path}' (format parquet)"""
    )
    return path
