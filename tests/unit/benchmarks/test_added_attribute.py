"""What the benchmark of added attributes says of two judged models."""

import pytest

from agman.errors import InvalidInput
from benchmarks.added_attribute import Compared, Options, figures


def test_the_share_of_the_gain_is_counted_from_a_random_ranking() -> None:
    added = {"map": 0.4, "random": 0.2, "pixels": 0.25, "num_queries": 30}
    found = figures({"heel_height": Compared(added, {**added, "map": 0.7})})
    assert found["share_of_gain_heel_height"] == pytest.approx(0.4)
    assert (found["map_heel_height_added"], found["map_heel_height_trained"]) == (0.4, 0.7)


def test_what_the_catalog_is_not_labelled_with_is_refused() -> None:
    with pytest.raises(InvalidInput, match="heel_height"):
        Options(attributes=("heel_height",))
