"""How far ways to decode less move embeddings: cosines of garments drawn here, with one model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from agman.checkpoint import load_model
from agman.embedder import Embedder
from agman.images import shrink
from agman.model import ModelConfig, Network
from agman.taxonomy import FASHIONAI
from agman.transforms import Preprocess, normalise, read_pixels
from benchmarks.random_model import random_network
from pipelines.sources import drawing

DRAWN_SIDE = 640
"""Of the drawn pictures, pixels: larger than what is packed."""


def cosines(folder: Path | None, trunk: str, num_images: int, side: int) -> dict[str, float]:
    """Compare the embeddings of pictures as they came with those of the same by each shortcut.

    Packed smaller (`--shards.resize`), or decoded by a JPEG's own scale down to the network's side
    (`--preprocess.oversampling 1`).

    Args:
        folder: of a model that was trained on pictures as they came; None: random weights.
        trunk: of the random model, torchvision's name.
        num_images: garments to draw.
        side: in pixels, what they are packed with.

    Returns:
        The lowest and the mean cosine of a picture's two embeddings under an attribute, by shortcut, and, to
        measure these by, the mean cosine of different pictures.
    """
    pictures = [
        bytes(drawing.draw_jpeg(f"style-{number:06d}", 0, revision=0, size=DRAWN_SIDE))
        for number in range(num_images)
    ]
    network, preprocess = _model(folder, trunk, pictures)
    smaller = [shrink(encoded, side) or encoded for encoded in pictures]
    embedder = Embedder(network, dtype=torch.float32)
    plain = embedder.embed(_inputs(pictures, preprocess))
    moved = {
        "resize": embedder.embed(_inputs(smaller, preprocess)),
        "oversampling_1": embedder.embed(_inputs(pictures, replace(preprocess, oversampling=1.0))),
    }
    own = {name: (plain * each).sum(-1) for name, each in moved.items()}
    others = torch.einsum("iad,jad->aij", plain, plain)[:, ~torch.eye(num_images, dtype=torch.bool)]
    return {
        **{f"min_cosine_{name}": cosine.min().item() for name, cosine in own.items()},
        **{f"mean_cosine_{name}": cosine.mean().item() for name, cosine in own.items()},
        "mean_cosine_of_others": others.mean().item(),
    }


def _model(folder: Path | None, trunk: str, pictures: Sequence[bytes]) -> tuple[Network, Preprocess]:
    """Return the model that is given, or a random one whose batch norms have seen the pictures."""
    if folder is not None:
        loaded = load_model(folder)
        return loaded.model, loaded.preprocess
    preprocess = Preprocess()
    config = ModelConfig(trunk=trunk)
    return random_network(config, len(FASHIONAI), _inputs(pictures, preprocess)), preprocess


def _inputs(pictures: Sequence[bytes], preprocess: Preprocess) -> torch.Tensor:
    return normalise(torch.stack([read_pixels(encoded, preprocess) for encoded in pictures]), preprocess)
