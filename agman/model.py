"""The network: image and attribute in, unit vector out."""

import abc
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from agman.attention import AttributeHead, Embedded
from agman.backbone import TRUNKS, Trunk, build_trunk
from agman.errors import InvalidInput

Head = Literal["agman", "csn", "plain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Architecture of the network; the number of attributes comes from the taxonomy."""

    trunk: str = "resnet50"
    """torchvision's name: resnet18, 34, 50, 101 or 152, convnext_tiny, efficientnet_v2_s."""
    head: Head = "agman"
    """`agman`; or a baseline on the pooled trunk: `csn` masks it by attribute, `plain` knows no attribute."""
    multi_level: bool = True
    """Whether level 2 enters the head beside level 3; False is the paper's ablation."""
    embedding_dim: int = 512
    """D, length of an embedding and width of the head."""
    pretrained: str | None = None
    """Start of the trunk: None for random, "imagenet", or the path of a torchvision state dict."""

    def __post_init__(self) -> None:
        """Refuse unknown trunks and heads, and empty embeddings."""
        if self.trunk not in TRUNKS:
            raise InvalidInput(f"unknown trunk {self.trunk!r}; known: {', '.join(TRUNKS)}")
        if self.head not in get_args(Head):
            raise InvalidInput(f"unknown head {self.head!r}; known: {', '.join(get_args(Head))}")
        if self.embedding_dim < 1:
            raise InvalidInput(f"embedding_dim must be positive, found {self.embedding_dim}")

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "ModelConfig":
        """Read what `to_json` wrote, without its start: trained weights replace that.

        Raises:
            InvalidInput: if a part is missing or malformed.
        """
        try:
            return cls(
                trunk=str(document["trunk"]),
                head=document.get("head", "agman"),
                multi_level=bool(document.get("multi_level", True)),
                embedding_dim=int(document["embedding_dim"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"an architecture needs trunk and embedding_dim; {error!r}") from error


class Features(NamedTuple):
    """One trunk pass, shared by all attributes."""

    level2: Tensor
    """[B, C2, H/8, W/8]."""
    level3: Tensor
    """[B, C3, H/16, W/16]."""
    local: Tensor
    """[B, C3, H/16, W/16]: level 3 plus what `conv1_1` adds of level 2."""
    top: Tensor | None = None
    """[B, top_width]: the top's average, where embeddings are made of it."""


class Output(NamedTuple):
    """One image under one attribute, as in the published training."""

    embedding: Tensor
    """[B, D], unit norm."""
    logits: Tensor
    """[B, A]: which attributes the image shows."""
    attention: Tensor
    """[B, H/16, W/16]."""


class Network(nn.Module, abc.ABC):
    """What training, evaluation and checkpoints need of a network: AG-MAN, or a baseline to compare with."""

    backbonenet: Trunk
    config: ModelConfig
    num_attributes: int

    def features(self, images: Tensor) -> Features:
        """Run the trunk once.

        Args:
            images: [B, 3, H, W] normalised; any size from 32 pixels.
        """
        level2, level3 = self.backbonenet.levels(images)
        return Features(level2, level3, self.backbonenet.local(level2, level3))

    @abc.abstractmethod
    def embed(self, features: Features, image_index: Tensor, attribute_index: Tensor) -> Embedded:
        """Embed N pairs of an image and an attribute.

        Args:
            features: of B images.
            image_index: [N] int64 in [0, B).
            attribute_index: [N] int64 in [0, A).

        Returns:
            Embeddings [N, D] of unit norm and attention [N, H/16, W/16].
        """

    def type_logits(self, features: Features) -> Tensor:
        """Score which attributes each image shows: [B, A]."""
        return self.backbonenet.type_logits(features.local)

    def freeze_type_classifier(self) -> None:
        """Keep what `type_logits` alone uses out of training: a distributed one waits for all gradients."""
        for module in self.type_classifier():
            module.requires_grad_(False)

    def type_classifier(self) -> tuple[nn.Module, ...]:
        """Return the modules that `type_logits` alone uses."""
        return (self.backbonenet.fc_embed,)

    def forward(self, images: Tensor, attributes: Tensor) -> Output:
        """Embed each image under its own attribute.

        Args:
            images: [B, 3, H, W] normalised.
            attributes: [B] int64.
        """
        features = self.features(images)
        every = attributes.new_tensor(range(images.shape[0]))
        embedded = self.embed(features, every, attributes)
        return Output(embedded.embedding, self.type_logits(features), embedded.attention)


class AGMAN(Network, AttributeHead):
    """Attribute-guided multi-level attention network.

    It is the head with the trunk beside it as `backbonenet`, because published checkpoints name the
    head's parameters at the top level.
    """

    generations: tuple[int, ...]
    """How many attributes were there from the start, then how many each extension added: see `extension`."""

    def __init__(self, config: ModelConfig, num_attributes: int) -> None:
        """Build the network.

        Raises:
            InvalidInput: if there is no attribute, or the start of the trunk is not found.
            CheckpointMismatch: if the start of the trunk does not fit.
        """
        if num_attributes < 1:
            raise InvalidInput(f"need at least one attribute, found {num_attributes}")
        trunk = build_trunk(config.trunk, num_attributes, config.pretrained, multi_level=config.multi_level)
        num_levels = 2 if config.multi_level else 1
        super().__init__(num_levels * trunk.level3_width, config.embedding_dim, num_attributes)
        self.backbonenet = trunk
        self.config = config
        self.num_attributes = num_attributes
        self.generations = (num_attributes,)

    def embed(self, features: Features, image_index: Tensor, attribute_index: Tensor) -> Embedded:
        """Embed N pairs of an image and an attribute; see `Network.embed`."""
        levels = [features.level3, features.local] if self.config.multi_level else [features.level3]
        return self.attend(levels, image_index, attribute_index)

    def type_classifier(self) -> tuple[nn.Module, ...]:
        """Return the trunk's top and its classifier: the embedding needs neither."""
        return self.backbonenet.stages()[2], self.backbonenet.fc_embed
