"""Pictures of a shard as the model takes them: decoded beside it, or by a task on another machine."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from agman.errors import BadSample
from agman.nvjpeg import read_on_gpu
from agman.transforms import Preprocess, read_pixels
from pipelines.lake import Lake
from pipelines.scheduling import Unit
from pipelines.shards.read import read_pictures
from pipelines.storage.objects import FileEntry

Batch = tuple[Sequence[str], torch.Tensor]
"""sha256 of pictures and their uint8 pixels [B, 3, S, S]."""
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Which pictures of a shard become a part under a model."""

    shard: str
    files: tuple[FileEntry, ...]
    """The shard's tar and index."""
    model: str
    digests: tuple[str, ...]


def read_batch(
    encoded: Sequence[bytes], preprocess: Preprocess, device: torch.device
) -> list[torch.Tensor | BadSample]:
    """Decode files with the model's decoder.

    Args:
        encoded: whole files.
        preprocess: the model's.
        device: where nvJPEG decodes; the other decoder leaves pixels in the host's memory.

    Returns:
        For each file [3, S, S] uint8, or why it is refused.
    """
    if preprocess.decoder == "nvjpeg":
        return read_on_gpu(encoded, preprocess, device)
    found: list[torch.Tensor | BadSample] = []
    for each in encoded:
        try:
            found.append(read_pixels(each, preprocess))
        except BadSample as error:
            found.append(error)
    return found


@dataclass(slots=True)
class Decoding:
    """Reads and decodes while its batches are taken."""

    lake: Lake
    plan: PartPlan
    preprocess: Preprocess
    device: torch.device
    refused: list[dict[str, str]] = field(default_factory=list)
    """Pictures that cannot be decoded: sha256, kind, message. Complete after the last batch, as `seconds`."""
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "decode": 0.0})

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the pictures that can be decoded, in the plan's order, `size` a batch but for the last."""
        digests: list[str] = []
        pixels: list[torch.Tensor] = []
        pictures = read_pictures(self.lake, self.plan.files, self.plan.digests)
        while read := self._read(pictures, size):
            self._decode(read, digests, pixels)
            if len(pixels) >= size:
                yield digests[:size], torch.stack(pixels[:size])
                digests, pixels = digests[size:], pixels[size:]
        if pixels:
            yield digests, torch.stack(pixels)

    def _read(self, pictures: Iterator[tuple[str, bytes]], size: int) -> list[tuple[str, bytes]]:
        started = time.perf_counter()
        read = list(islice(pictures, size))
        self.seconds["read"] += time.perf_counter() - started
        return read

    def _decode(
        self, read: Sequence[tuple[str, bytes]], digests: list[str], pixels: list[torch.Tensor]
    ) -> None:
        """Append what can be decoded to `digests` and `pixels`, the rest to `refused`."""
        started = time.perf_counter()
        found = read_batch([encoded for _, encoded in read], self.preprocess, self.device)
        for (digest, _), picture in zip(read, found, strict=True):
            if isinstance(picture, BadSample):
                self.refused.append({"sha256": digest, "kind": picture.kind, "message": picture.message})
            else:
                digests.append(digest)
                pixels.append(picture)
        self.seconds["decode"] += time.perf_counter() - started


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
    decoding = Decoding(lake, plan, preprocess, torch.device("cpu"))
    side = preprocess.image_size
    pixels = np.empty((len(plan.digests), 3, side, side), np.uint8)
    digests: list[str] = []
    for batch, found in decoding.batches(_AT_ONCE):
        pixels[len(digests) : len(digests) + len(batch)] = found.numpy()
        digests.extend(batch)
    return Decoded(tuple(digests), pixels[: len(digests)], decoding.refused, decoding.seconds)
