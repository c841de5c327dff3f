"""The benchmark of indexes builds every kind and compares like with like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import index


def test_every_kind_of_index_is_built_and_measured(
    tmp_path: Path, reported: Callable[[], dict[str, Any]]
) -> None:
    options = index.Options(
        rows=1500, dim=16, queries=5, rounds=1, autofaiss=False, results=tmp_path / "figures.json"
    )
    assert index.kinds(options) == {
        "exact": "flat",
        "lists": "IVF154,SQfp16",
        "compressed": "IVF154,PQ2x8,Refine(SQfp16)",
    }
    index.main(options)
    last = reported()
    figures = last["figures"]
    assert figures["recall_exact"] == 1
    assert figures["recall_lists"] > 0.9
    assert figures["memory_bytes_compressed"] < figures["bytes_compressed"]
    assert 32 <= figures["bytes_exact"] < figures["bytes_lists"]


def test_builds_are_compared_as_rates_and_memory_as_bytes() -> None:
    ours, other = (
        index.Built(seconds, 0.9, 10, held, 1, "kind") for seconds, held in ((2.0, 30.0), (6.0, 60.0))
    )
    found = index.figures({index.LISTS: ours, index.ROOMY: other}, 100)
    assert (found["ratio_build_roomy"], found["memory_ratio_roomy"]) == (3, 0.5)
    assert "ratio_build_tight" not in found
    assert index.median([ours, other, other]) == other
