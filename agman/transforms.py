"""Pixels for the network: one reading rule, normalisation, and augmentation for training."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from agman.errors import InvalidInput
from agman.images import MAX_PIXELS, OVERSAMPLING, ImageHeader, decode_square, probe, shrink

__all__ = [
    "MAX_PIXELS", "Augmentation", "ImageHeader", "Preprocess", "augment", "normalise", "probe", "read_pixels",
]  # fmt: skip

READING_RULE = 1
"""Number of the rule in agman.images; raise it when a decoded pixel may change, and every digest changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """How an image becomes the network's input; part of a model's identity."""

    image_size: int = 224
    """Side of the centre square, pixels, after the short side was resized to it."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from red, green, blue in [0, 1]; ImageNet's by default."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides after the mean; ImageNet's by default."""
    oversampling: float = OVERSAMPLING
    """A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size while so many times `image_size` are left. 1 is
    nearly twice as fast for pictures of twice `image_size`. A model keeps what it was trained with."""
    packed_side: int = 0
    """Short side in pixels to which the shards' larger pictures were scaled down before packing; others are
    scaled like them when read. 0: packed as they came. Training takes it from --shards.resize."""
    decoder: Literal["pillow", "nvjpeg"] = "pillow"
    """`nvjpeg`: nights of this model decode JPEGs on the GPU and need one; training and queries decode
    like `pillow`, from which that differs by less than half a level in the mean."""

    def __post_init__(self) -> None:
        """Refuse sizes the trunk cannot halve five times and deviations that are not positive."""
        if self.packed_side and self.packed_side < self.image_size:
            raise InvalidInput(
                f"packed_side must be 0 or at least image_size, {self.image_size} pixels, found "
                f"{self.packed_side}: a smaller --shards.resize leaves the network less than it looks at"
            )
        if self.image_size < 32:
            raise InvalidInput(f"image_size must be at least 32 pixels, found {self.image_size}")
        if not 1 <= self.oversampling < math.inf:
            raise InvalidInput(f"oversampling must be 1 or more, found {self.oversampling}")
        if self.decoder not in ("pillow", "nvjpeg"):
            raise InvalidInput(f"decoder must be pillow or nvjpeg, found {self.decoder}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InvalidInput(f"mean and std need 3 numbers, std above 0; found {self.mean}, {self.std}")

    @property
    def digest(self) -> str:
        """The sha256 in hex of the settings and the number of the reading rule."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that `from_json` reads back."""
        described: dict[str, Any] = {
            "image_size": self.image_size,
            "mean": [float(level) for level in self.mean],
            "std": [float(level) for level in self.std],
            "reading_rule": READING_RULE,
        }
        # Left out where nothing was chosen: models of before there was a choice keep their digests.
        if self.oversampling != OVERSAMPLING:
            described["oversampling"] = float(self.oversampling)
        if self.packed_side:
            described["packed_side"] = self.packed_side
        if self.decoder != "pillow":
            described["decoder"] = self.decoder
        return described

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Preprocess":
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: if a part is missing or malformed, or another reading rule was in force.
        """
        if document.get("reading_rule", READING_RULE) != READING_RULE:
            found = document["reading_rule"]
            raise InvalidInput(f"made with reading rule {found}; this code reads by rule {READING_RULE}")
        try:
            red, green, blue = (float(level) for level in document["mean"])
            stds = tuple(float(level) for level in document["std"])
            return cls(
                image_size=int(document["image_size"]),
                mean=(red, green, blue),
                std=(stds[0], stds[1], stds[2]),
                oversampling=float(document.get("oversampling", OVERSAMPLING)),
                packed_side=int(document.get("packed_side", 0)),
                decoder=document.get("decoder", "pillow"),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InvalidInput(f"preprocess needs image_size, mean and std; {error!r}") from error


def read_pixels(encoded: bytes, preprocess: Preprocess, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image file to the network's square.

    Args:
        encoded: the whole file.
        preprocess: gives the side S, and how small pictures are packed: a larger one is first scaled as
            packing does it, so that a query goes through what the catalog's pictures went through.
        max_pixels: largest width x height accepted; judged before decoding.

    Returns:
        [3, S, S] uint8.

    Raises:
        BadSample: where the image must be refused; `kind` says why.
    """
    if preprocess.packed_side:
        encoded = shrink(encoded, preprocess.packed_side, max_pixels=max_pixels) or encoded
    square = decode_square(
        encoded, preprocess.image_size, max_pixels=max_pixels, oversampling=preprocess.oversampling
    )
    return torch.from_numpy(square).permute(2, 0, 1).contiguous()


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Scale pixels to the network's input, on whatever device they are.

    Args:
        pixels: [B, 3, H, W] uint8.
        preprocess: gives mean and std.

    Returns:
        [B, 3, H, W] float32.
    """
    mean, std = _statistics(preprocess, pixels.device)
    return pixels.float().div_(255.0).sub_(mean).div_(std)


@lru_cache
def _statistics(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation, [1, 3, 1, 1]; made once: a CUDA graph takes nothing from the host."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(levels, device=device) for levels in (preprocess.mean, preprocess.std))
        return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random changes during training; the published recipe flips and nothing else."""

    flip: bool = True
    """Mirror left and right with probability one half."""
    max_shift: float = 0.0
    """Largest shift along each axis, as a share of the side; 0 turns it off."""
    max_zoom: float = 0.0
    """Scale drawn from [1 - max_zoom, 1 + max_zoom]; 0 turns it off."""
    max_colour: float = 0.0
    """Brightness and contrast each multiplied by a draw from [1 - max_colour, 1 + max_colour]."""

    def __post_init__(self) -> None:
        """Refuse amounts outside [0, 1)."""
        for name in ("max_shift", "max_zoom", "max_colour"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InvalidInput(f"{name} must lie in [0, 1), found {getattr(self, name)}")


def augment(pixels: Tensor, generator: torch.Generator, policy: Augmentation | None = None) -> Tensor:
    """Change each image of a batch at random.

    Args:
        pixels: [B, 3, H, W] uint8.
        generator: a CPU generator; all draws come from it, so a batch is reproducible on any device.
        policy: what may change; the published flip if left out.

    Returns:
        [B, 3, H, W] uint8, a new tensor.
    """
    policy = policy or Augmentation()
    num_images = pixels.shape[0]
    if policy.flip:
        mirrored = (torch.rand(num_images, generator=generator) < 0.5).to(pixels.device)
        pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if not (policy.max_shift or policy.max_zoom or policy.max_colour):
        return pixels.clone()
    draws = torch.rand(num_images, 5, generator=generator).mul_(2).sub_(1).to(pixels.device)
    levels = pixels.float()
    if policy.max_shift or policy.max_zoom:
        levels = _move(levels, 2 * policy.max_shift * draws[:, :2], 1 + policy.max_zoom * draws[:, 2])
    if policy.max_colour:
        levels = _recolour(levels, 1 + policy.max_colour * draws[:, 3], 1 + policy.max_colour * draws[:, 4])
    return levels.round_().clamp_(0, 255).to(torch.uint8)


def _move(levels: Tensor, shift: Tensor, zoom: Tensor) -> Tensor:
    """Shift [B, 2] (in half sides) and zoom [B]; places outside repeat the border."""
    matrix = torch.zeros(levels.shape[0], 2, 3, device=levels.device)
    matrix[:, 0, 0] = 1 / zoom
    matrix[:, 1, 1] = 1 / zoom
    matrix[:, :, 2] = shift
    grid = functional.affine_grid(matrix, list(levels.shape), align_corners=False)
    return functional.grid_sample(levels, grid, padding_mode="border", align_corners=False)


def _recolour(levels: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Scale contrast [B] about each image's mean level, then brightness [B]."""
    centre = levels.mean(dim=(1, 2, 3), keepdim=True)
    return ((levels - centre) * contrast.view(-1, 1, 1, 1) + centre) * brightness.view(-1, 1, 1, 1)
