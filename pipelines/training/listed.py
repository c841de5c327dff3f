"""Triplets that a data set lists instead of labels: all pictures in memory, the list split over ranks."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agman.errors import BadSample, InvalidInput
from agman.transforms import Preprocess, read_pixels
from agman.triplets import Triplets
from pipelines.dataset import Dataset, ListedTriplets
from pipelines.labels import Labels


class ListedPool:
    """The pictures of all listed triplets, and a rank's way through the list."""

    def __init__(
        self, dataset: Dataset, listed: ListedTriplets, preprocess: Preprocess, *,
        rank: int, num_ranks: int, capacity: int, seed: int,
    ) -> None:  # fmt: skip
        """Read the pictures; a triplet that names one that is not there is left out.

        Args:
            dataset: all tars: a triplet's pictures may lie in any.
            listed: the triplets.
            preprocess: how pictures are read.
            rank: of this worker.
            num_ranks: that share the list.
            capacity: most pictures held: 3 x image_size² bytes each.
            seed: of the list's order.

        Raises:
            InvalidInput: if the pictures do not fit, or no triplet is whole.
        """
        check_listed_fit(listed, capacity)
        self._rank, self._num_ranks, self._seed = rank, num_ranks, seed
        self._num_drawn = 0
        self._pixels, self._num_bad = _read_pictures(dataset, listed, preprocess)
        self._num_missing = len(listed.pictures) - len(self._pixels) - self._num_bad
        here = np.zeros(len(listed.pictures), bool)
        here[list(self._pixels)] = True
        whole = here[listed.rows].all(axis=1)
        self._attribute, self._rows = listed.attribute[whole], listed.rows[whole]
        self._num_left_out = int((~whole).sum())
        if not len(self._rows):
            raise InvalidInput(
                f"{len(listed.rows)} listed triplets: expected their pictures in {len(dataset.urls)} shards, "
                f"found {len(self._pixels)} of {len(listed.pictures)}, {self._num_bad} cannot be decoded"
            )

    def draw(self, num_triplets: int) -> Triplets:
        """Take this rank's next triplets of the list."""
        places = listed_places(
            len(self._rows), self._num_drawn, num_triplets,
            rank=self._rank, num_ranks=self._num_ranks, seed=self._seed,
        )  # fmt: skip
        self._num_drawn += num_triplets
        anchor, positive, negative = self._rows[places].T
        return Triplets(
            attribute=self._attribute[places], anchor=anchor, positive=positive, negative=negative
        )

    def pixels(self, slots: np.ndarray) -> Tensor:
        """Return pictures by slot: [B, 3, S, S] uint8."""
        return torch.stack([self._pixels[int(slot)] for slot in slots])

    def labels(self, slots: np.ndarray) -> list[Labels]:
        """Return no labels: the list alone says what is alike."""
        return [{} for _ in slots]

    def refresh(self, num_pictures: int) -> None:
        """Do nothing: all pictures are held."""

    def notes(self) -> list[str]:
        """Tell what is left out: broken pictures, missing ones, and the triplets that name them."""
        counts = {
            "pictures that cannot be decoded, left out": self._num_bad,
            "listed pictures that are in no shard": self._num_missing,
            "listed triplets that name such pictures, left out": self._num_left_out,
        }
        return [f"{what}: {number}" for what, number in counts.items() if number]

    def state_dict(self) -> dict[str, Any]:
        """Return how far this rank is."""
        return {"num_drawn": self._num_drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another pool was."""
        self._num_drawn = int(state["num_drawn"])


def check_listed_fit(listed: ListedTriplets, capacity: int) -> None:
    """Refuse more pictures than a worker may hold.

    Raises:
        InvalidInput: if they do not fit.
    """
    if len(listed.pictures) > capacity:
        raise InvalidInput(
            f"listed triplets name {len(listed.pictures)} pictures: expected at most --buffer-samples "
            f"{capacity}, since every worker holds all of them (3 x image_size² bytes each); raise it, or "
            "lower --preprocess.image-size to make room"
        )


def listed_places(
    num_listed: int, start: int, num_drawn: int, *, rank: int, num_ranks: int, seed: int
) -> NDArray[np.int64]:
    """Return which of the listed triplets a rank's draws are, from its draw number `start` on.

    Draw i of a rank is draw g = i x num_ranks + rank of all ranks, and that is place g mod T of the T
    triplets in the order of epoch g div T. So in each epoch all ranks together take every triplet once.

    Returns:
        [num_drawn] places in the list.
    """
    epoch, place = np.divmod((start + np.arange(num_drawn)) * num_ranks + rank, num_listed)
    places = np.empty(num_drawn, np.int64)
    for number in np.unique(epoch):
        rows = epoch == number
        places[rows] = _epoch_order(num_listed, int(number), seed)[place[rows]]
    return places


@lru_cache(maxsize=2)
def _epoch_order(num_listed: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_listed)


def _read_pictures(
    dataset: Dataset, listed: ListedTriplets, preprocess: Preprocess
) -> tuple[dict[int, Tensor], int]:
    """Decode the pictures that the list names: by their places in it, and how many cannot be decoded."""
    place_of = {digest: place for place, digest in enumerate(listed.pictures)}
    found: dict[int, Tensor] = {}
    bad: set[int] = set()
    for sample in dataset.pictures():
        place = place_of.get(sample.sha256)
        if place is None or place in found:
            continue
        try:
            found[place] = read_pixels(sample.encoded, preprocess)
        except BadSample:
            bad.add(place)
    return found, len(bad)
