"""Figures of values against a slow loop over held-out pictures."""

import numpy as np
import pytest

from agman.prototypes import ABSENT, UNKNOWN
from agman.taxonomy import Attribute, Taxonomy
from pipelines.dataset import Dataset, Description
from pipelines.held_out import HeldOut, select_held_out
from pipelines.value_scores import score_values

TAXONOMY = Taxonomy((Attribute("neck", ("invisible", "v", "round")), Attribute("leg", ("short", "full"))))


def held_out_of(labels: list[dict[str, list[str]]]) -> HeldOut:
    described = {
        f"{row:03d}": (Description("query" if row % 3 == 0 else "candidate", shown),)
        for row, shown in enumerate(labels)
    }
    return select_held_out(Dataset("d", (), described), TAXONOMY, "test")


def test_figures_equal_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    labels = []
    for _ in range(60):
        shown = {"neck": ["v", "round", "invisible"], "leg": ["short", "full"]}
        kept = [name for name in shown if rng.random() < 0.7] or ["leg"]
        labels.append({name: [shown[name][rng.integers(len(shown[name]))]] for name in kept})
    held_out = held_out_of(labels)
    said = np.stack([rng.choice([ABSENT, 1, 2], 60), rng.choice([ABSENT, 0, 1], 60)], axis=1)
    positions = rng.permutation(60)
    found = score_values(held_out, positions, said, TAXONOMY)
    assert found is not None
    pooled = dict.fromkeys(("right", "having"), 0)
    for index, attribute in enumerate(TAXONOMY):
        having, lacking, right, absent, rightly = 0, 0, 0, 0, 0
        for row, position in enumerate(positions):
            value = labels[int(held_out.pictures[position])].get(attribute.name, ["invisible"])[0]
            answer = said[row, index]
            having += value != "invisible"
            lacking += value == "invisible"
            right += answer >= 0 and attribute.values[answer] == value
            absent += answer == ABSENT
            rightly += answer == ABSENT and value == "invisible"
        row = found["attributes"][attribute.name]
        assert row["value_accuracy"] == pytest.approx(right / having)
        assert (row["num_having"], row["num_lacking"]) == (having, lacking)
        assert row["num_said_having"] == 60 - absent
        assert row["absent_precision"] == pytest.approx(rightly / absent)
        assert row["absent_recall"] == pytest.approx(rightly / lacking)
        pooled["right"] += right
        pooled["having"] += having
    assert found["overall"]["value_accuracy"] == pytest.approx(pooled["right"] / pooled["having"])


def test_one_label_a_picture_tells_nothing_of_absence() -> None:
    labels = [{"neck": ["v"]} if row % 2 else {"leg": ["full"]} for row in range(12)]
    said = np.full((12, 2), ABSENT)
    said[1::2, 0] = 1
    found = score_values(held_out_of(labels), np.arange(12), said, TAXONOMY)
    assert found is not None
    assert found["attributes"]["neck"]["value_accuracy"] == 1.0
    assert found["attributes"]["leg"]["value_accuracy"] == 0.0
    for row in (*found["attributes"].values(), found["overall"]):
        assert row["absent_precision"] is row["absent_recall"] is None
        assert row["num_lacking"] == 0


def test_what_is_not_known_is_not_judged() -> None:
    labels = [{"neck": ["v"], "leg": ["full"]}] * 12
    said = np.full((12, 2), UNKNOWN)
    assert score_values(held_out_of(labels), np.arange(12), said, TAXONOMY) is None
    said[:, 1] = 1
    found = score_values(held_out_of(labels), np.arange(12), said, TAXONOMY)
    assert found is not None
    assert list(found["attributes"]) == ["leg"]
