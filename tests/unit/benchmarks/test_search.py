"""The benchmark of searches runs on a lake that it makes up."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agman.errors import InvalidInput
from benchmarks import search


def test_a_search_is_measured_on_what_was_made_up(
    tmp_path: Path, reported: Callable[[], dict[str, Any]]
) -> None:
    results = tmp_path / "figures.json"
    options = search.Options(
        rows=3000, dim=16, exact_rows=1000, queries=3, rounds=1, lake=str(tmp_path / "lake"), results=results
    )
    search.main(options)
    last = reported()
    assert last == json.loads(results.read_text())
    figures, floor = last["figures"], last["floor"]
    assert figures["recall"] > 0.9
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert all(figures[f"cold_start_{side}_ms"] > figures["p50_ms"] for side in search.OPENED)
    # Lists of 3,000 vectors are 219: a query reads fewer vectors than all, and the centres.
    assert 219 * 16 * 4 < floor["scanned_bytes"] < figures["index_bytes"]


def test_compressed_lists_are_searched_too_and_a_lake_of_others_is_refused(
    tmp_path: Path, reported: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "OPENED", {})
    options = search.Options(
        rows=2000, dim=16, max_memory_gib=1e-5, queries=3, rounds=1, lake=str(tmp_path / "lake")
    )
    search.main(options)
    last = reported()
    figures = last["figures"]
    assert figures["recall"] > 0.9
    assert figures["memory_bytes_per_vector"] == pytest.approx(figures["bytes_per_vector"] - 2 * 16)
    # The true vectors of ten times twenty candidates, and the centres.
    assert 10 * 20 * 16 * 2 + 178 * 16 * 4 < last["floor"]["scanned_bytes"] < figures["index_bytes"]
    with pytest.raises(InvalidInput, match="expected 2,000 vectors in flat, found 2,000 in IVF178,PQ2x8"):
        search.main(replace(options, max_memory_gib=0))
