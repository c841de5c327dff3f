"""Small made-up copies of the public benchmarks' layouts, for tests that read, train on or judge by them.

A picture is a stack of horizontal bands, one an attribute; a band's hue is the value shown, so that a small
network learns it within seconds. The last line of each list lacks its newline, as in the publishers' files.
"""

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

ATTRIBUTES = {
    "FashionAI": {
        "skirt_length": 6,
        "sleeve_length": 9,
        "coat_length": 8,
        "pant_length": 6,
        "collar_design": 5,
        "lapel_design": 5,
        "neckline_design": 10,
        "neck_design": 5,
    },
    "DeepFashion": {"texture-related": 4, "fabric-related": 3, "shape-related": 3},
    "DARN": {"clothes category": 3, "clothes button": 3},
}
ZAPPOS_ATTRIBUTES = ("class", "closure", "gender", "heel")
ZAPPOS_VALUES = 3
SPLITS = ("train", "valid", "test")

Shown = dict[int, list[int]]
"""Attribute number -> numbers of the values that a picture shows."""
Line = tuple[int, int, int]
"""Picture number, attribute number, value number."""


@dataclass
class MadeUp:
    """What was written, for tests to compare with."""

    root: Path
    """The folder that the lists' paths are relative to."""
    attributes: dict[str, int]
    """Name -> number of values, in order."""
    paths: dict[str, list[str]] = field(default_factory=dict)
    """By split: picture number -> path in its list."""
    shown: dict[str, list[Shown]] = field(default_factory=dict)
    """By split: picture number -> what it shows."""
    queries: dict[str, list[Line]] = field(default_factory=dict)
    """By split valid and test."""
    candidates: dict[str, list[Line]] = field(default_factory=dict)
    triplets: dict[str, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    """By split: attribute, anchor, positive, negative, the last three by picture number; Zappos50k alone."""

    def picture(self, split: str, number: int) -> Path:
        """Return the file of a picture."""
        return self.root / self.paths[split][number]


def draw(path: Path, shown: Shown, counts: Sequence[int], seed: int, size: int) -> None:
    """Draw what is shown; other bands show a random hue, and noise makes each file's bytes its own."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 40, (size, size, 3))
    edges = np.linspace(0, size, len(counts) + 1).astype(int)
    for attribute, num_values in enumerate(counts):
        values = shown.get(attribute) or [int(random.integers(num_values))]
        columns = np.linspace(0, size, len(values) + 1).astype(int)
        for value, left, right in zip(values, columns, columns[1:], strict=False):
            colour = np.array(colorsys.hsv_to_rgb(value / num_values, 1, 0.84)) * 255
            pixels[edges[attribute] : edges[attribute + 1], left:right] += colour.astype(int)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)


def make_asen(
    folder: Path,
    name: str = "FashionAI",
    *,
    attributes: Mapping[str, int] | None = None,
    multi: bool | None = None,
    train_per_value: int = 2,
    queries_per_value: int = 1,
    candidates_per_value: int = 2,
    size: int = 32,
) -> MadeUp:
    """Write `<folder>/meta.json` (beside what it names already) and the data set's own folder.

    Args:
        folder: made where it is missing.
        name: FashionAI, DeepFashion or DARN: the folder's and the entry's name.
        attributes: name -> number of values; None for `ATTRIBUTES[name]`.
        multi: each picture is labelled under the next attribute too, and each third one with a second value;
            in valid and test a query under one attribute is then a candidate under the next. None: for
            DeepFashion alone.
        train_per_value: training pictures of each value of each attribute.
        queries_per_value: queries of each value in valid and in test.
        candidates_per_value: candidates of each value in valid and in test.
        size: side of the pictures in pixels.
    """
    made = MadeUp(folder / name, dict(attributes or ATTRIBUTES[name]))
    counts = list(made.attributes.values())
    multi = name == "DeepFashion" if multi is None else multi
    seeds = count()
    for split in SPLITS:
        per_value = train_per_value if split == "train" else queries_per_value + candidates_per_value
        made.paths[split], made.shown[split] = [], []
        made.queries[split], made.candidates[split] = [], []
        for attribute, value, copy in _every_value(counts, per_value):
            number = len(made.paths[split])
            shown, later = {attribute: [value]}, (attribute + 1) % len(counts)
            if multi:
                shown[later] = [value % counts[later]]
                if number % 3 == 0:
                    shown[attribute] = sorted({value, (value + 1) % counts[attribute]})
            made.paths[split].append(f"pictures/{split}/{number:04d}.jpg")
            made.shown[split].append(shown)
            draw(made.picture(split, number), shown, counts, next(seeds), size)
            asks = copy < queries_per_value
            for labelled, values in shown.items():
                as_query = asks if labelled == attribute else not asks
                lines = made.queries if as_query else made.candidates
                lines[split] += [(number, labelled, each) for each in values]
    _write_asen(folder, name, made)
    return made


def _every_value(counts: Sequence[int], per_value: int) -> list[tuple[int, int, int]]:
    """Return (attribute, value, copy), the copies of all values in turn as a shuffled list has them."""
    return [(a, v, c) for c in range(per_value) for a, num in enumerate(counts) for v in range(num)]


def _write_asen(folder: Path, name: str, made: MadeUp) -> None:
    meta = folder / "meta.json"
    entries = json.loads(meta.read_text()) if meta.exists() else {}
    entries[name] = {"ATTRIBUTES": list(made.attributes), "ATTRIBUTES_NUM": made.attributes}
    meta.write_text(json.dumps(entries))
    for split in SPLITS:
        write_lines(made.root / f"filenames_{split}.txt", made.paths[split])
    write_lines(
        made.root / "label_train.txt",
        [
            f"{number} " + " ".join(f"{a} {v}" for a, values in shown.items() for v in values)
            for number, shown in enumerate(made.shown["train"])
        ],
    )
    for split in ("valid", "test"):
        for file, lines in (("query", made.queries[split]), ("candidate", made.candidates[split])):
            write_lines(made.root / f"{file}_{split}.txt", [" ".join(map(str, line)) for line in lines])


def make_fashionai_raw(
    folder: Path,
    *,
    attributes: Mapping[str, int] | None = None,
    per_value: int = 2,
    header: bool = False,
    size: int = 32,
) -> MadeUp:
    """Write `Annotations/label.csv` and `Images/<attribute>_labels/` as the competition's archive has them.

    Each third line has an `m` (maybe) beside its `y`. All pictures are in split "train" of what is returned.
    """
    made = MadeUp(folder, dict(attributes or ATTRIBUTES["FashionAI"]), {"train": []}, {"train": []})
    counts, names = list(made.attributes.values()), list(made.attributes)
    lines = ["image_path,attribute_labels,labels"] if header else []
    for number, (attribute, value, _) in enumerate(_every_value(counts, per_value)):
        path = f"Images/{names[attribute]}_labels/{number:032x}.jpg"
        made.paths["train"].append(path)
        made.shown["train"].append({attribute: [value]})
        draw(folder / path, {attribute: [value]}, counts, number, size)
        answer = ["n"] * counts[attribute]
        answer[value] = "y"
        if number % 3 == 0:
            answer[value - 1] = "m"
        lines.append(f"{path},{names[attribute]}_labels,{''.join(answer)}")
    write_lines(folder / "Annotations/label.csv", lines)
    return made


def make_zappos50k(
    folder: Path,
    *,
    pictures: Mapping[str, int] | None = None,
    triplets_per_list: int = 20,
    size: int = 32,
) -> MadeUp:
    """Write `filenames.json`, `tripletlists/` and `ut-zap50k-images/`.

    Args:
        folder: made where it is missing.
        pictures: number of pictures by split, disjoint; None for 24, 12 and 12. One more is in no list.
        triplets_per_list: lines of each of the twelve lists.
        size: side of the pictures in pixels.

    Returns:
        What was written. Picture numbers run over all splits, so `paths["all"]` and `shown["all"]` hold them.
    """
    made = MadeUp(folder / "ut-zap50k-images", dict.fromkeys(ZAPPOS_ATTRIBUTES, ZAPPOS_VALUES))
    sizes = dict(pictures or {"train": 24, "valid": 12, "test": 12})
    random = np.random.default_rng(0)
    num_pictures = sum(sizes.values()) + 1
    values = random.integers(ZAPPOS_VALUES, size=(num_pictures, len(ZAPPOS_ATTRIBUTES)))
    made.paths["all"] = [f"Shoes/Oxfords/made up/{number:06d}.jpg" for number in range(num_pictures)]
    made.shown["all"] = [{a: [int(v)] for a, v in enumerate(row)} for row in values]
    for number, shown in enumerate(made.shown["all"]):
        draw(
            made.picture("all", number),
            shown,
            [ZAPPOS_VALUES] * len(ZAPPOS_ATTRIBUTES),
            10_000 + number,
            size,
        )
    write_lines(folder / "filenames.json", made.paths["all"])
    first = 0
    for split in SPLITS:
        numbers = np.arange(first, first + sizes[split])
        first += sizes[split]
        made.triplets[split] = []
        for attribute, name in enumerate(ZAPPOS_ATTRIBUTES):
            listed = _triplets(numbers, values[:, attribute], triplets_per_list, random)
            made.triplets[split] += [(attribute, *triplet) for triplet in listed]
            published = {"train": "train", "valid": "val", "test": "test"}[split]
            write_lines(
                folder / f"tripletlists/{name}_tripletlist_{published}.txt",
                [f"{anchor} {negative} {positive}" for anchor, positive, negative in listed],
            )
    return made


def _triplets(
    numbers: np.ndarray, values: np.ndarray, num_triplets: int, random: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Draw (anchor, positive, negative) by the values of one attribute."""
    drawn: list[tuple[int, int, int]] = []
    while len(drawn) < num_triplets:
        anchor, positive, negative = (int(number) for number in random.choice(numbers, 3, replace=False))
        if values[anchor] == values[positive] != values[negative]:
            drawn.append((anchor, positive, negative))
    return drawn


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines with no newline after the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
