"""Made-up embeddings are the same for the same seed."""

import numpy as np
import pytest

from benchmarks.made_up import MadeUp


def test_made_up_vectors_are_those_of_their_seed_as_the_lake_stores_them() -> None:
    made_up = MadeUp(num_rows=1000, dim=32, rows_per_part=300)
    parts = [made_up.part(number) for number in range(made_up.num_parts)]
    every = np.concatenate(parts)
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert np.array_equal(parts[2], MadeUp(num_rows=1000, dim=32, rows_per_part=300).part(2))
    assert np.array_equal(every, every.astype(np.float16))
    assert np.abs(np.linalg.norm(every, axis=1) - 1).max() < 1e-3
    queries = made_up.queries(5)
    assert made_up.exact(queries, 7) == pytest.approx(-np.sort(-queries @ every.T, axis=1)[:, :7], abs=1e-6)
    assert not np.array_equal(queries, MadeUp(num_rows=1000, dim=32, seed=1).queries(5))
