"""Fit prototypes to what training pictures show: where each value lies, and who has the attribute at all."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from agman.prototypes import INVISIBLE, Prototypes
from agman.taxonomy import Taxonomy

COMPLETE_SHARE = 0.1
"""Labels are complete where more than this share of the labelled pictures carries two attributes or more."""
MIN_EVIDENCE = 10
"""Fewer pictures than this on either side tell nothing of whether an attribute applies."""
MIN_AUC = 0.65
"""A probe that ranks unseen pictures no better than this is not used: their lack of labels has no system."""
CHECK_EVERY = 5
"""Every fifth picture is unseen while the probe is checked."""
FLOOR_QUANTILE = 0.01
"""Share of the training pictures that the floor would refuse."""
PENALTY = 1e-6
"""Of the squared weights of the probe, on features whose mean squared norm is 1."""
SCALES = torch.logspace(0, 2.2, 45)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What labels say of N pictures and A attributes with at most V values.

    A picture has an attribute where it shows a value other than `invisible`. It lacks the attribute where
    it shows `invisible` alone; and, where labels are complete, where it is labelled, but not with this
    attribute. Labels are complete where pictures carry several attributes, as in a shop's catalog; in a data
    set that labels one attribute a picture, such as FashionAI, what is not labelled is not known.
    """

    shown: Tensor
    """[N, A, V] bool, without `invisible`."""
    lacks: Tensor
    """[N, A] bool."""
    complete: bool

    @property
    def has(self) -> Tensor:
        """[N, A] bool."""
        return self.shown.any(dim=2)


def weigh(labels: Tensor, taxonomy: Taxonomy) -> Evidence:
    """Read labels as evidence.

    Args:
        labels: [N, A, V] bool.
        taxonomy: the A attributes.
    """
    labelled = labels.any(dim=2)
    num_carried = labelled.sum(dim=1)
    complete = bool((num_carried[num_carried > 0] > 1).double().mean() > COMPLETE_SHARE)
    shown = labels.clone()
    for index, attribute in enumerate(taxonomy):
        if INVISIBLE in attribute.values:
            shown[:, index, attribute.values.index(INVISIBLE)] = False
    lacks = labelled & ~shown.any(dim=2)
    if complete:
        lacks |= (num_carried > 0)[:, None] & ~labelled
    return Evidence(shown, lacks, complete)


def fit(embeddings: Tensor, labels: Tensor, taxonomy: Taxonomy) -> Prototypes:
    """Fit prototypes.

    Args:
        embeddings: [N, A, D] unit vectors of training pictures.
        labels: [N, A, V] bool, V as `most_values` gives it.
        taxonomy: the A attributes.
    """
    evidence = weigh(labels, taxonomy)
    embeddings = embeddings.float()
    # [A, V, N] x [A, N, D]; sums over up to some thousand unit vectors.
    sums = evidence.shown.permute(1, 2, 0).float() @ embeddings.transpose(0, 1)
    centres, known = functional.normalize(sums, dim=2), evidence.shown.any(dim=0)
    probe, bias = _fit_probe(embeddings, evidence)
    asked = probe.flatten(1).any(dim=1)
    floor, scale = torch.full_like(bias, -1.0), torch.ones_like(bias)
    for index in range(len(taxonomy)):
        if known[index].any():
            cosines = embeddings[:, index] @ centres[index].T
            shown = evidence.shown[:, index]
            scale[index] = _fit_scale(cosines.masked_fill(~known[index], -torch.inf), shown)
            if not (evidence.complete and asked[index]):
                floor[index] = torch.quantile(cosines[shown], FLOOR_QUANTILE, interpolation="lower")
    return Prototypes(centres, known, scale, probe, bias, floor)


def _fit_scale(cosines: Tensor, shown: Tensor) -> Tensor:
    """Return the scale under which the shown values are most probable.

    Args:
        cosines: [N, V], -inf where a value has no prototype.
        shown: [N, V] bool.
    """
    rows, values = shown.nonzero(as_tuple=True)
    losses = [functional.cross_entropy(scale * cosines[rows], values) for scale in SCALES]
    return SCALES[int(torch.stack(losses).argmin())]


def _fit_probe(embeddings: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Return (weights [A, A, D], bias [A]); 0 and 1 where labels do not tell who lacks an attribute."""
    num_pictures, num_attributes, dim = embeddings.shape
    has, lacks = evidence.has, evidence.lacks
    weights, bias = torch.zeros(num_attributes, num_attributes * dim), torch.ones(num_attributes)
    unseen = torch.arange(num_pictures) % CHECK_EVERY == 0
    counts = [side[part].sum(dim=0) for side in (has, lacks) for part in (unseen, ~unseen)]
    asked = (torch.stack(counts) >= MIN_EVIDENCE).all(dim=0).nonzero().flatten()
    if not len(asked):
        return weights.view(num_attributes, num_attributes, dim), bias
    mean, spread = _spread(embeddings)
    features = ((embeddings - mean) / spread).flatten(1)
    found = _logistic(features[~unseen], has[~unseen][:, asked], lacks[~unseen][:, asked])
    margins = features[unseen] @ found.T
    for row, attribute in enumerate(asked.tolist()):
        having, lacking = (margins[side[unseen, attribute], row] for side in (has, lacks))
        if _auc(having, lacking) > MIN_AUC:
            weights[attribute] = (found[row].view(num_attributes, dim) / spread[0]).flatten()
            bias[attribute] = -_threshold(having, lacking) - weights[attribute] @ mean.flatten()
    return weights.view(num_attributes, num_attributes, dim), bias


def _spread(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean [A, D], divisor [1, A, 1]) that centre features, weigh attributes alike and norm to 1."""
    mean = embeddings.mean(dim=0)
    per_attribute = (embeddings - mean).square().sum(dim=2).mean(dim=0).sqrt().clamp_min(1e-6)
    return mean, (per_attribute * len(per_attribute) ** 0.5)[None, :, None]


def _logistic(features: Tensor, has: Tensor, lacks: Tensor) -> Tensor:
    """Return the weights [K, F] of K logistic regressions on the same features.

    Args:
        features: [N, F].
        has: [N, K] bool.
        lacks: [N, K] bool; rows that are neither do not count.
    """
    counted = (has | lacks).float() / (has | lacks).sum(dim=0)
    target = has.float()
    weights = torch.zeros(has.shape[1], features.shape[1], requires_grad=True)
    bias = torch.zeros(has.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        each = functional.binary_cross_entropy_with_logits(
            features @ weights.T + bias, target, reduction="none"
        )
        total = (counted * each).sum() + PENALTY / 2 * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def _auc(having: Tensor, lacking: Tensor) -> float:
    """Return the share of pairs of a picture that has and one that lacks which the margins order rightly."""
    difference = having[:, None] - lacking[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0)).mean())


def _threshold(having: Tensor, lacking: Tensor) -> Tensor:
    """Return the margin above which as many pictures lie as have the attribute: counts come out right."""
    ranked = torch.cat([having, lacking]).sort(descending=True).values
    return (ranked[len(having) - 1] + ranked[len(having)]) / 2
