import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_snapshots import Shop

from pipelines.lake import Lake, snapshot_file, to_json
from pipelines.morning import nights
from pipelines.storage.objects import store_file
from pipelines.storage.snapshots import Manifest

COUNTED = {"collar_design": {"named": {"peter_pan": 3, "shirt": 1}, "absent": 2, "unknown": 0}}


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


def reported(shop: Shop, manifest: Manifest, report: dict[str, Any]) -> Manifest:
    """Store a report of a snapshot, as a night does."""
    path = shop.folder / "report.json"
    path.write_bytes(to_json(report))
    entry = store_file(shop.lake.store, path, snapshot_file(manifest.id, "report.json"))
    return replace(manifest, files={**manifest.files, "report.json": entry})


def test_a_report_carries_on_what_its_parent_told(shop: Shop) -> None:
    gates = [
        {"name": "recall@10 collar_design", "passed": True, "found": 0.97, "expected": ">= 0.9"},
        {"name": "probe cosine collar_design", "passed": True, "found": 0.9999, "expected": ">= 0.999"},
        {"name": "probe decoded", "passed": True, "found": 0, "expected": "== 0"},
    ]
    past: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    for number in range(1, nights.KEPT + 3):
        manifest = shop.night(f"n{number}", {}, gates=gates, night=number)
        tonight = nights.figures_of(manifest, 61.5, COUNTED, before.get("values") or {})
        before = {"nights": nights.nights_of(tonight, before), "values": COUNTED}
        past.append(tonight)
    assert before["nights"] == past[-nights.KEPT :]
    assert past[-1]["recall"] == {"collar_design": 0.97}
    assert past[-1]["probe"] == {"collar_design": 0.9999}
    assert (past[0]["moved"], past[1]["moved"]) == ({}, {"collar_design": 0})
    assert (past[-1]["night"], past[-1]["seconds"]) == (nights.KEPT + 2, 61.5)


def test_a_parents_report_is_read_where_it_is_what_was_written(shop: Shop) -> None:
    parent = reported(shop, shop.night("one", {}), {"nights": [{"night": 1}], "last_model": "m0"})
    assert nights.parent_report(shop.lake, parent) == {"nights": [{"night": 1}], "last_model": "m0"}
    assert nights.parent_report(shop.lake, None) == {}
    assert nights.parent_report(shop.lake, shop.night("two", {})) == {}


@pytest.mark.parametrize("trouble", ["damaged", "gone", "no JSON"])
def test_a_report_that_cannot_be_read_costs_no_night(shop: Shop, trouble: str) -> None:
    parent = reported(shop, shop.night("one", {}), {"nights": [{"night": 1}]})
    name = parent.files["report.json"].name
    if trouble == "damaged":
        shop.damage(name)
    elif trouble == "gone":
        shop.lake.store.delete(name)
    else:
        path = shop.folder / "other"
        path.write_bytes(b"no JSON")
        parent = replace(parent, files={"report.json": store_file(shop.lake.store, path, "other")})
    assert nights.parent_report(shop.lake, parent) == {}


def test_the_last_model_is_the_one_that_served_before_however_long_ago(shop: Shop) -> None:
    one = shop.night("one", {}, model="m1")
    two = shop.night("two", {}, model="m2", parent=one)
    three = shop.night("three", {}, model="m2", parent=two)
    assert nights.last_model(one, None, {}) is None
    assert nights.last_model(two, one, {}) == "m1"
    assert nights.last_model(three, two, {"last_model": "m1"}) == "m1"


@pytest.mark.parametrize(
    ("stored", "is_found"), [("shop-test", True), ("shop-valid", False), ("other-test", False)]
)
def test_only_a_judgement_on_the_same_pictures_is_compared_with(
    shop: Shop, stored: str, is_found: bool
) -> None:
    dataset, split = stored.split("-")
    scores = {"dataset": dataset, "split": split, "measure": "map", "overall": {}}
    shop.lake.store.put_if_absent(f"models/m1/metrics/{stored}.json", json.dumps(scores).encode())
    evaluation = {"dataset": "shop", "split": "test", "measure": "map"}
    found = nights.last_evaluation(shop.lake, "m1", evaluation)
    assert found == (scores if is_found else None)
    assert nights.last_evaluation(shop.lake, None, evaluation) is None
    assert nights.last_evaluation(shop.lake, "m1", None) is None
