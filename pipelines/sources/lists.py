"""The lists of the public benchmarks: paths or numbers, a line each, read whole columns at a time.

A line that is not as it must be refuses the file: a list that is one line off labels every picture after it
wrongly. The last line may lack its newline, and empty lines at the end count for nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agman.errors import InvalidInput

SHOWN_LETTERS = 80


@dataclass(frozen=True, slots=True)
class LabelLines:
    """What a list of labels says: L times that a picture shows a value of an attribute."""

    picture: NDArray[np.int64]
    """[L], positions in the list of paths."""
    attribute: NDArray[np.int64]
    """[L], positions in the taxonomy."""
    value: NDArray[np.int64]
    """[L], positions in the attribute's values."""


def read_lines(path: Path) -> pa.StringArray:
    """Read a text file's lines, without the white space around them.

    Bytes that are not UTF-8 are replaced: such a path leads to no file, so it costs its picture alone.

    Raises:
        InvalidInput: if there is no such file, no line in it, or an empty line between others.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise InvalidInput(f"{path}: expected a list, a line each: {error.strerror}") from error
    lines = pc.ascii_trim_whitespace(pc.list_flatten(pc.split_pattern(pa.array([text]), "\n")))
    filled = np.flatnonzero(pc.binary_length(lines).to_numpy())
    if len(filled) == 0:
        raise InvalidInput(f"{path}: expected a list, a line each, found an empty file")
    if int(filled[-1]) >= len(filled):
        line = int(np.argmax(filled > np.arange(len(filled)))) + 1
        raise InvalidInput(f"{path}: line {line}: expected one entry a line, found an empty line")
    return lines[: int(filled[-1]) + 1]


def read_labels(path: Path, num_pictures: int, counts: NDArray[np.int64], *, many: bool) -> LabelLines:
    """Read lines `picture attribute value`, all numbers from 0.

    Args:
        path: the list.
        num_pictures: in the list of paths that the first number of a line points into.
        counts: [A], how many values each attribute has.
        many: whether a line may go on with further pairs `attribute value`.

    Raises:
        InvalidInput: naming the first line that is malformed or points outside.
    """
    expected = "picture attribute value" + (" [attribute value …]" if many else "")
    pairs = "+" if many else ""
    lines, numbers, widths = _read_numbers(
        path, rf"^[0-9]{{1,9}}(\s+[0-9]{{1,9}}\s+[0-9]{{1,9}}){pairs}$", expected
    )
    starts = np.cumsum(widths) - widths
    line_of_pair = np.repeat(np.arange(len(lines)), (widths - 1) // 2)
    pairs_read = np.delete(numbers, starts).reshape(-1, 2)
    found = LabelLines(numbers[starts][line_of_pair], pairs_read[:, 0], pairs_read[:, 1])
    check = _Check(path, lines, line_of_pair)
    check(found.picture < num_pictures, f"a picture below {num_pictures}")
    check(found.attribute < len(counts), f"attributes below {len(counts)}")
    check(found.value < counts[found.attribute], "values below the attribute's number of values")
    return found


def read_triplets(path: Path, num_pictures: int) -> NDArray[np.int64]:
    """Read lines of three numbers of pictures: [T, 3].

    Raises:
        InvalidInput: naming the first line that is malformed or points outside.
    """
    pattern = r"^[0-9]{1,9}\s+[0-9]{1,9}\s+[0-9]{1,9}$"
    lines, numbers, _ = _read_numbers(path, pattern, "anchor far close, the numbers of three pictures")
    triplets = numbers.reshape(-1, 3)
    check = _Check(path, lines, np.arange(len(lines)))
    check(triplets.max(axis=1) < num_pictures, f"pictures below {num_pictures}")
    return triplets


def _read_numbers(
    path: Path, pattern: str, expected: str
) -> tuple[pa.StringArray, NDArray[np.int64], NDArray[np.int64]]:
    """Return (lines, all numbers one after the other, how many numbers each line has)."""
    lines = read_lines(path)
    fits = pc.match_substring_regex(lines, pattern).to_numpy(zero_copy_only=False)
    _Check(path, lines, np.arange(len(lines)))(fits, expected)
    words = pc.ascii_split_whitespace(lines)
    return lines, pc.list_flatten(words).cast(pa.int64()).to_numpy(), pc.list_value_length(words).to_numpy()


@dataclass(frozen=True, slots=True)
class _Check:
    """Refuses a file at the first line that does not hold."""

    path: Path
    lines: pa.StringArray
    line: NDArray[np.int64]
    """Entry -> the line that it stands on."""

    def __call__(self, holds: NDArray[np.bool_], expected: str) -> None:
        """Raise `InvalidInput` unless all entries hold."""
        if not holds.all():
            line = int(self.line[int(np.argmin(holds))])
            refuse_line(self.path, line, self.lines[line].as_py(), expected)


def refuse_line(path: Path, line: int, found: str, expected: str) -> None:
    """Raise what a person needs to mend a list.

    Args:
        path: the list.
        line: counted from 0.
        found: what stands there.
        expected: what should.

    Raises:
        InvalidInput: always.
    """
    shown = found if len(found) <= SHOWN_LETTERS else f"{found[:SHOWN_LETTERS]}…"
    raise InvalidInput(f"{path}: line {line + 1}: expected {expected}, found {shown!r}")
