import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from agman.model import AGMAN, ModelConfig, Network

GOLDEN = Path(__file__).parent / "golden" / "agman_golden_8.npz"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # On a busy machine torch's threads wait for each other: a training step took 5 s on two, 0.2 s on one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@torch.inference_mode()
def plainly(model: Network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed pictures one attribute after the other: embeddings [B, A, D] and attention [B, A, H, W]."""
    pairs = [
        model(images, torch.full((images.shape[0],), attribute)) for attribute in range(model.num_attributes)
    ]
    return torch.stack([p.embedding for p in pairs], 1), torch.stack([p.attention for p in pairs], 1)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="session")
def golden_arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_input() -> torch.Tensor:
    generator = np.random.default_rng(zlib.crc32(b"input"))
    return torch.from_numpy(generator.standard_normal((2, 3, 224, 224), dtype=np.float32))


@pytest.fixture(scope="session")
def golden_model() -> AGMAN:
    """ResNet-50, 8 attributes; shared, so tests must not change it."""
    return fill(AGMAN(ModelConfig(), 8))


@pytest.fixture
def small_model() -> AGMAN:
    """ResNet-18, 3 attributes, 48 dimensions."""
    return fill(AGMAN(ModelConfig(trunk="resnet18", embedding_dim=48), 3))
