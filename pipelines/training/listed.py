"""Triplets that a data set lists instead of labels: all pictures in memory, the list split in shares."""

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
from pipelines.dataset import ListedTriplets
from pipelines.labels import Labels
from pipelines.training.pictures import Share


class ListedPictures:
    """The pictures that triplets name, decoded: all shares of a worker draw from the same ones."""

    def __init__(
        self, share: Share, listed: ListedTriplets, preprocess: Preprocess, *, capacity: int
    ) -> None:
        """Read them.

        Args:
            share: all pictures: a triplet's may lie in any tar.
            listed: the triplets.
            preprocess: how pictures are read.
            capacity: most pictures held: 3 x image_size² bytes each.

        Raises:
            InvalidInput: if they do not fit.
        """
        check_listed_fit(listed, capacity)
        self.pixels: dict[int, Tensor] = {}
        """By their places in the list."""
        self.bad: set[int] = set()
        """Places of those that cannot be decoded."""
        place_of = {digest: place for place, digest in enumerate(listed.pictures)}
        for sample, _ in share.stream():
            place = place_of[sample.sha256]
            if place in self.pixels:
                continue
            try:
                self.pixels[place] = read_pixels(sample.encoded, preprocess)
            except BadSample:
                self.bad.add(place)


class ListedPool:
    """A share's way through the list."""

    def __init__(
        self, pictures: ListedPictures, listed: ListedTriplets, *, share: int, num_shares: int, seed: int
    ) -> None:
        """Begin; a triplet that names a picture that is not there is left out.

        Args:
            pictures: what the triplets name.
            listed: the triplets.
            share: of the list, that this pool goes through.
            num_shares: that the list is split in.
            seed: of the list's order.

        Raises:
            InvalidInput: if no triplet is whole.
        """
        self._share, self._num_shares, self._seed = share, num_shares, seed
        self._num_drawn = 0
        self._pixels, self._num_bad = pictures.pixels, len(pictures.bad)
        self._num_missing = len(listed.pictures) - len(self._pixels) - self._num_bad
        here = np.zeros(len(listed.pictures), bool)
        here[list(self._pixels)] = True
        whole = here[listed.rows].all(axis=1)
        self._attribute, self._rows = listed.attribute[whole], listed.rows[whole]
        self._num_left_out = int((~whole).sum())
        if not len(self._rows):
            raise InvalidInput(
                f"{len(listed.rows)} listed triplets: expected their pictures in the shards, found "
                f"{len(self._pixels)} of {len(listed.pictures)}, {self._num_bad} cannot be decoded"
            )

    def draw(self, num_triplets: int) -> Triplets:
        """Take this share's next triplets of the list."""
        places = listed_places(
            len(self._rows), self._num_drawn, num_triplets,
            share=self._share, num_shares=self._num_shares, seed=self._seed,
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
        """Return how far this share is."""
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
    num_listed: int, start: int, num_drawn: int, *, share: int, num_shares: int, seed: int
) -> NDArray[np.int64]:
    """Return which of the listed triplets a share's draws are, from its draw number `start` on.

    Draw i of a share is draw g = i x num_shares + share of all, and that is place g mod T of the T triplets
    in the order of epoch g div T. So in each epoch all shares together take every triplet once.

    Returns:
        [num_drawn] places in the list.
    """
    epoch, place = np.divmod((start + np.arange(num_drawn)) * num_shares + share, num_listed)
    places = np.empty(num_drawn, np.int64)
    for number in np.unique(epoch):
        rows = epoch == number
        places[rows] = _epoch_order(num_listed, int(number), seed)[place[rows]]
    return places


@lru_cache(maxsize=2)
def _epoch_order(num_listed: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_listed)
