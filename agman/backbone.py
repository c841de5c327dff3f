"""The trunk: a torchvision network cut open at two inner levels.

A trunk gives level 2 at an eighth of the image's side and level 3 at a sixteenth, and goes on from there to a
top. Parameter names are torchvision's, so ImageNet weights and published checkpoints both fit.
"""

import abc
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from agman.errors import CheckpointMismatch, InvalidInput
from agman.tensor_files import read_tensor_file
from agman.vision import ResNet, get_model

IMAGENET = "imagenet"
"""Asks torchvision for its ImageNet-1k weights, version 1, downloaded once into torch's cache."""
_CLASSIFIERS = ("fc.", "classifier.")


class Trunk(nn.Module, abc.ABC):
    """Two inner levels, a top, and the network's additions: `conv1_1` between levels, `fc_embed` above."""

    conv1_1: nn.Conv2d | None

    def __init__(self, level2_width: int, level3_width: int, top_width: int) -> None:
        """Remember the channels C2 and C3 of the levels and of the top."""
        super().__init__()
        self.level2_width, self.level3_width, self.top_width = level2_width, level3_width, top_width

    def add_branches(self, num_attributes: int, *, multi_level: bool) -> None:
        """Add what the published network adds to its trunk.

        Args:
            num_attributes: width of the attribute-type classifier.
            multi_level: whether level 2 enters the local features.
        """
        self.conv1_1 = nn.Conv2d(self.level2_width, self.level3_width, 1) if multi_level else None
        self.fc_embed = nn.Linear(self.top_width, num_attributes)

    @abc.abstractmethod
    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return the parts from the image to level 2, from there to level 3, and from there to the top."""

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the trunk up to its two inner levels.

        Args:
            images: [B, 3, H, W] normalised.

        Returns:
            Level 2, [B, C2, H/8, W/8], and level 3, [B, C3, H/16, W/16]; sides rounded up.
        """
        lower, middle, _ = self.stages()
        level2: Tensor = lower(images)
        return level2, middle(level2)

    def local(self, level2: Tensor, level3: Tensor) -> Tensor:
        """Bring level 2 to the places and width of level 3 and add: [B, C3, H/16, W/16]."""
        if self.conv1_1 is None:
            return level3
        pooled = functional.max_pool2d(level2, kernel_size=3, stride=2, padding=1)
        added: Tensor = self.conv1_1(pooled)
        return level3 + added

    def pooled_top(self, level3: Tensor) -> Tensor:
        """Run the top over level 3 or the local features and average its places: [B, top_width]."""
        _, _, top = self.stages()
        return functional.adaptive_avg_pool2d(top(level3), 1).flatten(1)

    def type_logits(self, local: Tensor) -> Tensor:
        """Score which attributes an image shows, from the local features: [B, A]."""
        logits: Tensor = self.fc_embed(self.pooled_top(local))
        return logits


class ResNetTrunk(Trunk):
    """ResNet up to layer 2, layer 3, layer 4."""

    def __init__(self, resnet: ResNet) -> None:
        """Take over the layers of a torchvision ResNet."""
        top_width: int = resnet.fc.in_features
        super().__init__(top_width // 4, top_width // 2, top_width)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return stem to layer 2, layer 3, layer 4."""
        stem = (self.conv1, self.bn1, self.relu, self.maxpool)
        return nn.Sequential(*stem, self.layer1, self.layer2), self.layer3, self.layer4


class FeaturesTrunk(Trunk):
    """A network that torchvision keeps as one sequence named `features`, a stage for each stride."""

    def __init__(self, network: nn.Module, cuts: tuple[int, int], widths: tuple[int, int, int]) -> None:
        """Take over the features.

        Args:
            network: of torchvision.
            cuts: positions after the last stage of level 2 and of level 3.
            widths: channels of level 2, level 3 and the top.
        """
        super().__init__(*widths)
        self.features: nn.Sequential = network.features  # type: ignore[assignment]
        self._cuts = cuts

    def stages(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return the sequence in three parts."""
        first, second = self._cuts
        return self.features[:first], self.features[first:second], self.features[second:]


_FEATURES = {
    "convnext_tiny": ((4, 6), (192, 384, 768)),
    "efficientnet_v2_s": ((4, 6), (64, 160, 1280)),
}
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
TRUNKS = (*_RESNETS, *_FEATURES)
"""Accepted trunks, by torchvision's names."""


def build_trunk(
    name: str, num_attributes: int, pretrained: str | None = None, *, multi_level: bool = True
) -> Trunk:
    """Build a trunk with the network's additions.

    Args:
        name: one of TRUNKS.
        num_attributes: width of the attribute-type classifier.
        pretrained: None for random weights, "imagenet", or the path of a state dict with torchvision's names.
        multi_level: whether level 2 enters the local features.

    Raises:
        InvalidInput: if there is no such trunk or no such file.
        CheckpointMismatch: if the file's tensors do not fit.
    """
    if name not in TRUNKS:
        raise InvalidInput(f"unknown trunk {name!r}; known: {', '.join(TRUNKS)}")
    network = get_model(name, weights="IMAGENET1K_V1" if pretrained == IMAGENET else None)
    if pretrained not in (None, IMAGENET):
        _load_weights(network, Path(str(pretrained)))
    trunk = FeaturesTrunk(network, *_FEATURES[name]) if name in _FEATURES else ResNetTrunk(network)
    trunk.add_branches(num_attributes, multi_level=multi_level)
    return trunk


def _load_weights(network: nn.Module, path: Path) -> None:
    found = read_tensor_file(path, "trunk weights")
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise CheckpointMismatch(f"{path}: expected torchvision's state dict, found {type(found).__name__}")
    for tensor_name, expected in network.state_dict().items():
        if tensor_name.startswith(_CLASSIFIERS) or tensor_name.endswith("num_batches_tracked"):
            continue
        shape = tuple(found[tensor_name].shape) if tensor_name in found else "nothing"
        if shape != tuple(expected.shape):
            raise CheckpointMismatch(f"{path}: {tensor_name} expected {tuple(expected.shape)}, found {shape}")
    network.load_state_dict({k: v for k, v in found.items() if not k.startswith(_CLASSIFIERS)}, strict=False)
