"""What a person reads of an evaluation."""

import pytest

from jobs.evaluate import recipes, show_scores
from jobs.recipes import TRAIN
from pipelines.evaluation import EvaluateConfig
from pipelines.telemetry import Run


def said(capsys: pytest.CaptureFixture, scores: dict) -> list[list[str]]:
    show_scores(Run("evaluate", EvaluateConfig(lake="./lake", source="./pictures"), None), "9f3c", scores)
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


def test_lists_show_recall_and_the_queries_that_nothing_answers(capsys: pytest.CaptureFixture) -> None:
    figures = {"map": 0.5, "random": 0.25, "pixels": 0.2, "untrained": 0.4}
    more = {"recall_at_1": 0.6, "recall_at_5": 0.7, "recall_at_10": 0.8, "num_candidates": 40}
    rows = {
        "neck_design": {**figures, **more, "num_queries": 10, "queries_without_relevant": 3},
        "coat_length": {**figures, **more, "num_queries": 2, "queries_without_relevant": 0},
    }
    lines = said(
        capsys,
        {
            "dataset": "shop", "split": "valid", "measure": "map", "attributes": rows,
            "overall": {"query_weighted": figures, "plain": figures},
        },
    )  # fmt: skip
    names = ["recall@1", "recall@5", "recall@10", "queries", "unmatched", "candidates"]
    assert ["attribute", "model", "untrained", "pixels", "random", *names] in lines
    values = ["0.5000", "0.4000", "0.2000", "0.2500"]
    assert ["neck_design", *values, "0.600", "0.700", "0.800", "10", "3", "40"] in lines
    assert ["all, query-weighted", *values, "", "", "", "12", "3", "80"] in lines
    assert ["all, plain mean", *values, "", "", "", "", "", ""] in lines
    assert "MAP of model 9f3c on the valid pictures of shop" in lines[0][0]
    assert lines[-2][0].startswith("3 of 12 queries are unmatched")
    assert lines[-1] == ["query-weighted MAP 0.5000 = 1.25 x untrained, 2.50 x pixels, 2.00 x random"]


def test_triplets_have_a_table_of_their_own(capsys: pytest.CaptureFixture) -> None:
    figures = {"triplet_accuracy": 0.9, "random": 0.5, "pixels": 0.6, "untrained": 0.6}
    lines = said(
        capsys,
        {
            "dataset": "shoes", "split": "test", "measure": "triplet_accuracy",
            "attributes": {"heel": {**figures, "num_triplets": 700}},
            "overall": {"query_weighted": figures, "plain": figures},
        },
    )  # fmt: skip
    assert ["attribute", "model", "untrained", "pixels", "random", "triplets"] in lines
    assert ["heel", "0.9000", "0.6000", "0.6000", "0.5000", "700"] in lines
    assert lines[-1][0].startswith("triplet-weighted Share of right triplets 0.9000 = 1.50 x untrained")


def test_every_source_that_is_trained_on_can_be_judged_by() -> None:
    sources = {config.source for _, config in TRAIN.values()}
    judged = [config.source for _, config in recipes().values()]
    assert set(judged) == sources
    assert recipes()["fashionai"][1].dataset == TRAIN["fashionai"][1].dataset
