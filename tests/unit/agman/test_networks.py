from pathlib import Path

import pytest
import torch
from golden_values import fill
from torch import nn

from agman.backbone import TRUNKS
from agman.checkpoint import load_model, save_model
from agman.embedder import Embedder
from agman.errors import InvalidInput
from agman.model import ModelConfig, Network
from agman.networks import build_network
from agman.taxonomy import FASHIONAI, Taxonomy
from agman.trainer import Trainer, TrainerConfig, TrainingBatch, TrainingStep
from agman.transforms import Preprocess

from .conftest import pictures, plainly

BASELINES = {
    "plain": ModelConfig(trunk="resnet18", embedding_dim=24, head="plain"),
    "csn": ModelConfig(trunk="resnet18", embedding_dim=24, head="csn"),
    "without multi-level": ModelConfig(trunk="resnet18", embedding_dim=24, multi_level=False),
    "full": ModelConfig(trunk="resnet18", embedding_dim=24),
}

ROUNDING = 5e-5
"""Of float32 through a hundred layers of random weights, ordered by the processor: 1.1e-5 was seen."""


def settle(network: Network) -> Network:
    """Give batch norms statistics far from the identity, as training does; random weights otherwise."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.7, 1.4, generator=generator)
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()


@pytest.mark.parametrize("trunk", ["resnet101", "convnext_tiny", "efficientnet_v2_s"])
def test_every_kind_of_trunk_is_embedded_as_it_is_trained(trunk: str) -> None:
    torch.manual_seed(0)
    network = settle(build_network(ModelConfig(trunk=trunk, embedding_dim=16), 2))
    images = pictures(2, 3, 64, 80)
    features = network.features(images)
    assert features.level2.shape[2:] == (8, 10)
    assert features.level3.shape[2:] == features.local.shape[2:] == (4, 5)
    assert features.level2.shape[1] == network.backbonenet.level2_width
    assert features.level3.shape[1] == network.backbonenet.level3_width
    assert network.type_logits(features).shape == (2, 2)
    found = Embedder(network, torch.float32).embed_with_attention(images)
    expected_embedding, expected_attention = plainly(network, images)
    torch.testing.assert_close(found.embedding, expected_embedding, atol=ROUNDING, rtol=0)
    torch.testing.assert_close(found.attention, expected_attention, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_embedded_as_they_are_trained(name: str) -> None:
    torch.manual_seed(0)
    network = settle(build_network(BASELINES[name], 3))
    images = pictures(3, 3, 64, 64)
    found = Embedder(network, torch.float32).embed_with_attention(images)
    expected_embedding, expected_attention = plainly(network, images)
    torch.testing.assert_close(found.embedding, expected_embedding, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.attention, expected_attention, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.embedding.norm(dim=2), torch.ones(3, 3))


def test_what_tells_the_baselines_apart() -> None:
    torch.manual_seed(0)
    networks = {name: settle(build_network(config, 3)) for name, config in BASELINES.items()}
    images = pictures(2, 3, 64, 64)
    embedded = {name: Embedder(network, torch.float32).embed(images) for name, network in networks.items()}
    assert torch.equal(embedded["plain"][:, 0], embedded["plain"][:, 2])
    assert not torch.allclose(embedded["csn"][:, 0], embedded["csn"][:, 2], atol=0.1)
    levels = {name: network.features(images) for name, network in networks.items()}
    assert torch.equal(levels["without multi-level"].local, levels["without multi-level"].level3)
    assert not torch.equal(levels["full"].local, levels["full"].level3)


@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("name", BASELINES)
def test_every_trained_weight_of_a_baseline_is_reached(name: str, classification: bool) -> None:
    """A weight without gradient would stall a distributed run."""
    torch.manual_seed(0)
    config = TrainerConfig(sampling="batch", classification=classification)
    module = TrainingStep(build_network(BASELINES[name], 2), config)
    index = torch.arange(4)
    batch = TrainingBatch(
        images=pictures(4, 3, 32, 32),
        image_index=index,
        attribute=index % 2,
        targets=torch.ones(4, 2),
        shown=torch.stack([index, index // 2], dim=1),
    )
    Trainer(module, config, total_steps=1).step(batch)
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None] == []
    assert any(name.startswith("model.backbonenet.fc_embed") for name, _ in trained) == classification


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_kept_like_the_network(name: str, tmp_path: Path) -> None:
    network = fill(build_network(BASELINES[name], 3))
    taxonomy = Taxonomy(FASHIONAI.attributes[:3])
    save_model(network, taxonomy, Preprocess(), tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.model.config == BASELINES[name]
    assert type(loaded.model) is type(network)
    images = pictures(2, 3, 64, 64)
    assert torch.equal(
        Embedder(loaded.model, torch.float32).embed(images), Embedder(network, torch.float32).embed(images)
    )


@pytest.mark.parametrize("name", BASELINES)
def test_the_top_is_run_once_a_step(name: str) -> None:
    """Twice would cost the baselines time that others learn in, and count each batch twice in its norms."""
    torch.manual_seed(0)
    network = build_network(BASELINES[name], 2).train()
    features = network.features(pictures(4, 3, 32, 32))
    index = torch.arange(4)
    network.embed(features, index, index % 2)
    network.type_logits(features)
    assert int(network.backbonenet.layer4[0].bn1.num_batches_tracked) == 1


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInput, match="known: agman, csn, plain"):
        ModelConfig(head="siamese")
    with pytest.raises(InvalidInput, match="at least one attribute"):
        build_network(BASELINES["csn"], 0)
    assert {"resnet101", "convnext_tiny", "efficientnet_v2_s"} <= set(TRUNKS)
