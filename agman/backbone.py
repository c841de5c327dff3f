"""The trunk: a torchvision ResNet cut open at two inner levels."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model
from torchvision.models.resnet import ResNet

from agman.errors import CheckpointMismatch, InvalidInput

TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Accepted trunks; level widths follow: 128 and 256 channels in resnet18 and 34, else 512 and 1024."""
IMAGENET = "imagenet"
"""Asks torchvision for its ImageNet-1k weights, version 1, downloaded once into torch's cache."""


class Trunk(nn.Module):
    """ResNet with the two additions of the network: `conv1_1` between the levels and `fc_embed` on top.

    Parameter names are torchvision's, so ImageNet weights and published checkpoints both fit.
    """

    def __init__(self, name: str, num_attributes: int, pretrained: str | None = None) -> None:
        """Build the layers.

        Args:
            name: one of TRUNKS.
            num_attributes: width of the attribute-type classifier.
            pretrained: None, "imagenet", or the path of a state dict with torchvision's names.

        Raises:
            InvalidInput: if there is no such trunk or no such file.
            CheckpointMismatch: if the file's tensors do not fit.
        """
        super().__init__()
        resnet = build_resnet(name, pretrained)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        top_width: int = resnet.fc.in_features
        self.level2_width, self.level3_width = top_width // 4, top_width // 2
        self.conv1_1 = nn.Conv2d(self.level2_width, self.level3_width, kernel_size=1)
        self.fc_embed = nn.Linear(top_width, num_attributes)

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the trunk up to its two inner levels.

        Args:
            images: [B, 3, H, W] normalised.

        Returns:
            Level 2, [B, C2, H/8, W/8], and level 3, [B, C3, H/16, W/16]; sides rounded up.
        """
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        level2 = self.layer2(self.layer1(stem))
        return level2, self.layer3(level2)

    def local(self, level2: Tensor, level3: Tensor) -> Tensor:
        """Bring level 2 to the places and width of level 3 and add: [B, C3, H/16, W/16]."""
        pooled = functional.max_pool2d(level2, kernel_size=3, stride=2, padding=1)
        added: Tensor = self.conv1_1(pooled)
        return level3 + added

    def type_logits(self, local: Tensor) -> Tensor:
        """Score which attributes an image shows, from the local features: [B, A]."""
        top = functional.adaptive_avg_pool2d(self.layer4(local), 1)
        logits: Tensor = self.fc_embed(top.flatten(1))
        return logits


def build_resnet(name: str, pretrained: str | None) -> ResNet:
    """Build a torchvision ResNet, with weights where asked.

    Raises:
        InvalidInput: if the name or the file is unknown.
        CheckpointMismatch: if the file's tensors do not fit.
    """
    if name not in TRUNKS:
        raise InvalidInput(f"unknown trunk {name!r}; known: {', '.join(TRUNKS)}")
    if pretrained == IMAGENET:
        return get_model(name, weights="IMAGENET1K_V1")
    resnet: ResNet = get_model(name, weights=None)
    if pretrained is not None:
        _load_trunk_weights(resnet, Path(pretrained))
    return resnet


def _load_trunk_weights(resnet: ResNet, path: Path) -> None:
    if not path.is_file():
        raise InvalidInput(f"no trunk weights at {path}; give a torchvision state dict or {IMAGENET!r}")
    found = torch.load(path, map_location="cpu", weights_only=True)
    for tensor_name, expected in resnet.state_dict().items():
        if tensor_name.startswith("fc.") or tensor_name.endswith("num_batches_tracked"):
            continue
        shape = tuple(found[tensor_name].shape) if tensor_name in found else "nothing"
        if shape != tuple(expected.shape):
            raise CheckpointMismatch(f"{path}: {tensor_name} expected {tuple(expected.shape)}, found {shape}")
    resnet.load_state_dict({k: v for k, v in found.items() if not k.startswith("fc.")}, strict=False)
