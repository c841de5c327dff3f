"""A worker's share of the training pictures in memory: streamed from tars, indexed for drawing triplets.

The pool holds at most `capacity` decoded pictures. While the share fits, it is read once and the draw is the
paper's sampler exactly; a larger share flows through, one fresh picture for each triplet drawn.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agman.errors import BadSample, InvalidInput
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess, read_pixels
from agman.triplets import TripletBuffer, Triplets
from pipelines.dataset import Dataset

SHUFFLE_SAMPLES = 1000
Labels = dict[int, list[int]]


class SamplePool:
    """Decoded pictures by slot, with the triplet buffer over their labels."""

    def __init__(
        self, dataset: Dataset, taxonomy: Taxonomy, preprocess: Preprocess, *, capacity: int, seed: int
    ) -> None:
        """Fill the pool from tars.

        Args:
            dataset: this worker's share.
            taxonomy: labels that it does not know are counted and left out.
            preprocess: how pictures are read.
            capacity: most pictures held: 3 x image_size² bytes each.
            seed: of the triplet draws and of the stream's shuffle.

        Raises:
            InvalidInput: if the tars hold no labelled training picture.
        """
        self.taxonomy = taxonomy
        self.preprocess = preprocess
        self.seed = seed
        self.num_bad = 0
        self.unknown_labels: Counter[str] = Counter()
        self.buffer = TripletBuffer(taxonomy, seed=seed)
        self._pixels: list[Tensor] = []
        self._labels: list[Labels] = []
        self._num_replaced = 0
        first = _labelled(dataset.samples(), self)
        for pixels, labels in first:
            self.buffer.add(len(self._pixels), labels)
            self._pixels.append(pixels)
            self._labels.append(labels)
            if len(self._pixels) == capacity:
                break
        if not self._pixels:
            raise InvalidInput(
                f"{len(dataset.urls)} shards: expected pictures of role train labelled with "
                f"{', '.join(taxonomy.names)}, found none; do the source's labels use these names?"
            )
        # A pool that was not filled holds the whole share: nothing ever needs to flow.
        self._fresh = self._endless(dataset) if len(self._pixels) == capacity else None

    def __len__(self) -> int:
        """Return the number of pictures held."""
        return len(self._pixels)

    def draw(self, num_triplets: int) -> Triplets:
        """Draw triplets of slots after the paper's law."""
        return self.buffer.draw(num_triplets)

    def pixels(self, slots: np.ndarray) -> Tensor:
        """Return pictures by slot: [B, 3, S, S] uint8."""
        return torch.stack([self._pixels[int(slot)] for slot in slots])

    def labels(self, slots: np.ndarray) -> list[Labels]:
        """Return labels by slot: attribute index -> value indices."""
        return [self._labels[int(slot)] for slot in slots]

    def refresh(self, num_pictures: int) -> None:
        """Replace the oldest pictures by the next ones of the stream; nothing where all are held."""
        if self._fresh is None:
            return
        for _ in range(num_pictures):
            pixels, labels = next(self._fresh)
            slot = self._num_replaced % len(self._pixels)
            self.buffer.remove(slot)
            self.buffer.add(slot, labels)
            self._pixels[slot], self._labels[slot] = pixels, labels
            self._num_replaced += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly here."""
        return {"buffer": self.buffer.state_dict(), "num_replaced": self._num_replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring a new pool over the same tars to where another one was."""
        self.refresh(state["num_replaced"] - self._num_replaced)
        self.buffer.load_state_dict(state["buffer"])

    def _endless(self, dataset: Dataset) -> Iterator[tuple[Tensor, Labels]]:
        for epoch in count():
            order = np.random.default_rng((self.seed, epoch)).permutation(len(dataset.urls))
            shuffled = dataset.share([dataset.urls[i] for i in order])
            yield from _labelled(shuffled.samples(shuffle=SHUFFLE_SAMPLES, seed=self.seed + epoch), self)


def _labelled(stream: Iterator[Any], pool: SamplePool) -> Iterator[tuple[Tensor, Labels]]:
    """Decode the training samples that carry a known label; count what is left out."""
    for sample in stream:
        if sample.role != "train":
            continue
        labels = label_indices(sample.labels, pool.taxonomy, pool.unknown_labels)
        if not labels:
            continue
        try:
            yield read_pixels(sample.encoded, pool.preprocess), labels
        except BadSample:
            pool.num_bad += 1


def label_indices(labels: Mapping[str, Sequence[str]], taxonomy: Taxonomy, unknown: Counter[str]) -> Labels:
    """Translate names to indices; what the taxonomy does not know is counted in `unknown`."""
    found: Labels = {}
    names = taxonomy.names
    for attribute, values in labels.items():
        known = taxonomy.attributes[names.index(attribute)].values if attribute in names else ()
        for value in values:
            if value in known:
                found.setdefault(names.index(attribute), []).append(known.index(value))
            else:
                unknown[f"{attribute}={value}"] += 1
    return found
