from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import CorruptShard
from pipelines.merging import LiveRows, merge_parts, plan_merges
from pipelines.parts import VALUE_SCHEMA, read_embeddings, read_values

ATTRIBUTES = ("collar_design", "skirt_length", "sleeve_length")
MODEL = "0123456789abcdef"


def live(small_lake: Any, part: Any, rows: list[int]) -> LiveRows:
    digests = small_lake.digests(part)
    return LiveRows(part, tuple(rows), tuple(digests[row] for row in rows))


@pytest.fixture
def sources(small_lake: Any) -> list[LiveRows]:
    """Three parts, the last with what the model says of each row."""
    said = pa.Table.from_pylist(
        [{"value": f"v{row}", "score": row / 8, "applies": None} for row in range(6)], schema=VALUE_SCHEMA
    )
    first, second = small_lake.add_part("one", 5, seed=1), small_lake.add_part("two", 4, seed=2)
    third = small_lake.add_part("three", 6, seed=3, values=dict.fromkeys(ATTRIBUTES, said))
    return [
        live(small_lake, first, [1, 4]),
        live(small_lake, second, [0]),
        live(small_lake, third, [2, 3, 5]),
    ]


def test_live_rows_are_copied_bit_for_bit(small_lake: Any, sources: list[LiveRows]) -> None:
    (unit,) = plan_merges(MODEL, sources, 6)
    made = merge_parts(small_lake.lake, unit)
    expected = [digest for source in sources for digest in source.digests]
    assert (made.detail["pictures"], made.counts) == (expected, {"rows": 6})
    assert made.detail["merged"] == ["one", "two", "three"]
    for position, entry in enumerate(made.files):
        with small_lake.lake.checked(entry) as path:
            digests, vectors = read_embeddings(path)
            values = read_values(path)["value"].to_pylist()
        assert digests == expected
        assert np.array_equal(vectors, np.stack([small_lake.vectors[d][position] for d in expected]))
        assert values == [None, None, None, "v2", "v3", "v5"]


def test_merged_parts_are_filled_in_order_and_named_by_their_rows(
    small_lake: Any, sources: list[LiveRows]
) -> None:
    units = list(plan_merges(MODEL, sources, 3))
    assert [[s.part.name for s in unit.payload.sources] for unit in units] == [["one", "two"], ["three"]]
    assert [unit.num_images for unit in units] == [3, 3]
    assert [u.name for u in plan_merges(MODEL, sources, 3)] == [u.name for u in units]
    fewer = replace(sources[2], rows=(2, 3), digests=sources[2].digests[:2])
    assert [u.name for u in plan_merges(MODEL, [*sources[:2], fewer], 3)][1] != units[1].name
    files = {**sources[2].part.files, "heel_height": sources[2].part.files["skirt_length"]}
    extended = replace(sources[2], part=replace(sources[2].part, files=files))
    assert [u.name for u in plan_merges(MODEL, [*sources[:2], extended], 3)][1] != units[1].name


def test_a_single_whole_part_is_not_copied(small_lake: Any) -> None:
    part = small_lake.add_part("whole", 4, seed=4)
    assert list(plan_merges(MODEL, [live(small_lake, part, [0, 1, 2, 3])], 8)) == []
    assert len(list(plan_merges(MODEL, [live(small_lake, part, [0, 1, 2])], 8))) == 1
    assert list(plan_merges(MODEL, [], 8)) == []


@pytest.mark.parametrize("row", [0, 99])
def test_a_part_that_holds_another_picture_is_refused(
    small_lake: Any, sources: list[LiveRows], row: int
) -> None:
    wrong = replace(sources[1], rows=(row,), digests=sources[0].digests[:1])
    (unit,) = plan_merges(MODEL, [sources[0], wrong], 6)
    with pytest.raises(CorruptShard, match=r"attribute=collar_design/two\.parquet"):
        merge_parts(small_lake.lake, unit)


def test_a_flipped_bit_is_not_copied(small_lake: Any, sources: list[LiveRows]) -> None:
    entry = sources[2].part.files["skirt_length"]
    path = Path(small_lake.lake.url) / entry.name
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    (unit,) = plan_merges(MODEL, sources, 6)
    with pytest.raises(CorruptShard) as caught:
        merge_parts(small_lake.lake, unit)
    assert caught.value.name == entry.name
