"""The head: one attribute looks at an image's features and returns a unit vector."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Embedded(NamedTuple):
    """What the head returns for N (image, attribute) pairs."""

    embedding: Tensor
    """[N, D], unit norm."""
    attention: Tensor
    """[N, H, W]: the softmax over places times the learned scalar `w1`."""


class SpatialAttention(nn.Module):
    """Gate of each place from the mean and the maximum over channels."""

    def __init__(self, kernel_size: int = 7) -> None:
        """Build the two-to-one convolution; its window in places is square and odd."""
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, D, H, W] to gates [N, 1, H, W] in (0, 1)."""
        extremes = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        gates: Tensor = torch.sigmoid(self.conv1(extremes))
        return gates


class AttributeHead(nn.Module):
    """Everything above the trunk's two levels; names are those of the published checkpoints."""

    def __init__(self, input_width: int, embedding_dim: int, num_attributes: int) -> None:
        """Build the layers.

        Args:
            input_width: channels of all levels that the head reads, together.
            embedding_dim: D, the width of everything in the head.
            num_attributes: A, rows of the two embedding tables.
        """
        super().__init__()
        self.attr_embedding = nn.Embedding(num_attributes, embedding_dim)
        self.attr_transform1 = nn.Linear(embedding_dim, embedding_dim)
        self.conv1 = nn.Conv2d(input_width, embedding_dim, kernel_size=1)
        self.img_bn1 = nn.BatchNorm2d(embedding_dim)
        self.sa = SpatialAttention()
        self.attr_transform2 = nn.Linear(embedding_dim, embedding_dim)
        self.fc1 = nn.Linear(2 * embedding_dim, embedding_dim)
        self.fc2 = nn.Linear(embedding_dim, embedding_dim)
        self.w = nn.Parameter(torch.ones(1))
        self.w1 = nn.Parameter(torch.ones(1))
        self.w2 = nn.Parameter(torch.ones(1))
        self.masks = nn.Embedding(num_attributes, embedding_dim)
        with torch.no_grad():
            self.masks.weight.copy_(initial_masks(num_attributes, embedding_dim))

    def attend(self, levels: Sequence[Tensor], image_index: Tensor, attribute_index: Tensor) -> Embedded:
        """Embed N pairs of an image and an attribute.

        Args:
            levels: each [B, C, H, W]; published: level 3 and the local features.
            image_index: [N] int64, positions in the batch.
            attribute_index: [N] int64, positions in the taxonomy.

        Returns:
            Embeddings [N, D] and attention [N, H, W].
        """
        features = self.conv1(self.w * torch.cat(list(levels), dim=1))
        rows = self.attr_embedding(attribute_index), self.masks(attribute_index)
        return self.look(features, image_index, *rows)

    def look(self, features: Tensor, image_index: Tensor, question: Tensor, mask: Tensor) -> Embedded:
        """Embed N pairs of an image and an attribute by the attribute's own rows: all else is shared.

        Args:
            features: [B, D, H, W], what every attribute looks at.
            image_index: [N] int64, positions in the batch.
            question: [N, D], rows of `attr_embedding`.
            mask: [N, D], rows of `masks`.
        """
        keys = torch.tanh(self.img_bn1(features))
        # index_select, not indexing: its backward adds in a fixed order on a CPU, so runs repeat bitwise.
        scores = self._scores(keys.index_select(0, image_index), question)
        attention = self.w1 * scores.flatten(1).softmax(dim=1).view_as(scores)
        attended = features.index_select(0, image_index) * attention.unsqueeze(1)
        pooled = (attended * self.sa(attended)).sum(dim=(2, 3))
        return Embedded(self._to_unit(pooled, question, mask), attention)

    def _scores(self, keys: Tensor, question: Tensor) -> Tensor:
        """Match keys [N, D, H, W] with attribute embeddings [N, D]: [N, H, W]."""
        query = functional.silu(self.attr_transform1(question))
        num_pairs, width, height_places, width_places = keys.shape
        scores = torch.bmm(query.unsqueeze(1), keys.flatten(2))
        return scores.view(num_pairs, height_places, width_places) / math.sqrt(width)

    def _to_unit(self, pooled: Tensor, question: Tensor, mask: Tensor) -> Tensor:
        """Choose channels of [N, D] by the attribute and scale to unit norm."""
        context = functional.silu(self.attr_transform2(question))
        hidden = torch.relu(self.fc1(torch.cat([pooled, context], dim=1)))
        gate = torch.sigmoid(self.fc2(hidden))
        return functional.normalize(pooled * self.w2 * gate * torch.relu(mask), dim=1)


def initial_masks(num_attributes: int, embedding_dim: int) -> Tensor:
    """Give each attribute its own slice of channels, as published: [A, D] of 0.1, the own slice 1."""
    masks = torch.full((num_attributes, embedding_dim), 0.1)
    width = embedding_dim // num_attributes
    for attribute in range(num_attributes):
        masks[attribute, attribute * width : (attribute + 1) * width] = 1.0
    return masks
