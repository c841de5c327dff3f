"""UT Zappos50K with the triplets of CSN: no labels, but lists of which shoe is closer to which.

```
filenames.json                                                        plain text: a path a line
tripletlists/{class,closure,gender,heel}_tripletlist_{train,val,test}.txt     anchor far close
ut-zap50k-images/                                                     the pictures
```

Numbers count from 0: lines of filenames.json. A picture has a use for each split whose triplets name it, with
the role train, valid or test; one in no triplet has the role test.

Source: Veit et al., Conditional Similarity Networks, CVPR 2017.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agman.taxonomy import Attribute, Taxonomy
from pipelines.sources.benchmark import Benchmark, Layout, Uses, group_uses, key_of, without_labels
from pipelines.sources.lists import LabelLines, read_lines, read_triplets
from pipelines.sources.records import ListedTriplets

ATTRIBUTES = ("class", "closure", "gender", "heel")
PUBLISHED_SPLITS = {"train": "train", "valid": "val", "test": "test"}
"""Our split and role -> the one in the lists' names."""
FILENAMES = "filenames.json"
PICTURES = "ut-zap50k-images"
LISTS = tuple(
    f"tripletlists/{name}_tripletlist_{split}.txt"
    for split in PUBLISHED_SPLITS.values()
    for name in ATTRIBUTES
)
LAYOUT = Layout(
    "zappos50k",
    (FILENAMES, *LISTS),
    f"{FILENAMES} and tripletlists/{{class,closure,gender,heel}}_tripletlist_{{train,val,test}}.txt",
    "https://github.com/andreasveit/conditional-similarity-networks (lists) and "
    "https://vision.cs.utexas.edu/projects/finegrained/utzap50k (pictures)",
)
TAXONOMY = Taxonomy(tuple(Attribute(name, ("unknown",)) for name in ATTRIBUTES))
"""The lists tell the attribute of a triplet and no picture's value: one value stands for what nobody says."""


class Zappos50k(Benchmark):
    """UT Zappos50K as CSN split it."""

    def __init__(self, folder: Path) -> None:
        """Remember where the lists are."""
        pictures = folder / PICTURES
        super().__init__(LAYOUT, folder, pictures if pictures.is_dir() else folder, TAXONOMY)
        self._folder = folder

    def triplets(self) -> dict[str, ListedTriplets]:
        """Return the triplets by split, in the lists' order, attribute after attribute."""
        paths, pictures = self._paths()
        names = paths.to_pylist()
        found = {}
        for split in PUBLISHED_SPLITS:
            listed = self._read_lists(split, len(pictures))
            attribute = np.repeat(np.arange(len(listed)), [len(triplets) for triplets in listed])
            numbers, rows = np.unique(pictures[np.concatenate(listed)], return_inverse=True)
            keys = tuple(key_of(names[number], split) for number in numbers)
            anchor_positive_negative = rows.reshape(-1, 3)[:, [0, 2, 1]]
            found[split] = ListedTriplets(keys, attribute, anchor_positive_negative)
        return found

    def _read(self) -> Uses:
        paths, pictures = self._paths()
        by_role: list[tuple[str | None, LabelLines]] = []
        is_listed = np.zeros(len(paths), bool)
        for split in PUBLISHED_SPLITS:
            named = pictures[np.concatenate(self._read_lists(split, len(pictures))).ravel()]
            by_role.append((split, without_labels(named)))
            is_listed[named] = True
        by_role.append(("test", without_labels(np.flatnonzero(~is_listed))))
        return group_uses(paths, by_role, self.taxonomy)

    def _paths(self) -> tuple[pa.StringArray, NDArray[np.int64]]:
        """Return the different paths, and for each line of filenames.json which of them it is."""
        encoded = read_lines(self._folder / FILENAMES).dictionary_encode()
        return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)

    def _read_lists(self, split: str, num_pictures: int) -> list[NDArray[np.int64]]:
        """Return each attribute's [T, 3]: anchor, far, close."""
        published = PUBLISHED_SPLITS[split]
        files = [self._folder / f"tripletlists/{name}_tripletlist_{published}.txt" for name in ATTRIBUTES]
        return [read_triplets(file, num_pictures) for file in files]


def open_zappos50k(path: str) -> Zappos50k:
    """Open UT Zappos50K.

    Args:
        path: the folder that holds filenames.json, tripletlists/ and ut-zap50k-images/.

    Returns:
        The source; nothing of it was read yet.

    Raises:
        InvalidInput: if a file is not where it should be.
    """
    folder = LAYOUT.folder(path)
    LAYOUT.require(folder)
    return Zappos50k(folder)
