"""A share of the training pictures in memory: streamed from tars, indexed for drawing triplets.

The pool holds at most `capacity` decoded pictures. While the share fits, it is read once and the draw is the
paper's sampler exactly; a larger share flows through, one fresh picture for each triplet drawn. A picture is
held once, with all that its training uses show: twice, it would be its own positive. Pictures are decoded
before their turn, in threads beside the one that learns.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from webdataset.filters import shuffle

from agman.errors import BadSample, CheckpointMismatch, InvalidInput
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess, read_pixels
from agman.triplets import TripletBuffer, Triplets
from pipelines.labels import Labels
from pipelines.shards.read import Sample
from pipelines.training.pictures import Share

SHUFFLE_SAMPLES = 1000
DECODED_AHEAD = 64
"""Pictures: more than the usual step takes, so that the next one's are ready when it begins."""


class SamplePool:
    """Decoded pictures by slot, with the triplet buffer over their labels."""

    def __init__(
        self,
        share: Share,
        taxonomy: Taxonomy,
        preprocess: Preprocess,
        *,
        capacity: int,
        seed: int,
        threads: int = 1,
    ) -> None:
        """Fill the pool from tars.

        Args:
            share: which pictures.
            taxonomy: what their labels are indices of.
            preprocess: how pictures are read.
            capacity: most pictures held: 3 x image_size² bytes each.
            seed: of the triplet draws and of the stream's shuffle.
            threads: that decode.

        Raises:
            InvalidInput: if there is no picture to hold.
        """
        self._share = share
        self._preprocess = preprocess
        self._seed = seed
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._bad: set[str] = set()
        self._buffer = TripletBuffer(taxonomy, seed=seed)
        self._digests: list[str] = []
        self._pixels: list[Tensor] = []
        self._labels: list[Labels] = []
        self._held: set[str] = set()
        # A pool that holds the whole share never needs to flow.
        self._flows = False
        for sample, labels, decoded in self._decoded(share.stream()):
            pixels = self._fresh_pixels(sample, decoded)
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
                f"{len(share)} pictures of a worker in {len(share.urls)} shards: expected one that can be "
                "decoded, found none; lower --num-workers where there are fewer pictures than workers"
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
        """Tell what is left out: values that no triplet has, broken pictures."""
        said = [
            f"left out of the draws: {value.attribute}={value.value}: {value.reason} ({value.count} pictures)"
            for value in self._buffer.unusable()
            if value.count
        ]
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
        for sample, _ in self._share.stream():
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
        urls = self._share.urls
        for epoch in count(self._epoch):
            order = np.random.default_rng((self._seed, epoch)).permutation(len(urls))
            mixed = shuffle(SHUFFLE_SAMPLES, initial=SHUFFLE_SAMPLES, seed=self._seed + epoch)
            stream = mixed(self._share.stream([urls[i] for i in order]))
            already = self._num_read if epoch == self._epoch else 0
            self._epoch, self._num_read = epoch, already
            for sample, labels, decoded in self._decoded(islice(stream, already, None)):
                self._num_read += 1
                pixels = self._fresh_pixels(sample, decoded)
                if pixels is not None:
                    yield sample.sha256, pixels, labels

    def _decoded(
        self, stream: Iterable[tuple[Sample, Labels]]
    ) -> Iterator[tuple[Sample, Labels, "Future[Tensor] | None"]]:
        """Give a stream in its order, some pictures late: those between are being decoded.

        One that is held now is left for its turn, when it may not be held any more.
        """
        waiting: deque[tuple[Sample, Labels, Future[Tensor] | None]] = deque()
        for sample, labels in stream:
            is_held = sample.sha256 in self._held
            decoded = None if is_held else self._threads.submit(read_pixels, sample.encoded, self._preprocess)
            waiting.append((sample, labels, decoded))
            if len(waiting) > DECODED_AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _fresh_pixels(self, sample: Sample, decoded: "Future[Tensor] | None") -> Tensor | None:
        """Return a picture's pixels; None where it is held already or cannot be decoded."""
        if sample.sha256 in self._held:
            return None
        try:
            return decoded.result() if decoded else read_pixels(sample.encoded, self._preprocess)
        except BadSample:
            self._bad.add(sample.sha256)
            return None
