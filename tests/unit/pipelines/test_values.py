"""What is written of predictions, whose labels teach, and how people read it."""

import numpy as np
import pytest

from agman.prototypes import ABSENT, UNKNOWN
from agman.taxonomy import Attribute, Taxonomy
from pipelines.dataset import Dataset, Description
from pipelines.morning import described
from pipelines.parts import VALUE_SCHEMA, Shown
from pipelines.values import training_labels, value_rows

TAXONOMY = Taxonomy((Attribute("neck", ("invisible", "v", "round")), Attribute("leg", ("short", "full"))))


def test_rows_tell_absence_from_ignorance() -> None:
    rows = value_rows(("v", "round"), np.array([1, ABSENT, UNKNOWN, 0]), np.array([0.5, 0, 0, 1], np.float32))
    assert rows.schema == VALUE_SCHEMA
    assert rows.to_pylist() == [
        {"value": "round", "score": 0.5, "applies": True},
        {"value": None, "score": None, "applies": False},
        {"value": None, "score": None, "applies": None},
        {"value": "v", "score": 1.0, "applies": True},
    ]


def test_the_labels_of_every_training_use_teach_and_no_others() -> None:
    described_as = {
        "c": (Description("train", {"neck": ["v"]}), Description("train", {"leg": ["full"]})),
        "b": (Description("train", {"leg": ["short"]}), Description("query", {"neck": ["round"]})),
        "d": (Description("train", {"neck": ["halter"], "hue": ["red"]}),),
        "a": (Description("candidate", {"neck": ["v"]}),),
    }
    dataset = Dataset("d", (), described_as)
    assert training_labels(dataset, TAXONOMY) == {"b": {1: [0]}, "c": {0: [1], 1: [1]}}
    assert list(training_labels(dataset, TAXONOMY, limit=1)) == ["b"]


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
