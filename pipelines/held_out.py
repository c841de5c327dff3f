"""Which held-out pictures are compared with which, after the data set's own lists.

Lists are of lines, as in the published files: a picture with one value of one attribute. A picture with two
values of an attribute has two lines, so it asks twice and stands twice; one that is listed under several
attributes is still one picture, decoded and embedded once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agman.errors import BadSample
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess, read_pixels, stack_pixels
from pipelines.dataset import Dataset, ListedTriplets
from pipelines.labels import label_indices
from pipelines.shards.read import stream_samples

SPLITS = {"test": ("query", "candidate"), "valid": ("valid_query", "valid_candidate")}
"""By split: the role that asks and the role that answers."""
UNDIVIDED = {"valid": "valid"}
"""By split: the role of pictures that are not told apart; every `QUERY_EVERY`th asks the others."""
QUERY_EVERY = 4

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lines:
    """L pictures listed under one attribute, each with one value."""

    pictures: Positions
    """[L], positions in `HeldOut.pictures`."""
    values: Positions
    """[L], positions among the attribute's values."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The held-out pictures of a data set: who asks, who answers, and listed triplets."""

    pictures: tuple[str, ...]
    """The sha256 of P pictures, sorted: a part of them is as good as drawn."""
    lists: dict[int, tuple[Lines, Lines]] = field(default_factory=dict)
    """By attribute: queries and candidates, both with at least one line."""
    triplets: dict[int, Positions] = field(default_factory=dict)
    """By attribute: [T, 3] positions in `pictures`: anchor, positive, negative; at least one triplet."""
    unknown: Counter[str] = field(default_factory=Counter)
    """What the taxonomy does not know and was left out: labels, attributes of triplets."""

    @property
    def attributes(self) -> list[int]:
        """The attributes that have something to judge by, in order."""
        return sorted(self.lists.keys() | self.triplets.keys())

    def under(self, attribute: int) -> NDArray[np.bool_]:
        """Return which pictures are listed under an attribute: [P]."""
        listed = np.zeros(len(self.pictures), bool)
        if attribute in self.triplets:
            listed[self.triplets[attribute]] = True
        for lines in self.lists.get(attribute, ()):
            listed[lines.pictures] = True
        return listed

    def only(self, kept: NDArray[np.bool_]) -> "HeldOut":
        """Return what remains of the lists when only some of the pictures do.

        Args:
            kept: [P].
        """
        place = np.where(kept, np.cumsum(kept) - 1, -1)
        lists = {
            attribute: (_moved(queries, place), _moved(candidates, place))
            for attribute, (queries, candidates) in self.lists.items()
        }
        triplets = {attribute: place[rows] for attribute, rows in self.triplets.items()}
        return replace(
            self,
            pictures=tuple(sha256 for sha256, keep in zip(self.pictures, kept, strict=True) if keep),
            lists={attribute: pair for attribute, pair in lists.items() if all(len(x.values) for x in pair)},
            triplets={
                attribute: whole
                for attribute, rows in triplets.items()
                if len(whole := rows[(rows >= 0).all(axis=1)])
            },
        )


def select_held_out(dataset: Dataset, taxonomy: Taxonomy, split: str) -> HeldOut:
    """Return who is compared with whom in one split of a data set.

    Args:
        dataset: its descriptions and listed triplets decide; no picture is read.
        taxonomy: the model's. What it does not know is counted and left out.
        split: "test" or "valid".

    Returns:
        Listed triplets where the split has them, else the lists of queries and candidates; without any
        attribute where there is nothing to compare.
    """
    if split in dataset.triplets and dataset.taxonomy is not None:
        return _select_triplets(dataset.triplets[split], dataset.taxonomy, taxonomy)
    roles: Sequence[str] = SPLITS[split]
    uses = [
        (sha256, use.role, use.labels)
        for sha256, described in sorted(dataset.described.items())
        for use in described
        if use.role in roles or use.role == UNDIVIDED.get(split)
    ]
    if any(role in roles for _, role, _ in uses):
        uses = [use for use in uses if use[1] in roles]
    else:
        asking = set(sorted({sha256 for sha256, _, _ in uses})[QUERY_EVERY - 1 :: QUERY_EVERY])
        uses = [(sha256, roles[0 if sha256 in asking else 1], labels) for sha256, _, labels in uses]
    return _select_lists(uses, roles, taxonomy)


