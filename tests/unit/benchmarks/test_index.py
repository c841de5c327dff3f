"""The benchmark of indexes builds every kind and compares like with like."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import builds, index
from benchmarks.builds import Built, GivenUp

OURS, OTHER = (Built(seconds, 0.9, 10, held, 1, "kind") for seconds, held in ((2.0, 30.0), (6.0, 60.0)))


def test_every_kind_of_index_is_built_and_measured(
    tmp_path: Path, reported: Callable[[], dict[str, Any]]
) -> None:
    options = index.Options(
        rows=1500, dim=16, queries=5, rounds=2, autofaiss=False, results=tmp_path / "figures.json"
    )
    assert index.kinds(options) == {
        "exact": "flat",
        "lists": "IVF154,SQfp16",
        "compressed": "IVF154,PQ2x8,Refine(SQfp16)",
    }
    index.main(options)
    figures = reported()["figures"]
    assert figures["recall_exact"] == 1
    assert figures["recall_lists"] > 0.9
    assert figures["memory_bytes_compressed"] < figures["bytes_compressed"]
    assert 32 <= figures["bytes_exact"] < figures["bytes_lists"]
    assert figures["rounds_exact"] == 2


def test_one_kind_may_be_built_alone(reported: Callable[[], dict[str, Any]]) -> None:
    index.main(
        index.Options(rows=1100, dim=16, queries=2, rounds=1, autofaiss=False, kinds=(index.COMPRESSED,))
    )
    assert {name for name in reported()["figures"] if name.startswith("recall")} == {"recall_compressed"}


def test_autofaiss_gets_the_bytes_that_ours_takes() -> None:
    budgets = index.budgets(index.Options(rows=1600, dim=16))
    assert budgets == {"roomy": 4 * 2 * 1600 * 16, "same": 1600 * (32 + 16) + 4 * 160 * 16, "tight": 1600 * 4}


def test_builds_are_compared_as_rates_and_memory_as_bytes() -> None:
    found = index.figures({"lists": OURS, "autofaiss_roomy": OTHER}, 100)
    assert (found["ratio_build_lists_roomy"], found["memory_ratio_lists_roomy"]) == (3, 0.5)
    assert "ratio_build_compressed_tight" not in found


def test_of_a_build_that_is_given_up_a_bound_is_known() -> None:
    found = index.figures({"compressed": OURS, "autofaiss_tight": GivenUp(60)}, 100)
    assert (found["least_ratio_build_compressed_tight"], found["gave_up_after_s_autofaiss_tight"]) == (30, 60)
    assert "ratio_build_compressed_tight" not in found


def test_what_takes_long_is_built_once() -> None:
    tuned = replace(OURS, tuning_s=4)
    sides = {"fast": lambda: OURS, "slow": lambda: OTHER, "tuned": lambda: tuned, "late": lambda: GivenUp(1)}
    found = builds.in_rounds(sides, 3, once_above_s=5)
    assert (found["fast"], found["slow"], found["late"]) == (
        replace(OURS, rounds=3),
        OTHER,
        GivenUp(1),
    )
    assert found["tuned"] == tuned
    assert index.figures({"lists": tuned}, 100)["tuning_s_lists"] == 4
    assert builds.median([OURS, OTHER, OTHER]) == replace(OTHER, rounds=3)


def test_nothing_to_build_is_refused() -> None:
    with pytest.raises(ValueError, match="1 round, 1 query and 1 kind, found 1500, 5, 200, 0"):
        index.Options(rows=1500, kinds=())
