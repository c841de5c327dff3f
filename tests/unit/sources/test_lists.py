import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agman.errors import InvalidInput
from pipelines.sources.lists import read_labels, read_lines, read_triplets

COUNTS = np.array([6, 9, 2])
PAIRS = st.integers(0, 2).flatmap(lambda a: st.tuples(st.just(a), st.integers(0, int(COUNTS[a]) - 1)))
LINES = st.lists(
    st.tuples(st.integers(0, 49), st.lists(PAIRS, min_size=1, max_size=4)), min_size=1, max_size=30
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("lists") / "label_train.txt"


@given(LINES, st.sampled_from([" ", "  ", "\t"]), st.sampled_from(["\n", "\r\n", " \n"]), st.booleans())
@settings(deadline=None)
def test_label_lines_are_read_as_a_loop_reads_them(file, lines, gap, end, is_ended):
    texts = [gap.join(map(str, [picture, *sum(pairs, ())])) for picture, pairs in lines]
    file.write_bytes((end.join(texts) + (end if is_ended else "")).encode())
    found = read_labels(file, 50, COUNTS, many=True)
    expected = [(picture, *pair) for picture, pairs in lines for pair in pairs]
    assert list(zip(found.picture, found.attribute, found.value, strict=True)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n0 1", r"line 2: expected picture attribute value \[attribute value …\], found '0 1'"),
        ("0 1 2\n3 1 2 0\n", "line 2: expected picture attribute value .* found '3 1 2 0'"),
        ("0 1 2\nx 1 2", "line 2: expected picture attribute value .* found 'x 1 2'"),
        ("-1 1 2", "line 1: expected picture"),
        ("0 1 99999999999999999999", "line 1: expected picture"),
        ("0 1 2 0 0\n50 1 2", "line 2: expected a picture below 50, found '50 1 2'"),
        ("0 1 2 3 0", "line 1: expected attributes below 3, found '0 1 2 3 0'"),
        (
            "0 1 2\n0 0 5 0 6",
            "line 2: expected values below the attribute's number of values, found '0 0 5 0 6'",
        ),
        ("0 1 2\n\n1 1 2", "line 2: expected one entry a line, found an empty line"),
        ("\n1 1 2", "line 1: expected one entry a line, found an empty line"),
        ("\n \n", "expected a list, a line each, found an empty file"),
        ("", "expected a list, a line each, found an empty file"),
    ],
)
def test_a_malformed_line_is_named(file, text, message):
    file.write_text(text)
    with pytest.raises(InvalidInput, match=rf"{file}: {message}") as caught:
        read_labels(file, 50, COUNTS, many=True)
    assert "\n" not in str(caught.value)


def test_a_query_has_one_label_a_line(file):
    file.write_text("0 1 2\n0 0 1 1 2")
    with pytest.raises(InvalidInput, match="line 2: expected picture attribute value, found '0 0 1 1 2'"):
        read_labels(file, 50, COUNTS, many=False)


def test_paths_keep_their_place_whatever_they_hold(file):
    file.write_bytes("\ufeffa b/ü 1.jpg\r\na/2.jpg \r\na b/ü 1.jpg\n\n".encode())
    assert read_lines(file).to_pylist() == ["a b/ü 1.jpg", "a/2.jpg", "a b/ü 1.jpg"]


def test_a_path_of_another_encoding_costs_itself_alone(file, tmp_path):
    file.write_bytes(b"a.jpg\nLevi\x92s\xae/b.jpg\nc.jpg")
    assert read_lines(file).to_pylist() == ["a.jpg", "Levi\ufffds\ufffd/b.jpg", "c.jpg"]
    with pytest.raises(InvalidInput, match=f"{tmp_path}: expected a list"):
        read_lines(tmp_path)


def test_triplets_are_three_pictures(file):
    file.write_text("0 17 4\n3 2 1")
    assert read_triplets(file, 18).tolist() == [[0, 17, 4], [3, 2, 1]]
    with pytest.raises(InvalidInput, match="line 1: expected pictures below 17, found '0 17 4'"):
        read_triplets(file, 17)
    file.write_text("0 17 4\n3 2 1 5")
    with pytest.raises(InvalidInput, match="line 2: expected anchor far close"):
        read_triplets(file, 18)
