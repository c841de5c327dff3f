"""What training lowers: triplets of unit vectors, and naming the attributes a picture shows.

All embeddings are unit vectors, so a dot product is a cosine.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Mining = Literal["all", "semi_hard", "hard"]
"""Which triplets of a batch count: all that violate the margin; those of them whose negative is still farther
than the positive; or those of each anchor and positive with the nearest negative."""
# Temporaries of mining hold this many numbers at most: 16 MiB of float32, whatever the batch.
_BLOCK_NUMBERS = 4_194_304
# A loss of exactly 0 would drive its log variance down for ever, and its weight up; this caps it at 27.
_LOWEST_LOG_VARIANCE = -4.0


class BatchLoss(NamedTuple):
    """Triplet loss of a batch and how much of it still teaches."""

    loss: Tensor
    """Scalar; 0 with a gradient of 0 where no triplet counts."""
    violating: Tensor
    """Scalar: share of the valid triplets with a loss above 0; 0 where none is valid."""


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2) -> Tensor:
    """Mean of max(0, s(a, n) - s(a, p) + margin), s the dot product.

    Args:
        anchor: [T, D], unit norm.
        positive: [T, D], pictures of the anchor's value.
        negative: [T, D], pictures of another value.
        margin: cosine by which a positive must be nearer.

    Returns:
        Scalar.
    """
    return functional.relu(_gaps(anchor, positive, negative) + margin).mean()


def violating_share(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2) -> Tensor:
    """Share of triplets [T, D] that have a loss above 0, a scalar without gradient."""
    return (_gaps(anchor, positive, negative).detach() + margin > 0).float().mean()


def batch_triplet_loss(
    embeddings: Tensor,
    attribute: Tensor,
    value: Tensor,
    picture: Tensor,
    *,
    margin: float = 0.2,
    mining: Mining = "all",
) -> BatchLoss:
    """Triplet loss over the valid triplets among the rows of a batch, the mean of those that count.

    Valid means: all three rows of one attribute, anchor and positive different pictures of one value, and the
    negative a picture that does not show that value. A picture of several values has a row for each.

    Args:
        embeddings: [N, D], unit norm.
        attribute: [N] int64.
        value: [N] int64, within the row's attribute.
        picture: [N] int64.
        margin: cosine by which a positive must be nearer.
        mining: which valid triplets count.

    Source: Hermans et al., In Defense of the Triplet Loss, 2017; Schroff et al., FaceNet, 2015.
    """
    positive, negative = _relations(attribute, value, picture)
    cosines = embeddings @ embeddings.T
    weights, num_counted, violating = _mine(cosines.detach(), positive, negative, margin, mining)
    # Each cosine enters as often as triplets use it, so the graph holds N x N numbers, not N x N x N. The sum
    # is in float64 because large terms cancel.
    total = (cosines.double() * weights).sum() + margin * num_counted
    return BatchLoss((total / num_counted.clamp(min=1)).to(embeddings.dtype), violating)


def contrastive_loss(
    embeddings: Tensor, attribute: Tensor, value: Tensor, picture: Tensor, *, temperature: float = 0.1
) -> BatchLoss:
    """Supervised contrastive loss over the rows of a batch: each positive against all rows of the attribute.

    A smooth form of `batch_triplet_loss` that weighs hard negatives by itself. A picture that shows the
    anchor's value beside another one counts once, as a positive.

    Args:
        embeddings: [N, D], unit norm.
        attribute: [N] int64.
        value: [N] int64, within the row's attribute.
        picture: [N] int64.
        temperature: cosine difference that changes an odds ratio by e.

    Returns:
        The mean over anchors that have a positive; `violating` is the share of them whose nearest row is no
        positive.

    Source: Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2.
    """
    positive, negative = _relations(attribute, value, picture)
    scores = (embeddings.float() @ embeddings.float().T) / temperature
    ranked = scores.masked_fill(~(positive | negative), -torch.inf)
    num_positives = positive.sum(1)
    anchors = num_positives > 0
    # A row without partners would give -inf; it is left out before the logarithm, and keeps a zero gradient.
    log_odds = scores[anchors] - ranked[anchors].logsumexp(1, keepdim=True)
    losses = -(log_odds * positive[anchors]).sum(1) / num_positives[anchors]
    nearest = ranked[anchors].argmax(1, keepdim=True)
    wrong = (~positive[anchors].gather(1, nearest)).sum()
    count = anchors.sum().clamp(min=1)
    return BatchLoss((losses.sum() + 0.0 * embeddings.sum()) / count, wrong / count)


def type_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of naming the attributes each picture shows.

    Args:
        logits: [B, A].
        targets: [B, A] in {0, 1}; one attribute a row in FashionAI, several in multi-label sets.

    Returns:
        Scalar, the mean over pictures and attributes.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


class PaperWeighting(nn.Module):
    """Equal constant weights: what the published code computed.

    Its formula 0.5 exp(p) L + p has no minimum, and its p never reached the optimizer, so they stayed at 0.
    """

    def forward(self, triplet: Tensor, classification: Tensor) -> Tensor:
        """Add half of each of two scalars."""
        return 0.5 * (triplet + classification)


class LearnedWeighting(nn.Module):
    """Weights learned from the losses' own scale: 0.5 exp(-s) L + 0.5 s for each, minimal at s = log L.

    Source: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    """

    def __init__(self) -> None:
        """Start from equal weights of one half."""
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, triplet: Tensor, classification: Tensor) -> Tensor:
        """Weigh and add two scalars."""
        with torch.no_grad():
            self.log_variance.clamp_(min=_LOWEST_LOG_VARIANCE)
        losses = torch.stack([triplet, classification])
        return 0.5 * (torch.exp(-self.log_variance) * losses + self.log_variance).sum()


def _gaps(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """How much nearer each negative is than its positive: [T]."""
    return (anchor * negative).sum(1) - (anchor * positive).sum(1)


def _relations(attribute: Tensor, value: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which rows are positives and negatives of each row: two [N, N] bool, anchors first."""
    same_attribute = attribute[:, None] == attribute
    same_value = same_attribute & (value[:, None] == value)
    same_picture = picture[:, None] == picture
    # Rows of one picture and attribute share what it shows: [i, j] says whether j's picture shows i's value.
    shows = same_value.float() @ (same_attribute & same_picture).float() > 0
    return same_value & ~same_picture, same_attribute & ~shows


