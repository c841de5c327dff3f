from collections.abc import Iterator

import golden_values
import numpy as np
import pytest
import torch
from golden_values import fill

from agman.model import AGMAN, ModelConfig, Network


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # On a busy machine torch's threads wait for each other: a training step took 5 s on two, 0.2 s on one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    return golden_values.golden_arrays()


@pytest.fixture(scope="session")
def golden_input() -> torch.Tensor:
    return golden_values.golden_input()


@pytest.fixture(scope="session")
def golden_model() -> AGMAN:
    """ResNet-50, 8 attributes; shared, so tests must not change it."""
    return golden_values.golden_model()


@pytest.fixture
def small_model() -> AGMAN:
    """ResNet-18, 3 attributes, 48 dimensions."""
    return fill(AGMAN(ModelConfig(trunk="resnet18", embedding_dim=48), 3))
