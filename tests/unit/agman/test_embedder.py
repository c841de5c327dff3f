import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import ResNet

from agman.embedder import Embedder, native_dtype
from agman.errors import InvalidInput
from agman.folding import _fold_batch_norms
from agman.fusing import FusedBlock, fuse_blocks
from agman.model import AGMAN, ModelConfig
from agman.trainer import Trainer, TrainerConfig, TrainingBatch, TrainingStep

from .conftest import pictures, plainly


@pytest.mark.parametrize("size", [(64, 64), (97, 130), (33, 224), (32, 32)])
@pytest.mark.parametrize("w1", [1.3, -0.8])
def test_float32_equals_the_plain_network(small_model: AGMAN, size: tuple[int, int], w1: float) -> None:
    small_model.w1.data.fill_(w1)
    images = pictures(3, 3, *size)
    expected_embedding, expected_attention = plainly(small_model, images)
    found = Embedder(small_model, torch.float32).embed_with_attention(images)
    assert found.embedding.dtype == torch.float32
    torch.testing.assert_close(found.embedding, expected_embedding, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.attention, expected_attention, atol=1e-5, rtol=0)


@pytest.mark.parametrize("w1", [1.1, -1.1])
def test_bfloat16_keeps_the_direction(small_model: AGMAN, w1: float) -> None:
    small_model.w1.data.fill_(w1)
    images = pictures(4, 3, 97, 130)
    found = Embedder(small_model, torch.bfloat16).embed(images)
    assert found.dtype == torch.float32
    assert (found * plainly(small_model, images)[0]).sum(-1).min() > 0.999
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4, 3))


def test_resnet50_equals_the_golden_values(
    golden_model: AGMAN, golden_input: torch.Tensor, golden_arrays: dict[str, object]
) -> None:
    found = Embedder(golden_model, torch.float32).embed_with_attention(golden_input)
    # Two float32 roundings of a 50-layer random network: the authors' code differs from ours by 8e-6 itself.
    torch.testing.assert_close(
        found.embedding, torch.from_numpy(golden_arrays["embedding"]), atol=2e-5, rtol=0
    )
    torch.testing.assert_close(
        found.attention, torch.from_numpy(golden_arrays["attention"]), atol=1e-5, rtol=0
    )


@pytest.mark.skipif(native_dtype(torch.device("cpu")) != torch.bfloat16, reason="bfloat16 is emulated here")
@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_fused_blocks_round_less_than_plain_ones(make: Callable[[], ResNet]) -> None:
    torch.manual_seed(0)
    layer = make().layer2.double().eval()
    _fold_batch_norms(layer)
    images = torch.randn(2, layer[0].conv1.in_channels, 20, 28)

    def distance(network: nn.Module) -> float:
        narrow = network.to(torch.bfloat16, memory_format=torch.channels_last)
        with torch.inference_mode():
            found = narrow(images.to(torch.bfloat16, memory_format=torch.channels_last))
            assert narrow(images[:0].to(torch.bfloat16)).shape[0] == 0
        return (found.double() - exact).norm().item()

    with torch.inference_mode():
        exact = layer(images.double())
    fused = copy.deepcopy(layer)
    fuse_blocks(fused)
    assert all(isinstance(block, FusedBlock) for block in fused)
    assert distance(fused) < distance(layer)
    assert exact.norm() > 50 * distance(fused)


def test_resnet50_in_bfloat16(golden_model: AGMAN, golden_input: torch.Tensor) -> None:
    exact = Embedder(golden_model, torch.float32).embed(golden_input)
    cosine = (Embedder(golden_model, torch.bfloat16).embed(golden_input) * exact).sum(-1)
    # The golden weights are random and their attention is sharp, which is bfloat16's worst case.
    assert cosine.min() > 0.998
    assert cosine.mean() > 0.9995


def test_model_is_left_alone_and_mode_does_not_matter(small_model: AGMAN) -> None:
    before = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    images = pictures(2, 3, 64, 64)
    expected = Embedder(small_model, torch.float32).embed(images)
    small_model.train()
    found = Embedder(small_model, torch.float32).embed(images)
    assert torch.equal(found, expected)
    assert small_model.training
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.requires_grad for parameter in small_model.parameters())


def test_an_image_does_not_depend_on_its_batch(small_model: AGMAN) -> None:
    embedder, images = Embedder(small_model, torch.float32), pictures(5, 3, 64, 64)
    together = embedder.embed(images)
    alone = torch.cat([embedder.embed(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    assert embedder.embed(images[:0]).shape == (0, 3, 48)


def test_dtype_is_checked_and_chosen(small_model: AGMAN) -> None:
    with pytest.raises(InvalidInput, match="float16"):
        Embedder(small_model, torch.float16)
    assert Embedder(small_model).dtype == native_dtype(torch.device("cpu"))


def test_bfloat16_on_trained_weights() -> None:
    torch.manual_seed(0)
    value = torch.arange(12) % 3
    images = pictures(12, 3, 48, 48) + 2 * functional.one_hot(value, 3).float()[:, :, None, None]
    index = torch.arange(12)
    batch = TrainingBatch(
        images=images,
        image_index=index,
        attribute=torch.zeros(12, dtype=torch.int64),
        targets=torch.tensor([[1.0, 0.0]]).expand(12, 2),
        shown=torch.stack([index, value], dim=1),
    )
    config = TrainerConfig(sampling="batch", lr=1e-3)
    model = AGMAN(ModelConfig(trunk="resnet18", embedding_dim=32), 2)
    trainer = Trainer(TrainingStep(model, config), config, total_steps=12)
    losses = [trainer.step(batch)["triplet"] for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]
    exact = Embedder(model, torch.float32).embed(images)
    cosine = (Embedder(model, torch.bfloat16).embed(images) * exact).sum(-1)
    assert cosine.min() > 0.9995
