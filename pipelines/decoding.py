"""Pictures of a shard as the model takes them: decoded beside it, or by a task on another machine."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from agman.errors import BadSample
from agman.transforms import Preprocess, read_pixels
from pipelines.lake import Lake
from pipelines.parts import read_digests
from pipelines.scheduling import Unit
from pipelines.shards.read import read_pictures
from pipelines.storage.objects import FileEntry

Batch = tuple[Sequence[str], torch.Tensor]
"""sha256 of pictures and their uint8 pixels [B, 3, S, S]."""


@dataclass(frozen=True, slots=True)
class Extended:
    """A part that is there and gets files of further attributes: its rows stay as they are."""

    part: str
    attributes: tuple[str, ...]
    """Those that it lacks."""
    rows: FileEntry
    """One of its files, which tells the picture of each row."""
    elsewhere: tuple[tuple[tuple[FileEntry, ...], tuple[str, ...]], ...] = ()
    """Tar and index of other shards, and the pictures that are read from there."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Which pictures of a shard become a part under a model."""

    shard: str
    files: tuple[FileEntry, ...]
    """The shard's tar and index."""
    model: str
    digests: tuple[str, ...]
    """Empty where a part is extended: its own file tells."""
    extended: Extended | None = None

    def sources(self, lake: Lake) -> Iterator[tuple[tuple[FileEntry, ...], Sequence[str]]]:
        """Yield tar and index of a shard with the pictures that are read from there."""
        if self.extended is None:
            yield self.files, self.digests
            return
        yield from self.extended.elsewhere
        known = {digest for _, digests in self.extended.elsewhere for digest in digests}
        with lake.checked(self.extended.rows) as path:
            own = [digest for digest in read_digests(path) if digest not in known]
        if own:
            yield self.files, own


@dataclass(slots=True)
class Decoding:
    """Reads and decodes while its batches are taken."""

    lake: Lake
    plan: PartPlan
    preprocess: Preprocess
    refused: list[dict[str, str]] = field(default_factory=list)
    """Pictures that cannot be decoded: sha256, kind, message. Complete after the last batch, as `seconds`."""
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "decode": 0.0})

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the pictures that can be decoded, in the plan's order, `size` a batch but for the last."""
        digests: list[str] = []
        pixels: list[torch.Tensor] = []
        for digest, found in self._pictures():
            digests.append(digest)
            pixels.append(found)
            if len(pixels) == size:
                yield digests, torch.stack(pixels)
                digests, pixels = [], []
        if pixels:
            yield digests, torch.stack(pixels)

    def _pictures(self) -> Iterator[tuple[str, torch.Tensor]]:
        started = time.perf_counter()
        for digest, encoded in self._encoded():
            self.seconds["read"] += time.perf_counter() - started
            started = time.perf_counter()
            try:
                found = read_pixels(encoded, self.preprocess)
            except BadSample as error:
                found = None
                self.refused.append({"sha256": digest, "kind": error.kind, "message": error.message})
            self.seconds["decode"] += time.perf_counter() - started
            if found is not None:
                yield digest, found
            started = time.perf_counter()

    def _encoded(self) -> Iterator[tuple[str, bytes]]:
        for files, digests in self.plan.sources(self.lake):
            yield from read_pictures(self.lake, files, digests)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A shard's pictures, ready for the model; travels through Ray's object store."""

    digests: tuple[str, ...]
    pixels: np.ndarray
    """uint8 [N, 3, S, S], read by the worker where it lies in shared memory."""
    refused: list[dict[str, str]]
    seconds: dict[str, float]

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield what `Decoding.batches` yields."""
        for start in range(0, len(self.digests), size):
            # Copied, since shared memory cannot be written and PyTorch warns of that.
            pixels = torch.from_numpy(self.pixels[start : start + size].copy())
            yield self.digests[start : start + size], pixels


def decode_unit(lake: Lake, unit: Unit, preprocess: Preprocess) -> Decoded:
    """Read and decode all pictures of a unit whose payload is a `PartPlan`.

    Raises:
        CorruptShard: as `read_pictures`.
    """
    plan: PartPlan = unit.payload
    decoding = Decoding(lake, plan, preprocess)
    side = preprocess.image_size
    pixels = np.empty((unit.num_images, 3, side, side), np.uint8)
    digests: list[str] = []
    for batch, found in decoding.batches(1):
        pixels[len(digests)] = found[0].numpy()
        digests.extend(batch)
    return Decoded(tuple(digests), pixels[: len(digests)], decoding.refused, decoding.seconds)
