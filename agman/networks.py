"""The network that a config asks for: AG-MAN, or a baseline on the same trunk to compare it with."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from agman.attention import Embedded, initial_masks
from agman.backbone import build_trunk
from agman.errors import InvalidInput
from agman.model import AGMAN, Features, ModelConfig, Network


class PooledNetwork(Network):
    """The trunk's average feature, projected: one embedding for all attributes, or one masked by attribute.

    Source: Veit, Belongie and Karaletsos, Conditional Similarity Networks, CVPR 2017, for the masks.
    """

    def __init__(self, config: ModelConfig, num_attributes: int) -> None:
        """Build the network; `csn` has masks, `plain` none.

        Raises:
            InvalidInput: if there is no attribute, or the start of the trunk is not found.
            CheckpointMismatch: if the start of the trunk does not fit.
        """
        super().__init__()
        if num_attributes < 1:
            raise InvalidInput(f"need at least one attribute, found {num_attributes}")
        self.backbonenet = build_trunk(config.trunk, num_attributes, config.pretrained, multi_level=False)
        self.projection = nn.Linear(self.backbonenet.top_width, config.embedding_dim)
        self.masks = nn.Embedding(num_attributes, config.embedding_dim) if config.head == "csn" else None
        if self.masks is not None:
            with torch.no_grad():
                self.masks.weight.copy_(initial_masks(num_attributes, config.embedding_dim))
        self.config = config
        self.num_attributes = num_attributes

    def features(self, images: Tensor) -> Features:
        """Run the whole trunk once: the top serves both the embedding and the classifier."""
        features = super().features(images)
        return features._replace(top=self.backbonenet.pooled_top(features.level3))

    def type_logits(self, features: Features) -> Tensor:
        """Score which attributes each image shows: [B, A]."""
        logits: Tensor = self.backbonenet.fc_embed(features.top)
        return logits

    def embed(self, features: Features, image_index: Tensor, attribute_index: Tensor) -> Embedded:
        """Embed N pairs; attention is the same everywhere, since an average looks everywhere alike."""
        rows = self.projection(features.top).index_select(0, image_index)
        if self.masks is not None:
            rows = rows * torch.relu(self.masks(attribute_index))
        height, width = features.level3.shape[2:]
        attention = rows.new_full((len(rows), height, width), 1 / (height * width))
        return Embedded(functional.normalize(rows, dim=1), attention)


def build_network(config: ModelConfig, num_attributes: int) -> Network:
    """Build what a config names, with its start of the trunk.

    Raises:
        InvalidInput: if there is no attribute, or the start of the trunk is not found.
        CheckpointMismatch: if the start of the trunk does not fit.
    """
    network = AGMAN if config.head == "agman" else PooledNetwork
    return network(config, num_attributes)
