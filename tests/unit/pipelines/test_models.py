"""Evaluations beside a model: which are kept, and which one a report shows."""

from pathlib import Path
from typing import Any

import pytest

from agman.checkpoint import load_model
from agman.errors import CheckpointMismatch
from pipelines.lake import Lake, to_json
from pipelines.models import fetch_model, import_model, publish_model, read_metrics, store_metrics


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


def test_a_model_in_the_place_of_another_is_refused(
    lake: Lake, tiny_model: Path, other_taxonomy_model: Path
) -> None:
    model = import_model(lake, tiny_model)
    with fetch_model(lake, model) as folder:
        assert load_model(folder).digest.startswith(model)
    publish_model(lake, other_taxonomy_model, "0123456789abcdef")
    with (
        pytest.raises(CheckpointMismatch, match="another one was put in its place"),
        fetch_model(lake, "0123"),
    ):
        pass
