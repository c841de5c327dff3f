import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from agman.errors import CheckpointMismatch, InvalidInput
from agman.model import AGMAN, ModelConfig


def all_pairs(num_images: int, num_attributes: int) -> tuple[torch.Tensor, torch.Tensor]:
    image_index = torch.arange(num_images).repeat_interleave(num_attributes)
    return image_index, torch.arange(num_attributes).repeat(num_images)


@torch.inference_mode()
def test_golden_values(
    golden_model: AGMAN, golden_input: torch.Tensor, golden_arrays: dict[str, np.ndarray]
) -> None:
    assert zlib.crc32(golden_input.numpy().tobytes()) == int(golden_arrays["input_crc"])
    features = golden_model.features(golden_input)
    embedding, attention = golden_model.embed(features, *all_pairs(2, 8))
    expected = {name: torch.from_numpy(golden_arrays[name]) for name in ("embedding", "attention", "logits")}
    torch.testing.assert_close(embedding.view(2, 8, 512), expected["embedding"], atol=1e-5, rtol=0)
    torch.testing.assert_close(attention.view(2, 8, 14, 14), expected["attention"], atol=1e-5, rtol=0)
    # The logits of random weights reach 1,363, where one float32 step is 1.2e-4: a relative bound is meant.
    torch.testing.assert_close(golden_model.type_logits(features), expected["logits"], atol=1e-3, rtol=1e-5)


@torch.inference_mode()
def test_forward_equals_features_and_pairs(small_model: AGMAN) -> None:
    images = torch.randn(3, 3, 97, 130, generator=torch.Generator().manual_seed(0))
    attributes = torch.tensor([2, 0, 1])
    output = small_model(images, attributes)
    features = small_model.features(images)
    embedded = small_model.embed(features, *all_pairs(3, 3))
    assert output.embedding.shape == (3, 48)
    assert output.attention.shape == (3, 7, 9)
    picked = embedded.embedding.view(3, 3, 48)[torch.arange(3), attributes]
    torch.testing.assert_close(output.embedding, picked, atol=1e-6, rtol=0)
    torch.testing.assert_close(output.logits, small_model.type_logits(features))


@pytest.mark.parametrize(("trunk", "widths"), [("resnet18", (128, 256)), ("resnet50", (512, 1024))])
def test_widths_follow_the_trunk(trunk: str, widths: tuple[int, int]) -> None:
    model = AGMAN(ModelConfig(trunk=trunk, embedding_dim=64), 5)
    assert model.backbonenet.conv1_1.weight.shape[:2] == widths[::-1]
    assert model.conv1.weight.shape == (64, 2 * widths[1], 1, 1)
    assert model.masks.weight[1, 12:24].tolist() == [1.0] * 12


def test_trunk_starts_from_a_file(tmp_path: Path) -> None:
    source = resnet18()
    torch.save(source.state_dict(), tmp_path / "trunk.pth")
    model = AGMAN(ModelConfig(trunk="resnet18", pretrained=str(tmp_path / "trunk.pth")), 2)
    for name, tensor in source.layer3.state_dict().items():
        assert torch.equal(model.backbonenet.layer3.state_dict()[name], tensor)
    with pytest.raises(CheckpointMismatch, match=r"layer1.0.conv1.weight expected \(64, 64, 1, 1\)"):
        AGMAN(ModelConfig(pretrained=str(tmp_path / "trunk.pth")), 2)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="known: resnet18"):
        ModelConfig(trunk="vgg16")
    with pytest.raises(InvalidInput, match="no trunk weights at"):
        AGMAN(ModelConfig(pretrained=str(tmp_path / "missing.pth")), 2)
    with pytest.raises(InvalidInput, match="at least one attribute"):
        AGMAN(ModelConfig(trunk="resnet18"), 0)
