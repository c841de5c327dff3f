"""What is written of predictions, whose labels teach, and how people read it."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from agman.prototypes import ABSENT, UNKNOWN, Prototypes
from agman.taxonomy import Attribute, Taxonomy
from pipelines.dataset import Dataset, Description
from pipelines.morning.searches import described
from pipelines.parts import VALUE_SCHEMA, Shown
from pipelines.training.samples import Labels
from pipelines.values import choose_pictures, training_labels, value_rows, without_prototype

TAXONOMY = Taxonomy((Attribute("neck", ("invisible", "v", "round")), Attribute("leg", ("short", "full"))))


def test_rows_tell_absence_from_ignorance() -> None:
    said = np.array([1, ABSENT, UNKNOWN, 0]), np.array([0.5, 0, 0, 1], np.float32)
    rows = value_rows(("v", "round"), *said, is_asked=True)
    assert rows.schema == VALUE_SCHEMA
    assert rows.to_pylist() == [
        {"value": "round", "score": 0.5, "applies": True},
        {"value": None, "score": None, "applies": False},
        {"value": None, "score": None, "applies": None},
        {"value": "v", "score": 1.0, "applies": True},
    ]
    unasked = value_rows(("v", "round"), *said, is_asked=False)
    assert unasked["applies"].to_pylist() == [None, False, None, None]
    assert unasked.drop(["applies"]) == rows.drop(["applies"])


def test_the_labels_of_every_training_use_teach_and_no_others() -> None:
    described_as = {
        "c": (Description("train", {"neck": ["v"]}), Description("train", {"leg": ["full"]})),
        "b": (Description("train", {"leg": ["short"]}), Description("query", {"neck": ["round"]})),
        "d": (Description("train", {"neck": ["halter"], "hue": ["red"]}),),
        "a": (Description("candidate", {"neck": ["v"]}),),
    }
    dataset = Dataset("d", (), described_as)
    labels = training_labels(dataset, TAXONOMY)
    assert labels == {"b": {1: [0]}, "c": {0: [1], 1: [1]}}
    assert list(labels) == ["b", "c"]


def test_a_rare_value_keeps_its_pictures() -> None:
    labels: dict[str, Labels] = {f"{number:04}": {0: [1]} for number in range(500)}
    labels |= {"x": {0: [2]}, "y": {0: [0, 2], 1: [1]}, "z": {1: [0]}}
    chosen = choose_pictures(labels, limit=100)
    assert chosen == (*(f"{number:04}" for number in range(97)), "x", "y", "z")
    assert choose_pictures(labels, limit=3) == ("0000", "x", "y")  # y is the first of one value
    assert choose_pictures(labels) == tuple(labels)
    assert choose_pictures({}) == ()


def test_values_that_teach_nothing_are_named() -> None:
    known = torch.tensor([[False, True, False], [False, False, False]])
    prototypes = Prototypes(*(torch.zeros(2) for _ in fields(Prototypes)))
    labels: dict[str, Labels] = {"a": {0: [0, 1]}, "b": {0: [2], 1: [1]}, "c": {0: [2]}}
    found = without_prototype(labels, replace(prototypes, known=known), TAXONOMY)
    assert found == ["neck=round", "leg=full"]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (Shown("deep_v", 0.8349, True), "deep_v 0.83"),
        (Shown(None, None, False), "does not apply"),
        (Shown(), ""),
    ],
)
def test_people_read_what_the_model_says(shown: Shown, said: str) -> None:
    assert described(shown) == said
