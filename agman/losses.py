"""The losses of AG-MAN: similarity triplets and the classification of attribute types.

All embeddings are unit vectors, so a dot product is a cosine.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Mining = Literal["all", "semi_hard", "hard"]


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2) -> Tensor:
    """Mean of max(0, s(a, n) - s(a, p) + margin).

    Args:
        anchor: [N, D] unit vectors.
        positive: [N, D] unit vectors.
        negative: [N, D] unit vectors.
        margin: cosine by which a positive must be nearer.

    Returns:
        Scalar.
    """
    return functional.relu((anchor * negative).sum(1) - (anchor * positive).sum(1) + margin).mean()


def batch_triplet_loss(
    embeddings: Tensor,
    attribute: Tensor,
    value: Tensor,
    picture: Tensor,
    *,
    margin: float = 0.2,
    mining: Mining = "all",
) -> tuple[Tensor, Tensor]:
    """Triplet loss over the valid triplets of a batch.

    A triplet is valid where all three rows are of one attribute, anchor and positive are different pictures
    of one value, and the negative has another value. Multi-valued pictures have a row for each value; a row
    of the anchor's own picture, or of a picture that shows the anchor's value too, is no negative.

    Args:
        embeddings: [N, D] unit vectors of (picture, attribute) pairs.
        attribute: [N] int64.
        value: [N] int64 within the attribute.
        picture: [N] int64.
        margin: cosine by which a positive must be nearer.
        mining: `all` averages over the triplets that violate the margin; `semi_hard` over those of them whose
            negative is still farther than the positive; `hard` takes each pair's nearest negative.

    Returns:
        The loss, and the share of valid triplets that violate the margin; both 0 where none is valid.

    Source: Hermans et al., In Defense of the Triplet Loss, 2017; Schroff et al., FaceNet, 2015.
    """
    same_attribute = attribute[:, None] == attribute[None, :]
    same_value = same_attribute & (value[:, None] == value[None, :])
    other_picture = picture[:, None] != picture[None, :]
    # Rows of one picture and attribute share what it shows: [n, m] says whether m's picture shows n's value.
    same_place = same_attribute & ~other_picture
    shows = (same_value.float() @ same_place.float()) > 0
    pairs = (same_value & other_picture).nonzero()
    cosines = embeddings @ embeddings.T
    anchor_positive = cosines[pairs[:, 0], pairs[:, 1]][:, None]
    negatives = cosines[pairs[:, 0]]
    valid = (same_attribute & ~shows)[pairs[:, 0]]
    losses = negatives - anchor_positive + margin
    violating = valid & (losses > 0)
    if mining == "semi_hard":
        counted = violating & (negatives < anchor_positive)
    elif mining == "hard" and len(pairs):
        hardest = losses.masked_fill(~valid, -torch.inf).argmax(1, keepdim=True)
        counted = violating & torch.zeros_like(valid).scatter_(1, hardest, True)
    else:
        counted = violating
    # A sum times zero keeps the graph where nothing counts: every worker must reduce the same gradients.
    loss = (losses * counted).sum() / counted.sum().clamp(min=1) + 0.0 * embeddings.sum()
    return loss, violating.sum() / valid.sum().clamp(min=1)


def type_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of which attributes a picture shows.

    Args:
        logits: [B, A].
        targets: [B, A] in {0, 1}: the one-hot of the drawn attribute in the paper, the true set in ours.

    Returns:
        Scalar.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets)


class PaperWeighting(nn.Module):
    """What the authors ran: their weights never reached the optimizer, so both losses count alike."""

    def forward(self, triplet: Tensor, kind: Tensor) -> Tensor:
        """Return the mean of two scalars."""
        return 0.5 * triplet + 0.5 * kind


class LearnedWeighting(nn.Module):
    """Each loss by its learned uncertainty: 0.5 exp(-s) L + 0.5 s.

    Source: Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    """

    def __init__(self) -> None:
        """Start with equal weights."""
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, triplet: Tensor, kind: Tensor) -> Tensor:
        """Return the weighted sum of two scalars."""
        losses = torch.stack((triplet, kind))
        return (0.5 * torch.exp(-self.log_variance) * losses + 0.5 * self.log_variance).sum()
