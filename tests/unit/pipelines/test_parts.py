from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import CorruptShard
from pipelines.lake import Lake, embedding_part
from pipelines.parts import (
    VALUE_SCHEMA,
    nothing_known,
    read_embeddings,
    read_values,
    round_to_half,
    write_embeddings,
    write_part,
)
from pipelines.storage.objects import FileEntry


def unit_rows(num_rows: int, dim: int = 512) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((num_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(num_rows=st.integers(0, 40), dim=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, num_rows: int, dim: int
) -> None:
    path = tmp_path_factory.mktemp("part") / "part.parquet"
    digests = [f"{row:064x}" for row in range(num_rows)]
    rows = round_to_half(np.random.default_rng(num_rows).standard_normal((num_rows, dim)))
    write_embeddings(path, digests, rows)
    names, read = read_embeddings(path)
    assert names == digests
    assert read.dtype == np.float32
    assert np.array_equal(read, rows)


def test_any_engine_reads_fixed_size_float32(tmp_path: Path) -> None:
    rows = round_to_half(unit_rows(5))
    write_embeddings(tmp_path / "part.parquet", list("abcde"), rows)
    assert pq.read_schema(tmp_path / "part.parquet").field("embedding").type == pa.list_(pa.float32(), 512)
    found = duckdb.sql(
        f"select sha256, embedding from read_parquet('{tmp_path}/part.parquet') order by 1"
    ).fetchall()
    assert [row[0] for row in found] == list("abcde")
    assert np.array_equal(np.array([row[1] for row in found], np.float32), rows)


def test_rounding_keeps_the_norm_and_halves_the_file(tmp_path: Path) -> None:
    rows = unit_rows(500)
    half = round_to_half(rows)
    assert np.abs(np.linalg.norm(half, axis=1) - 1).max() < 1e-4
    assert np.abs(half - rows).max() < 1e-4
    for name, values in (("full", rows), ("half", half)):
        write_embeddings(tmp_path / name, [f"{i:064x}" for i in range(500)], values)
    assert (tmp_path / "half").stat().st_size < 0.62 * (tmp_path / "full").stat().st_size


def test_a_slice_of_one_attribute_is_written_as_its_values(lake: Lake) -> None:
    embeddings = round_to_half(np.random.default_rng(0).standard_normal((4, 3, 8)))
    files = write_part(lake, "m", "p", ("x", "y", "z"), list("abcd"), embeddings)
    assert {name: entry.name for name, entry in files.items()} == {
        name: embedding_part("m", name, "p") for name in "xyz"
    }
    for index, name in enumerate("xyz"):
        with lake.checked(files[name]) as path:
            names, read = read_embeddings(path)
        assert names == list("abcd")
        assert np.array_equal(read, embeddings[:, index])
        assert files[name].num_rows == 4


def test_a_part_written_again_is_the_part_that_stands(lake: Lake) -> None:
    one, other = np.zeros((2, 1, 4), np.float32), np.ones((2, 1, 4), np.float32)
    first = write_part(lake, "m", "p", ("x",), list("ab"), one)
    assert write_part(lake, "m", "p", ("x",), list("ab"), other) == first
    with lake.checked(first["x"]) as path:
        assert not read_embeddings(path)[1].any()


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "grow"])
def test_damage_is_found_before_a_file_is_read(lake: Lake, damage: str) -> None:
    entry = write_part(lake, "m", "p", ("x",), list("ab"), np.ones((2, 1, 4), np.float32))["x"]
    path = Path(lake.url) / entry.name
    body = bytearray(path.read_bytes())
    if damage == "flip":
        body[len(body) // 2] ^= 4
    body = {"cut": body[:-1], "grow": body + b"x"}.get(damage, body)
    path.unlink() if damage == "delete" else path.write_bytes(body)
    with pytest.raises(CorruptShard, match=entry.name), lake.checked(entry):
        pass


def test_an_error_while_a_file_is_used_is_not_called_damage(lake: Lake, tmp_path: Path) -> None:
    entry: Any = write_part(lake, "m", "p", ("x",), list("ab"), np.ones((2, 1, 4), np.float32))["x"]
    assert isinstance(entry, FileEntry)
    with pytest.raises(FileNotFoundError), lake.checked(entry):
        (tmp_path / "something else").read_bytes()


SAID = pa.table(
    {"value": ["v", None, None], "score": [0.75, None, None], "applies": [True, False, None]},
    schema=VALUE_SCHEMA,
)


def write_old_part(path: Path, digests: list[str], rows: np.ndarray) -> None:
    """Write a part as it was before there were values."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), pa.float32()), rows.shape[1])
    pq.write_table(pa.table({"sha256": digests, "embedding": column}), path)


def test_values_stand_beside_the_embedding(lake: Lake) -> None:
    rows = round_to_half(unit_rows(3, 8))
    files = write_part(lake, "m", "p", ("x",), list("abc"), rows[:, None], {"x": SAID})
    with lake.checked(files["x"]) as path:
        schema = pq.read_schema(path)
        assert schema.names == ["sha256", "embedding", "value", "score", "applies"]
        assert [schema.field(name).type for name in VALUE_SCHEMA.names] == VALUE_SCHEMA.types
        assert read_values(path) == SAID
        assert np.array_equal(read_embeddings(path)[1], rows)


def test_without_prototypes_nothing_is_known(lake: Lake) -> None:
    files = write_part(lake, "m", "p", ("x",), list("abc"), np.ones((3, 1, 4), np.float32))
    with lake.checked(files["x"]) as path:
        assert read_values(path) == nothing_known(3)
        assert read_values(path)["applies"].null_count == 3


def test_parts_of_before_and_after_are_read_together(tmp_path: Path) -> None:
    rows = round_to_half(unit_rows(3, 8))
    write_old_part(tmp_path / "a.parquet", list("def"), rows)
    write_embeddings(tmp_path / "b.parquet", list("abc"), rows, SAID)
    assert read_values(tmp_path / "a.parquet") == nothing_known(3)
    assert np.array_equal(read_embeddings(tmp_path / "a.parquet")[1], rows)
    found = duckdb.sql(
        f"""select sha256, value, applies from read_parquet('{tmp_path}/*.parquet', union_by_name=true)
        order by sha256"""
    ).fetchall()
    assert found[:3] == [("a", "v", True), ("b", None, False), ("c", None, None)]
    assert found[3:] == [(name, None, None) for name in "def"]
    # What reads only what every part has needs no union.
    for order in ("a", "b"), ("b", "a"):
        files = [f"{tmp_path}/{name}.parquet" for name in order]
        assert duckdb.sql(
            f"select count(sha256), count(embedding) from read_parquet({files})"
        ).fetchall() == [(6, 6)]