def _select_lists(
    uses: Sequence[tuple[str, str, dict[str, list[str]]]], roles: Sequence[str], taxonomy: Taxonomy
) -> HeldOut:
    place: dict[str, int] = {}
    found: dict[tuple[int, str], list[tuple[int, int]]] = {}
    unknown: Counter[str] = Counter()
    for sha256, role, labels in uses:
        for attribute, values in label_indices(labels, taxonomy, unknown).items():
            position = place.setdefault(sha256, len(place))
            found.setdefault((attribute, role), []).extend((position, value) for value in values)
    lists = {
        attribute: (_lines(found[attribute, roles[0]]), _lines(found[attribute, roles[1]]))
        for attribute in range(len(taxonomy))
        if all((attribute, role) in found for role in roles)
    }
    return _only_listed(HeldOut(tuple(place), lists, unknown=unknown))


def _select_triplets(listed: ListedTriplets, named: Taxonomy, taxonomy: Taxonomy) -> HeldOut:
    unknown: Counter[str] = Counter()
    triplets: dict[int, Positions] = {}
    for position, name in enumerate(named.names):
        rows = listed.rows[listed.attribute == position]
        if name in taxonomy.names and len(rows):
            triplets[taxonomy.index(name)] = rows
        elif len(rows):
            unknown[name] += len(rows)
    return _only_listed(HeldOut(listed.pictures, triplets=triplets, unknown=unknown))


def first_pictures(held_out: HeldOut, limit: int) -> HeldOut:
    """Return the part of the lists that at most `limit` pictures give.

    Pictures are in order of their digests, which is no order of theirs; triplets are taken from the front of
    all attributes in turn.
    """
    if not held_out.triplets:
        return held_out.only(np.arange(len(held_out.pictures)) < limit)
    turn = np.concatenate([np.arange(len(rows)) for rows in held_out.triplets.values()])
    rows = np.concatenate(list(held_out.triplets.values()))[np.argsort(turn, kind="stable")]
    _, first = np.unique(rows, return_index=True)
    is_new = np.zeros(rows.size, bool)
    is_new[first] = True
    taken = rows[np.cumsum(is_new)[2::3] <= limit]
    kept = np.zeros(len(held_out.pictures), bool)
    kept[taken] = True
    return held_out.only(kept)


def by_tar(dataset: Dataset, pictures: Sequence[str]) -> dict[str, Positions]:
    """Return which pictures are read from which tar of a dataset: each from its home, wherever else it lies.

    Args:
        dataset: names the home of each picture; one without is looked for in every tar.
        pictures: sha256.

    Returns:
        Positions in `pictures`, ascending, by tar in the dataset's order. Tars that no picture is read from
        are left out: most hold training pictures alone.
    """
    found: dict[str, list[int]] = {url: [] for url in dataset.urls}
    for position, sha256 in enumerate(pictures):
        homes = [dataset.homes[sha256]] if sha256 in dataset.homes else dataset.urls
        for url in homes:
            if url in found:
                found[url].append(position)
    return {url: np.array(positions, np.int64) for url, positions in found.items() if positions}


def read_held_out(
    url: str, pictures: Sequence[str], positions: Positions, preprocess: Preprocess, unreadable: Counter[str]
) -> Iterator[tuple[int, Tensor]]:
    """Decode pictures of a tar, each once.

    Args:
        url: the tar.
        pictures: sha256.
        positions: those in `pictures` that are read from this tar.
        preprocess: how pictures are read.
        unreadable: counts what cannot be decoded, by kind.

    Yields:
        A position in `pictures` and the picture [3, S, S] uint8.
    """
    wanted = {pictures[position]: position for position in positions.tolist()}
    for sample in stream_samples([url]):
        position = wanted.pop(sample.sha256, None)
        if position is None:
            continue
        try:
            yield position, read_pixels(sample.encoded, preprocess)
        except BadSample as error:
            unreadable[error.kind] += 1


def in_batches(pictures: Iterator[tuple[int, Tensor]], batch: int) -> Iterator[tuple[list[int], Tensor]]:
    """Stack pictures: positions and [B, 3, S, S] uint8, B at most `batch`."""
    positions: list[int] = []
    pixels: list[Tensor] = []
    for position, picture in pictures:
        positions.append(position)
        pixels.append(picture)
        if len(pixels) == batch:
            yield positions, stack_pixels(pixels)
            positions, pixels = [], []
    if pixels:
        yield positions, stack_pixels(pixels)


def _lines(found: Sequence[tuple[int, int]]) -> Lines:
    """Put lines in order, each once: a picture may be described twice under two keys."""
    pictures, values = np.unique(np.array(found, np.int64).reshape(-1, 2), axis=0).T
    return Lines(pictures, values)


def _moved(lines: Lines, place: Positions) -> Lines:
    moved = place[lines.pictures]
    return Lines(moved[moved >= 0], lines.values[moved >= 0])


def _only_listed(held_out: HeldOut) -> HeldOut:
    """Leave out pictures that no list names: they need not be read."""
    listed = np.zeros(len(held_out.pictures), bool)
    for attribute in held_out.attributes:
        listed |= held_out.under(attribute)
    return held_out.only(listed)
