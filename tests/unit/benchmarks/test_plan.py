"""The benchmark of a large catalog's tables makes up what the driver then finds."""

from pathlib import Path

import pytest
from narrow_trunk import narrow

from benchmarks import plan


def test_the_driver_plans_what_was_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    options = plan.Options(rows=3000, change=0.1)
    plan.make_up(options, tmp_path)
    figures = plan.figures(plan.run_driver(options, tmp_path))
    # 100 records are gone, 100 edited and 100 new.
    assert (figures["unchanged"], figures["wanted"], figures["gone"], figures["refused"]) == (
        2800,
        200,
        100,
        0,
    )
    assert (figures["rows"], figures["reused"], figures["pictures"]) == (3000, 2800, 3000)
    assert (figures["shards"], figures["parts"]) == (1, 7)  # 3,000 records in shards of 512, and the new one
    assert 0 < figures["read_and_compare_s"] < figures["seconds"]
