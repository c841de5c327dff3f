"""FashionAI, DeepFashion and DARN after the annotation files of ASEN, the split that the papers report on.

```
meta.json                                      attributes of every data set and how many values each has
<data set>/filenames_{train,valid,test}.txt    a path a line, relative to <data set>/
<data set>/label_train.txt                     picture attribute value [attribute value …]
<data set>/query_{valid,test}.txt, candidate_{valid,test}.txt      picture attribute value
```

All numbers count from 0; a picture's is its line in the split's `filenames`. A use's labels are what that
list says of the picture: a candidate under neckline is none under sleeve, whatever other lists say of it. A
picture of a split that is in none of its lists has the role train, valid or test, and no label.

Source: Ma et al., Fine-Grained Fashion Similarity Learning by Attribute-Specific Embedding Network, 2020.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from agman.errors import InvalidInput
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from pipelines.sources.benchmark import Benchmark, Layout, Uses, group_uses, without_labels
from pipelines.sources.lists import LabelLines, read_labels, read_lines

ASEN_NAMES = {"fashionai": "FashionAI", "deepfashion": "DeepFashion", "darn": "DARN"}
"""Spec -> the data set's name in meta.json and of its folder."""
META = "meta.json"
SPLITS = ("train", "valid", "test")
ROLE_LISTS = {
    "train": (("train", "label_train.txt"),),
    "valid": (("valid_query", "query_valid.txt"), ("valid_candidate", "candidate_valid.txt")),
    "test": (("query", "query_test.txt"), ("candidate", "candidate_test.txt")),
}
"""Split -> its lists, each with the role that it gives."""
FILES = (
    *(f"filenames_{split}.txt" for split in SPLITS),
    *(file for lists in ROLE_LISTS.values() for _, file in lists),
)
_LISTS_ORIGIN = "https://github.com/Maryeon/asenpp (lists and meta.json)"
_PICTURES_ORIGIN = {
    "fashionai": "https://tianchi.aliyun.com/competition/entrance/231671 (fashionAI_attributes_train1 and 2)",
    "deepfashion": "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html (attribute prediction)",
    "darn": "the addresses that the same page lists",
}
LAYOUTS = {
    spec: Layout(
        spec,
        FILES,
        "filenames_{train,valid,test}.txt, label_train.txt and {query,candidate}_{valid,test}.txt",
        f"{_LISTS_ORIGIN} and {_PICTURES_ORIGIN[spec]} (pictures)",
    )
    for spec in ASEN_NAMES
}


class AsenBenchmark(Benchmark):
    """One data set of the ASEN family."""

    def __init__(self, layout: Layout, folder: Path, taxonomy: Taxonomy) -> None:
        """Remember where the lists are.

        Args:
            layout: of this data set.
            folder: holds the lists; their paths are relative to it.
            taxonomy: as meta.json has it.
        """
        super().__init__(layout, folder, folder, taxonomy)
        self._folder = folder

    def _read(self) -> Uses:
        listed = [read_lines(self._folder / f"filenames_{split}.txt") for split in SPLITS]
        # A path may stand twice, in one split or in two: it is one picture.
        encoded = pa.concat_arrays(listed).dictionary_encode()
        pictures = np.split(
            encoded.indices.to_numpy().astype(np.int64), np.cumsum([len(p) for p in listed])[:-1]
        )
        counts = np.array([len(attribute.values) for attribute in self.taxonomy])
        by_role: list[tuple[str | None, LabelLines]] = []
        for split, numbers in zip(SPLITS, pictures, strict=True):
            is_listed = np.zeros(len(encoded.dictionary), bool)
            for role, file in ROLE_LISTS[split]:
                lines = read_labels(self._folder / file, len(numbers), counts, many=split == "train")
                by_role.append((role, replace(lines, picture=numbers[lines.picture])))
                is_listed[numbers[lines.picture]] = True
            by_role.append((split, without_labels(numbers[~is_listed[numbers]])))
        return group_uses(encoded.dictionary, by_role, self.taxonomy)


def open_asen(spec: str, path: str) -> AsenBenchmark:
    """Open a data set of the ASEN family.

    Args:
        spec: one of ASEN_NAMES.
        path: the data set's own folder, or the one that holds it and meta.json.

    Returns:
        The source; of its files only meta.json was read yet.

    Raises:
        InvalidInput: if a file is not where it should be, or meta.json does not describe the data set.
    """
    name, layout = ASEN_NAMES[spec], LAYOUTS[spec]
    folder = layout.folder(path)
    if not (folder / FILES[0]).is_file() and (folder / name).is_dir():
        folder = folder / name
    layout.require(folder)
    # An early release has a meta.json for each data set, inside its folder.
    meta = next((each / META for each in (folder.resolve().parent, folder) if (each / META).is_file()), None)
    if meta is None:
        raise InvalidInput(
            f"source {spec}:{path}: expected {META} beside {folder}, found none; get it from {layout.origin}"
        )
    return AsenBenchmark(layout, folder, _read_taxonomy(meta, name))


def _read_taxonomy(meta: Path, name: str) -> Taxonomy:
    try:
        document: dict[str, Any] = json.loads(meta.read_bytes())
        entry = document.get(name, document)
        counts = [
            (str(attribute), int(entry["ATTRIBUTES_NUM"][attribute])) for attribute in entry["ATTRIBUTES"]
        ]
        return Taxonomy(tuple(_attribute(attribute, count, name) for attribute, count in counts))
    except InvalidInput as error:
        raise InvalidInput(f"{meta}: {name}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(
            f'{meta}: expected {{"{name}": {{"ATTRIBUTES": [name, …], "ATTRIBUTES_NUM": {{name: count}}}}}}; '
            f"reading it failed with {type(error).__name__}: {error}"
        ) from error


def _attribute(published: str, num_values: int, dataset: str) -> Attribute:
    """Name an attribute and its values, which the files only number: by FashionAI's names, else v0, v1, …."""
    name = re.sub(r"[^a-z0-9]+", "_", published.lower()).strip("_")
    known = {each.name: each for each in FASHIONAI}.get(name)
    if dataset == "FashionAI" and known is not None and len(known.values) == num_values:
        return known
    return Attribute(name, tuple(f"v{number}" for number in range(num_values)))
