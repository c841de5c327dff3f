"""Evaluations beside a model: which are kept, and which one a report shows."""

from typing import Any

from pipelines.lake import Lake, to_json
from pipelines.models import read_metrics, store_metrics


def scores(dataset: str, split: str, score: float = 0.5) -> dict[str, Any]:
    return {"dataset": dataset, "split": split, "overall": score}


def test_a_report_shows_what_was_judged_on_its_own_products(lake: Lake) -> None:
    assert read_metrics(lake, "m", "shop") is None
    kept = [scores("fashionai", "valid"), scores("fashionai", "test"), scores("shop", "valid")]
    for number, each in enumerate(kept):
        store_metrics(lake, "m", each)
        assert read_metrics(lake, "m", "shop") == kept[number]
    store_metrics(lake, "m", scores("shop", "test"))
    store_metrics(lake, "m", scores("shop", "test", 0.9))  # another catalog of that name, or the same again
    assert read_metrics(lake, "m", "shop") == scores("shop", "test")
    assert read_metrics(lake, "m", "fashionai") == scores("fashionai", "test")
    assert read_metrics(lake, "other", "shop") is None


def test_an_evaluation_of_before_splits_were_kept_apart_is_read(lake: Lake) -> None:
    old = {"dataset": "shop", "overall": 0.3}
    lake.store.put_if_absent("models/m/metrics.json", to_json(old))
    assert read_metrics(lake, "m", "shop") == old
    store_metrics(lake, "m", scores("shop", "valid"))
    assert read_metrics(lake, "m", "shop") == old
    assert read_metrics(lake, "m", "fashionai") == old
