"""What the public benchmarks have in common: pictures used in roles, their own taxonomy, lists of triplets.

One record is one use of a picture: one that asks under one attribute and is a candidate under another is two
records. A use's key is the picture's path as the lists write it, then `@` and the role for all roles but
`train`: `pictures/7.jpg`, `pictures/7.jpg@valid_query`.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agman.errors import InvalidInput
from agman.taxonomy import Taxonomy
from pipelines.sources.allowed import Allowed, allow, folder_place
from pipelines.sources.lists import LabelLines
from pipelines.sources.records import BATCH_ROWS, ROLES, ListedTriplets, record_batch
from pipelines.sources.tokens import ABSENT, local_token

NO_ROLE = -1
NO_ATTRIBUTE = -1


@dataclass(frozen=True, slots=True)
class Layout:
    """What a data set looks like on disk, and where a person gets it."""

    spec: str
    """The word before the colon of a source."""
    files: tuple[str, ...]
    """Lists that must be there, relative to the data set's folder."""
    pattern: str
    """The same for a person to read."""
    origin: str
    """Where to get lists and pictures."""

    def folder(self, path: str) -> Path:
        """Return the folder that a person named.

        Raises:
            InvalidInput: if there is none.
        """
        folder = Path(os.path.expanduser(path))
        if not path or not os.path.isdir(folder):  # Path.is_dir raises on a name that is too long
            shown = path if path.isprintable() else repr(path)
            raise InvalidInput(
                f"source {self.spec}:{shown}: no such folder on this machine; expected the one that holds "
                f"{self.pattern}; get them from {self.origin}"
            )
        return folder

    def require(self, folder: Path) -> None:
        """Refuse a folder that lacks a list.

        Raises:
            InvalidInput: naming the first that lacks.
        """
        lacking = [file for file in self.files if not (folder / file).is_file()]
        if lacking:
            more = f" and {len(lacking) - 1} others" if len(lacking) > 1 else ""
            raise InvalidInput(
                f"source {self.spec}:{folder}: expected a folder that holds {self.pattern}, found no "
                f"{lacking[0]}{more}; get them from {self.origin}"
            )


@dataclass(frozen=True, slots=True)
class Uses:
    """What a benchmark's lists say: U uses of P pictures."""

    paths: pa.StringArray
    """[P], all different, relative to the folder of the pictures."""
    picture: NDArray[np.int64]
    """[U], positions in `paths`, ascending."""
    role: NDArray[np.int64]
    """[U], positions in ROLES, or NO_ROLE."""
    labels: pa.MapArray
    """[U], of type LABELS."""


class Benchmark(ABC):
    """A public data set on this machine's disk: a source that also knows its taxonomy and listed triplets.

    Attributes:
        name: for people, such as "fashionai /data/FashionAI".
        allowed: the folder of its pictures, and where `allow` adds.
        taxonomy: the data set's own attributes and values.
        missing: pictures that the lists name and the disk does not have, as the last `batches` found them.
    """

    def __init__(self, layout: Layout, place: Path, pictures: Path, taxonomy: Taxonomy) -> None:
        """Remember where everything is.

        Args:
            layout: of the data set.
            place: its folder or file, for people.
            pictures: the folder that the lists' paths are relative to.
            taxonomy: the data set's own.
        """
        self.name = f"{layout.spec} {place}"
        self.taxonomy = taxonomy
        self._origin = layout.origin
        self.missing = 0
        self._pictures = os.path.abspath(pictures)
        self.allowed = Allowed(folder_place(self._pictures))

    def allow(self, allow_uris: Sequence[str]) -> Self:
        """Let links in the folder lead to other folders as well, and return this source.

        Raises:
            InvalidInput: if one is no beginning of a URI.
        """
        self.allowed = allow(self.allowed.places, allow_uris) if allow_uris else self.allowed
        return self

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream the uses of the pictures, missing ones too: those are quarantined when they are fetched.

        Yields:
            RECORD_FIELDS, and a `path` column: the picture's path as the lists write it.

        Raises:
            InvalidInput: if a list cannot be read, or none of the pictures is there.
        """
        self.missing = 0
        uses = self._read()
        if len(uses.paths) == 0:
            raise InvalidInput(f"source {self.name}: expected at least one picture in its lists, found none")
        for start in range(0, len(uses.picture), BATCH_ROWS):
            yield self._batch(uses, slice(start, start + BATCH_ROWS))
        if self.missing == len(uses.paths):
            raise InvalidInput(
                f"source {self.name}: expected {len(uses.paths)} pictures, such as {uses.paths[0].as_py()}, "
                f"below {self._pictures}, found none; unpack them there, from {self._origin}"
            )

    def triplets(self) -> dict[str, ListedTriplets]:
        """Return the triplets that the data set lists, by split, its pictures named by their records' keys.

        Raises:
            InvalidInput: if a list cannot be read.
        """
        return {}

    @abstractmethod
    def _read(self) -> Uses:
        """Read the lists."""

    def _below(self, path: str) -> str:
        """Return where a listed picture lies: in the folder of the pictures, whatever a list may say.

        A list comes from elsewhere. "/etc/passwd" or "../notes" in it is looked for below the folder, where
        it is missing like any other picture that is not there.
        """
        return os.path.join(self._pictures, os.path.normpath(f"/{path}").lstrip("/"))

    def _batch(self, uses: Uses, rows: slice) -> pa.RecordBatch:
        """Describe some uses. A picture's follow each other, so it is looked up once but for batch edges."""
        numbers, first = np.unique(uses.picture[rows], return_inverse=True)
        paths = uses.paths.take(pa.array(numbers)).to_pylist()
        uris = [self._below(path) for path in paths]
        tokens = np.array([_token(uri) for uri in uris])
        begun = rows.start > 0 and uses.picture[rows.start - 1] == numbers[0]
        self.missing += int((tokens[int(begun) :] == ABSENT).sum())
        roles = [None if role == NO_ROLE else ROLES[role] for role in uses.role[rows]]
        shown = [paths[position] for position in first]
        return record_batch(
            keys=pa.array([key_of(path, role) for path, role in zip(shown, roles, strict=True)], pa.string()),
            uris=pa.array(uris, pa.string()).take(pa.array(first)),
            tokens=pa.array(tokens[first].tolist(), pa.string()),
            roles=pa.array(roles, pa.string()),
            labels=uses.labels[rows],
            shop={"path": pa.array(shown, pa.string())},
        )