@torch.no_grad()
def _mine(
    cosines: Tensor, positive: Tensor, negative: Tensor, margin: float, mining: Mining
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the triplets that count, a block of (anchor, positive) pairs at a time.

    Returns:
        How often each cosine enters the sum of losses, [N, N] float64: plus as a negative's, minus as a
        positive's; the number of triplets that count; the share of valid triplets that violate the margin.
    """
    weights = torch.zeros_like(cosines, dtype=torch.float64)
    num_counted = num_violating = num_valid = torch.zeros((), dtype=torch.float64, device=cosines.device)
    block_rows = max(1, _BLOCK_NUMBERS // max(1, len(cosines)))
    for pairs in torch.split(positive.nonzero(), block_rows):
        anchors, positives = pairs.unbind(1)
        gaps = cosines[anchors] - cosines[anchors, positives].unsqueeze(1)
        valid = negative[anchors]
        violating = valid & (gaps + margin > 0)
        counted = _counted(gaps, valid, violating, mining)
        weights.index_add_(0, anchors, counted.double())
        weights[anchors, positives] -= counted.sum(1).double()
        num_counted = num_counted + counted.sum()
        num_violating = num_violating + violating.sum()
        num_valid = num_valid + valid.sum()
    return weights, num_counted, (num_violating / num_valid.clamp(min=1)).to(cosines.dtype)


def _counted(gaps: Tensor, valid: Tensor, violating: Tensor, mining: Mining) -> Tensor:
    """Choose among the negatives [N] of each pair: [pairs, N] bool."""
    if mining == "all":
        return violating
    if mining == "semi_hard":
        return violating & (gaps < 0)
    nearest = gaps.masked_fill(~valid, -torch.inf).argmax(1, keepdim=True)
    return violating & torch.zeros_like(valid).scatter_(1, nearest, True)
