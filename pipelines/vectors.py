"""What held-out pictures become, to be judged side by side: under the model, untrained, and as pixels."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from agman.checkpoint import LoadedModel
from agman.embedder import Embedder
from agman.model import ModelConfig, Network
from agman.networks import build_network
from agman.transforms import Preprocess, normalise
from pipelines.held_out import HeldOut, Positions, in_batches, read_held_out
from pipelines.parts import round_to_half
from pipelines.scoring import MODEL

UNTRAINED = "untrained"
PIXELS = "pixels"
BATCH = 32
PIXEL_SIDE = 32
UNTRAINED_SEED = 0


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """Which held-out pictures a shard gave."""

    positions: Positions
    """[N] in `HeldOut.pictures`."""
    unreadable: Counter[str]
    """Pictures that could not be decoded, by kind."""
    said: NDArray[np.int64] | None = None
    """[N, A], what the model says that they show, as in `Predicted.values`; None without prototypes."""


@dataclass(frozen=True, slots=True)
class AttributeBlock:
    """A shard's pictures that are listed under one attribute."""

    rows: Positions
    """[n], places among the N pictures of the shard."""
    vectors: dict[str, NDArray[np.float32]]
    """By `MODEL` and `UNTRAINED`: [n, D]."""


def embed_shard(
    loaded: LoadedModel, start: Network, url: str, wanted: Positions, held_out: HeldOut
) -> tuple[ShardHeader | NDArray[np.uint8] | AttributeBlock, ...]:
    """Embed a shard's held-out pictures with the model, with the same network untrained, and as pixels.

    Args:
        loaded: the model.
        start: the same network `untrained`.
        url: the shard's tar.
        wanted: positions in `held_out.pictures` of those that are read from this tar.
        held_out: decides what is kept of a picture's vectors.

    Returns:
        The header, thumbnails [N, 3072], and a block for each of `held_out.attributes`.
    """
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = {MODEL: loaded.model, UNTRAINED: start}
    embedders = {name: PictureEmbedder(net.to(device), loaded.preprocess) for name, net in networks.items()}
    unreadable: Counter[str] = Counter()
    positions: list[int] = []
    small = [np.zeros((0, 3 * PIXEL_SIDE**2), np.uint8)]
    vectors = {name: [embedder.nothing()] for name, embedder in embedders.items()}
    pictures = read_held_out(url, held_out.pictures, wanted, loaded.preprocess, unreadable)
    for batch, pixels in in_batches(pictures, BATCH):
        positions += batch
        small.append(thumbnails(pixels))
        for name, embedder in embedders.items():
            vectors[name].append(embedder.embed(pixels))
    every = {name: np.concatenate(parts) for name, parts in vectors.items()}
    header = ShardHeader(np.array(positions, np.int64), unreadable, _said(loaded, every[MODEL]))
    return header, np.concatenate(small), *_blocks(held_out, header.positions, every)


def _said(loaded: LoadedModel, vectors: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Return what the model says of vectors [N, A, D] as they would be stored."""
    if loaded.prototypes is None:
        return None
    values: NDArray[np.int64] = loaded.prototypes.predict(
        torch.from_numpy(round_to_half(vectors))
    ).values.numpy()
    return values


def _blocks(
    held_out: HeldOut, positions: Positions, every: dict[str, NDArray[np.float32]]
) -> list[AttributeBlock]:
    """Keep of [N, A, D] vectors what is listed: a picture of FashionAI needs one of its eight."""
    blocks = []
    for attribute in held_out.attributes:
        rows = np.flatnonzero(held_out.under(attribute)[positions])
        blocks.append(AttributeBlock(rows, {name: among[rows, attribute] for name, among in every.items()}))
    return blocks


class PictureEmbedder:
    """A network folded once, to embed decoded pictures batch after batch."""

    def __init__(self, model: Network, preprocess: Preprocess, dtype: torch.dtype | None = None) -> None:
        """Fold a network on its own device; later training does not reach it.

        Args:
            model: any network.
            preprocess: gives mean and std.
            dtype: float32 where the vectors must not depend on what the processor multiplies natively; None
                takes what is fastest.
        """
        self._embedder = Embedder(model, dtype)
        self._preprocess = preprocess
        self._device = next(model.parameters()).device
        self._shape = (model.num_attributes, model.config.embedding_dim)

    def nothing(self) -> NDArray[np.float32]:
        """Return the vectors of no picture: [0, A, D]."""
        return np.zeros((0, *self._shape), np.float32)

    def embed(self, pixels: Tensor) -> NDArray[np.float32]:
        """Embed pictures [N, 3, S, S] uint8 under all attributes: [N, A, D]."""
        vectors = np.empty((len(pixels), *self._shape), np.float32)
        for start in range(0, len(pixels), BATCH):
            batch = pixels[start : start + BATCH].to(self._device)
            embedded = self._embedder.embed(normalise(batch, self._preprocess))
            vectors[start : start + BATCH] = embedded.cpu().numpy()
        return vectors


def untrained(loaded: LoadedModel) -> Network:
    """Return the same network with its first random weights, whatever its training started from."""
    config = loaded.model.config
    start = ModelConfig.from_json(config.to_json())  # leaves out where the trunk's weights came from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        return build_network(start, len(loaded.taxonomy)).eval()


def thumbnails(pixels: Tensor) -> NDArray[np.uint8]:
    """Shrink pictures [N, 3, S, S] uint8 to 32x32: [N, 3072]."""
    small = functional.interpolate(pixels.float(), size=PIXEL_SIDE, mode="area")
    shrunk: NDArray[np.uint8] = small.round().to(torch.uint8).flatten(1).numpy()
    return shrunk


def pixel_vectors(small: NDArray[np.uint8]) -> Tensor:
    """Return unit vectors of pictures' pixels about their mean: [N, 3072] to [N, 3072] float32."""
    levels = torch.from_numpy(small).float()
    levels.sub_(levels.mean(1, keepdim=True))
    return levels.div_(levels.norm(dim=1, keepdim=True).clamp_(min=1e-12))