def _token(path: str) -> str:
    try:
        return local_token(path)
    except OSError:  # said when the picture is fetched
        return ""


def key_of(path: str, role: str | None) -> str:
    """Return the key of a picture's use."""
    return path if role in (None, "train") else f"{path}@{role}"


def group_uses(
    paths: pa.StringArray, by_role: Sequence[tuple[str | None, LabelLines]], taxonomy: Taxonomy
) -> Uses:
    """Gather what several lists say of each picture into one use a role.

    Args:
        paths: [P], all different.
        by_role: each list's role and lines, whose pictures are positions in `paths`; a line of attribute
            NO_ATTRIBUTE makes a use without a label of its own.
        taxonomy: of the lines' attributes and values.
    """
    lines = [listed for _, listed in by_role]
    picture = np.concatenate([listed.picture for listed in lines])
    roles = [NO_ROLE if role is None else ROLES.index(role) for role, _ in by_role]
    role = np.repeat(roles, [len(listed.picture) for listed in lines])
    num_roles = len(ROLES) + 1  # one more for NO_ROLE
    uses, use = np.unique(picture * num_roles + (role - NO_ROLE), return_inverse=True)
    attribute = np.concatenate([listed.attribute for listed in lines])
    value = np.concatenate([listed.value for listed in lines])
    shown = attribute != NO_ATTRIBUTE
    labels = pack_labels(len(uses), use[shown], attribute[shown], value[shown], taxonomy)
    return Uses(paths, uses // num_roles, uses % num_roles + NO_ROLE, labels)


def without_labels(pictures: NDArray[np.int64]) -> LabelLines:
    """Return lines that only name pictures."""
    return LabelLines(pictures, np.full_like(pictures, NO_ATTRIBUTE), np.zeros_like(pictures))


def pack_labels(
    num_uses: int,
    use: NDArray[np.int64],
    attribute: NDArray[np.int64],
    value: NDArray[np.int64],
    taxonomy: Taxonomy,
) -> pa.MapArray:
    """Pack L labels into one map a use: attributes and values in the taxonomy's order, each once.

    Args:
        num_uses: U.
        use: [L], below U.
        attribute: [L], positions in the taxonomy.
        value: [L], positions in the attribute's values.
        taxonomy: names them.

    Returns:
        [U] of type LABELS.
    """
    counts = np.array([len(each.values) for each in taxonomy])
    num_attributes, most_values = len(counts), int(counts.max())
    codes = np.sort((use * num_attributes + attribute) * most_values + value)
    codes = codes[np.diff(codes, prepend=-1) > 0]  # 50 times as fast as np.unique, which hashes
    entries, sizes = np.unique(codes // most_values, return_counts=True)
    names = pa.array([name for each in taxonomy for name in each.values], pa.string())
    first_of_attribute = np.cumsum(counts) - counts
    values = first_of_attribute[codes // most_values % num_attributes] + codes % most_values
    lists = pa.ListArray.from_arrays(_offsets(sizes), names.take(pa.array(values)))
    keys = pa.array(taxonomy.names, pa.string()).take(pa.array(entries % num_attributes))
    per_use = np.bincount(entries // num_attributes, minlength=num_uses)
    return pa.MapArray.from_arrays(_offsets(per_use), keys, lists)


def _offsets(sizes: NDArray[np.int64]) -> pa.Int32Array:
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
