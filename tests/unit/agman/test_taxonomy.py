import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agman.errors import AgmanError, BadSample, CheckpointMismatch, InvalidInput
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=8)
TAXONOMIES = st.dictionaries(
    NAMES, st.lists(NAMES, min_size=1, max_size=5, unique=True), min_size=1, max_size=5
)


@pytest.mark.parametrize(
    "error", [InvalidInput("one line"), BadSample("empty", "no bytes"), CheckpointMismatch("fc1.weight")]
)
def test_errors_survive_pickle(error: AgmanError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_fashionai_has_the_counts_of_its_meta_file() -> None:
    assert [len(attribute.values) for attribute in FASHIONAI] == [6, 9, 8, 6, 5, 5, 10, 5]
    assert all(attribute.values[0] == "invisible" for attribute in FASHIONAI)
    assert len(FASHIONAI) == 8
    assert FASHIONAI.index("neckline_design") == 6
    assert FASHIONAI.value_index("neckline_design", "off_shoulder") == 6


def test_unknown_name_suggests_a_close_one() -> None:
    with pytest.raises(InvalidInput, match=r"known: skirt_length.*Did you mean 'neckline_design'"):
        FASHIONAI.index("neck_line_design")
    with pytest.raises(InvalidInput, match="Did you mean 'shawl'"):
        FASHIONAI.value_index("lapel_design", "shawll")


@pytest.mark.parametrize("values", [(), ("a", "a"), ("A",), ("a b",), ("",), ("a\n",)])
def test_malformed_values_are_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        Attribute("length", values)


@pytest.mark.parametrize(
    "document", [{}, {"attributes": 3}, {"attributes": [{"name": "a"}]}, {"attributes": []}]
)
def test_malformed_json_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Taxonomy.from_json(document)


@given(TAXONOMIES)
def test_json_round_trip_keeps_the_digest(tree: dict[str, list[str]]) -> None:
    taxonomy = Taxonomy(tuple(Attribute(name, tuple(values)) for name, values in tree.items()))
    copy = Taxonomy.from_json(taxonomy.to_json())
    assert copy == taxonomy
    assert copy.digest == taxonomy.digest


def test_digest_depends_on_order() -> None:
    assert Taxonomy(FASHIONAI.attributes[::-1]).digest != FASHIONAI.digest
