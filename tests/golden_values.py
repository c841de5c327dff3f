"""The golden values of the authors' code: weights by the rule of their README, input, results."""

import zlib
from pathlib import Path

import numpy as np
import torch

from agman.model import AGMAN, ModelConfig, Network
from agman.taxonomy import FASHIONAI

GOLDEN = Path(__file__).parent / "unit" / "agman" / "golden" / "agman_golden_8.npz"
GOLDEN_ATTRIBUTES = FASHIONAI.names
"""Names for its 8 attributes, in order; the file has none of its own."""


def golden_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The golden README's rule for the tensor of a name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    noise = torch.from_numpy(generator.standard_normal(tuple(tensor.shape), dtype=np.float32))
    if name in ("w", "w1", "w2"):
        return 1 + 0.1 * noise
    if name == "masks.weight":
        return tensor + 0.05 * noise
    if name.endswith("num_batches_tracked"):
        return tensor
    if name.endswith((".running_mean", ".bias")):
        return 0.1 * noise
    if name.endswith(".running_var"):
        return 1 + 0.1 * noise.abs()
    if name == "attr_embedding.weight":
        return noise
    if tensor.ndim == 1:
        return 1 + 0.1 * noise
    return noise * (2 / tensor[0].numel()) ** 0.5


def fill(model: Network) -> Network:
    """Seeded weights of trained scale, batch norms far from the identity, in eval mode."""
    model.load_state_dict({name: golden_tensor(name, t) for name, t in model.state_dict().items()})
    return model.eval()


def golden_model() -> AGMAN:
    """ResNet-50, 8 attributes."""
    model = AGMAN(ModelConfig(), 8)
    fill(model)
    return model


def golden_arrays() -> dict[str, np.ndarray]:
    """embedding [2, 8, 512], logits [2, 8], attention [2, 8, 14, 14], input_crc."""
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def golden_input() -> torch.Tensor:
    """[2, 3, 224, 224], fed to the network as it is."""
    generator = np.random.default_rng(zlib.crc32(b"input"))
    return torch.from_numpy(generator.standard_normal((2, 3, 224, 224), dtype=np.float32))
