"""FashionAI as the competition distributes it: `Annotations/label.csv` beside `Images/`.

A line is `path,attribute_labels,nnymn`, with or without a header: one letter a value, y where the picture
shows it, m where it may, n where not. What only may be shown is no label. The file knows no split, so the
records have no role: the catalog deals roles out by key.
"""

import logging
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agman.taxonomy import FASHIONAI
from pipelines.sources.benchmark import Benchmark, Layout, Uses, group_uses, without_labels
from pipelines.sources.lists import LabelLines, read_lines, refuse_line

logger = logging.getLogger(__name__)

LABELS_FILE = "label.csv"
LINE = r"^(?P<path>[^,]+),(?P<attribute>[a-z_]+)_labels,(?P<answer>[nmy]+)$"
LAYOUT = Layout(
    "fashionai-raw",
    (f"Annotations/{LABELS_FILE}",),
    f"Annotations/{LABELS_FILE} and Images/",
    "https://tianchi.aliyun.com/competition/entrance/231671 (attributes of apparel)",
)
_EXPECTED = "path,attribute_labels,nnymn"
_LOOKED_AT = 64


class FashionAIRaw(Benchmark):
    """The pictures of one label.csv.

    Attributes:
        unlabelled: lines of the last `batches` without a y: taken as unlabelled.
    """

    def __init__(self, labels: Path) -> None:
        """Remember where the list is.

        Args:
            labels: a label.csv.
        """
        super().__init__(LAYOUT, labels, _pictures(labels), FASHIONAI)
        self.unlabelled = 0
        self._labels = labels

    def _read(self) -> Uses:
        paths, attribute, answers = self._columns()
        encoded = paths.dictionary_encode()
        pictures = encoded.indices.to_numpy().astype(np.int64)
        line, value = _yes(answers)
        self.unlabelled = len(paths) - len(np.unique(line))
        if self.unlabelled:
            logger.warning("%s: %d lines have no y; taken as unlabelled", self.name, self.unlabelled)
        shown = LabelLines(pictures[line], attribute[line], value)
        by_role = [(None, shown), (None, without_labels(pictures))]
        return group_uses(encoded.dictionary, by_role, self.taxonomy)

    def _columns(self) -> tuple[pa.StringArray, NDArray[np.int64], pa.StringArray]:
        """Return path, attribute and answer of each line.

        Raises:
            InvalidInput: at the first line that is not as it must be.
        """
        lines = read_lines(self._labels)
        first = 0 if "." in lines[0].as_py() else 1  # a header names no file
        parts = pc.extract_regex(lines[first:], LINE)
        known = pc.index_in(pc.struct_field(parts, "attribute"), pa.array(FASHIONAI.names, pa.string()))
        attribute = known.fill_null(-1).to_numpy().astype(np.int64)
        answers = pc.struct_field(parts, "answer")
        counts = np.array([len(each.values) for each in FASHIONAI])
        for holds, expected in (
            (parts.is_valid().to_numpy(zero_copy_only=False), _EXPECTED),
            (attribute >= 0, f"an attribute of {', '.join(FASHIONAI.names)}"),
            (_lengths(answers) == counts[attribute], "one letter n, m or y for each value of the attribute"),
        ):
            if not holds.all():
                line = first + int(np.argmin(holds))
                refuse_line(self._labels, line, lines[line].as_py(), expected)
        return pc.struct_field(parts, "path"), attribute, answers


def _lengths(texts: pa.StringArray) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.binary_length(texts).fill_null(0).to_numpy().astype(np.int64)
    return lengths


def _yes(answers: pa.StringArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (line, value) of every y."""
    letters = np.frombuffer("".join(answers.to_pylist()).encode(), np.uint8)
    lengths = _lengths(answers)
    place = np.flatnonzero(letters == ord("y"))
    line = np.repeat(np.arange(len(answers)), lengths)[place]
    return line, place - (np.cumsum(lengths) - lengths)[line]


def _pictures(labels: Path) -> Path:
    """Return the folder that the paths are relative to: the list's own or the one above, where more are."""
    own = labels.absolute().parent
    folders = (own.parent, own) if own.name.lower() == "annotations" else (own, own.parent)
    with labels.open("rb") as stream:
        paths = [os.fsdecode(line.split(b",")[0]) for line in islice(stream, _LOOKED_AT)]
    return max(folders, key=lambda folder: sum(os.path.isfile(folder / path) for path in paths))


def open_fashionai_raw(path: str) -> FashionAIRaw:
    """Open a label.csv of the competition.

    Args:
        path: the file, or a folder that holds it or `Annotations/label.csv`.

    Returns:
        The source; nothing of it was read yet but the first lines.

    Raises:
        InvalidInput: if there is no such file.
    """
    file = Path(os.path.expanduser(path))  # Path.expanduser raises on a user that there is not
    if path and os.path.isfile(file):
        return FashionAIRaw(file)
    folder = LAYOUT.folder(path)
    if not (folder / LABELS_FILE).is_file():
        LAYOUT.require(folder)
        folder = folder / "Annotations"
    return FashionAIRaw(folder / LABELS_FILE)
