"""The benchmark of the embedding column writes the same vectors in every encoding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import parquet
from benchmarks.made_up import MadeUp


def test_the_column_is_compared_in_every_encoding(
    tmp_path: Path, reported: Callable[[], dict[str, Any]]
) -> None:
    made_up = MadeUp(num_rows=300, dim=16)
    vectors = made_up.part(0)
    query = made_up.queries(1)[0]
    expected = [f"{row:064x}" for row in np.argsort(-(vectors @ query))[:10]]
    for path in parquet.write_all(tmp_path, vectors).values():
        np.testing.assert_allclose(parquet.read_with_pyarrow(path), vectors, rtol=1e-3)
        assert set(parquet.nearest_with_duckdb(path, query)[:5]) <= set(expected)
    parquet.main(parquet.Options(rows=300, dim=16))
    figures = reported()["figures"]
    assert 0 < figures["bytes_over_unrounded"] < 1
