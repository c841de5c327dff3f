"""A worker's share of the training pictures in memory: streamed from tars, indexed for drawing triplets.

The pool holds at most `capacity` decoded pictures. While the share fits, it is read once and the draw is the
paper's sampler exactly; a larger share flows through, one fresh picture for each triplet drawn. A picture is
held once, with all that its training uses show: twice, it would be its own positive.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agman.errors import BadSample, CheckpointMismatch, InvalidInput
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess, read_pixels
from agman.triplets import TripletBuffer, Triplets
from pipelines.dataset import Dataset
from pipelines.labels import Labels, taught_labels
from pipelines.shards.read import Sample

SHUFFLE_SAMPLES = 1000


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
        self._dataset = dataset
        self._taxonomy = taxonomy
        self._preprocess = preprocess
        self._seed = seed
        self._bad: set[str] = set()
        self._unknown: Counter[str] = Counter()
        self._buffer = TripletBuffer(taxonomy, seed=seed)
        self._digests: list[str] = []
        self._pixels: list[Tensor] = []
        self._labels: list[Labels] = []
        self._held: set[str] = set()
        # A pool that holds the whole share never needs to flow.
        self._flows = False
        for sample, labels in self._labelled(dataset.pictures(), self._unknown):
            pixels = None if sample.sha256 in self._held else self._read(sample)
            if pixels is None:
                continue
            if len(self._pixels) == capacity:
                self._flows = True
                break
            self._buffer.add(len(self._pixels), labels)
            self._digests.append(sample.sha256)
            self._pixels.append(pixels)
            self._labels.append(labels)
            self._held.add(sample.sha256)
        if not self._pixels:
            raise InvalidInput(
                f"{len(dataset.urls)} shards: expected pictures of role train labelled with "
                f"{', '.join(taxonomy.names)}, found none; do the source's labels use these names?"
            )
        self._num_replaced = self._epoch = self._num_read = 0
        self._fresh = self._endless()

    def __len__(self) -> int:
        """Return the number of pictures held."""
        return len(self._pixels)

    def draw(self, num_triplets: int) -> Triplets:
        """Draw triplets of slots after the paper's law."""
        return self._buffer.draw(num_triplets)

    def pixels(self, slots: np.ndarray) -> Tensor:
        """Return pictures by slot: [B, 3, S, S] uint8."""
        return torch.stack([self._pixels[int(slot)] for slot in slots])

    def labels(self, slots: np.ndarray) -> list[Labels]:
        """Return labels by slot: attribute index -> value indices."""
        return [self._labels[int(slot)] for slot in slots]

    def refresh(self, num_pictures: int) -> None:
        """Replace the oldest pictures by the next ones of the stream; nothing where all are held."""
        for digest, pixels, labels in islice(self._fresh, num_pictures if self._flows else 0):
            slot = self._num_replaced % len(self)
            self._held.remove(self._digests[slot])
            self._held.add(digest)
            self._put(slot, digest, pixels, labels)
            self._num_replaced += 1

    def notes(self) -> list[str]:
        """Tell what is left out: values that no triplet has, unknown labels, broken pictures."""
        said = [
            f"left out of the draws: {value.attribute}={value.value}: {value.reason} ({value.count} pictures)"
            for value in self._buffer.unusable()
            if value.count
        ]
        if self._unknown:
            shown = ", ".join(f"{name} ({count})" for name, count in self._unknown.most_common(5))
            said.append(f"labels that the taxonomy does not know, left out: {shown}")
        if self._bad:
            said.append(f"pictures that cannot be decoded, left out: {len(self._bad)}")
        return said

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly here; plain values and tensors."""
        return {
            "buffer": self._buffer.state_dict(),
            "flow": {
                "digests": list(self._digests),
                "labels": [sorted(labels.items()) for labels in self._labels],
                "num_replaced": self._num_replaced,
                "epoch": self._epoch,
                "num_read": self._num_read,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring a new pool over the same tars to where another one was.

        It costs two passes over the tars at most, however long the other one had flowed.

        Raises:
            CheckpointMismatch: if the tars lack a picture that the other pool held.
        """
        flow = state["flow"]
        if flow["num_replaced"] != self._num_replaced:
            pixels = self._find(set(flow["digests"]))
            for slot, (digest, labels) in enumerate(zip(flow["digests"], flow["labels"], strict=True)):
                self._put(slot, digest, pixels[digest], dict(labels))
            self._held = set(self._digests)
            self._num_replaced, self._epoch, self._num_read = (
                flow[name] for name in ("num_replaced", "epoch", "num_read")
            )
            self._fresh = self._endless()
        self._buffer.load_state_dict(state["buffer"])

    def _put(self, slot: int, digest: str, pixels: Tensor, labels: Labels) -> None:
        self._buffer.remove(slot)
        self._buffer.add(slot, labels)
        self._digests[slot], self._pixels[slot], self._labels[slot] = digest, pixels, labels

    def _find(self, digests: set[str]) -> dict[str, Tensor]:
        """Read pictures by their digests, in one pass over the tars."""
        found: dict[str, Tensor] = {}
        for sample in self._dataset.pictures():
            if sample.sha256 in digests and sample.sha256 not in found:
                found[sample.sha256] = read_pixels(sample.encoded, self._preprocess)
                if len(found) == len(digests):
                    return found
        raise CheckpointMismatch(
            f"the training state holds {len(digests)} pictures, the tars have {len(found)} of them; "
            "train anew under another --name"
        )

    def _endless(self) -> Iterator[tuple[str, Tensor, Labels]]:
        """Stream the share over and over, from where the pool is: each epoch in an order of its own.

        What is held when its turn comes is read, not given: the count of what was read tells where to go on.
        """
        urls = self._dataset.urls
        for epoch in count(self._epoch):
            order = np.random.default_rng((self._seed, epoch)).permutation(len(urls))
            shuffled = self._dataset.share([urls[i] for i in order])
            stream = shuffled.pictures(shuffle=SHUFFLE_SAMPLES, seed=self._seed + epoch)
            already = self._num_read if epoch == self._epoch else 0
            self._epoch, self._num_read = epoch, already
            for sample, labels in islice(self._labelled(stream, Counter()), already, None):
                self._num_read += 1
                pixels = None if sample.sha256 in self._held else self._read(sample)
                if pixels is not None:
                    yield sample.sha256, pixels, labels

    def _labelled(self, stream: Iterator[Sample], unknown: Counter[str]) -> Iterator[tuple[Sample, Labels]]:
        """Choose the pictures that teach a known label; count in `unknown` what is left out."""
        for sample in stream:
            labels = taught_labels(self._dataset.described[sample.sha256], self._taxonomy, unknown)
            if labels:
                yield sample, labels

    def _read(self, sample: Sample) -> Tensor | None:
        try:
            return read_pixels(sample.encoded, self._preprocess)
        except BadSample:
            self._bad.add(sample.sha256)
            return None


def training_tars(dataset: Dataset) -> tuple[str, ...]:
    """Return the tars that hold pictures to learn from: a source may list its roles one after the other."""
    listed = dataset.triplets.get("train")
    if listed is not None:
        wanted = set(listed.pictures)
    else:
        wanted = {d for d, uses in dataset.described.items() if any(use.role == "train" for use in uses)}
    holding = {dataset.homes.get(digest) for digest in wanted}
    return tuple(url for url in dataset.urls if url in holding or not dataset.homes)
