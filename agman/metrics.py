"""How good a ranking is, after the published protocol.

A query ranks all candidates by cosine. Relevant is who shares the query's value. Equal scores keep the order
of the gallery: a tie is no more likely to help than to hurt, and a run repeats itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)
CHUNK_QUERIES = 512  # 512 x 20,000 candidates take some 200 MB while they are ranked


class RetrievalScores(NamedTuple):
    """Figures of Q queries."""

    average_precision: Tensor
    """[Q] float64; 0 where a query has no relevant candidate."""
    recall_at: dict[int, Tensor]
    """By k: [Q] bool, whether one of the first k is relevant."""
    num_relevant: Tensor
    """[Q] int64."""


def average_precision(hits: Tensor, valid: Tensor) -> Tensor:
    """Average precision of each query's ranked gallery.

    Args:
        hits: [Q, G] bool, best candidate first.
        valid: [Q, G] bool, False on padding.

    Returns:
        [Q] float64 in [0, 1]; 0 where a query has no hit.

    Raises:
        ValueError: if the shapes differ.

    Source: Manning et al., Introduction to Information Retrieval, 8.4.
    """
    if hits.shape != valid.shape:
        raise ValueError(f"hits {tuple(hits.shape)} and valid {tuple(valid.shape)} differ in shape")
    counted = (hits & valid).double()
    ranks = valid.double().cumsum(1).clamp(min=1)
    precision = counted.cumsum(1) / ranks
    return (precision * counted).sum(1) / counted.sum(1).clamp(min=1)


def retrieval(queries: Tensor, gallery: Tensor, relevant: Tensor) -> RetrievalScores:
    """Rank the whole gallery for each query and judge it.

    Args:
        queries: [Q, D] unit vectors.
        gallery: [G, D] unit vectors.
        relevant: [Q, G] bool.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if relevant.shape != (len(queries), len(gallery)):
        raise ValueError(f"relevant {tuple(relevant.shape)}: expected {(len(queries), len(gallery))}")
    precisions, ranked = [], []
    for start in range(0, len(queries), CHUNK_QUERIES):
        chunk, wanted = queries[start : start + CHUNK_QUERIES], relevant[start : start + CHUNK_QUERIES]
        order = (chunk @ gallery.T).argsort(dim=1, descending=True, stable=True)
        hits = wanted.gather(1, order)
        precisions.append(average_precision(hits, torch.ones_like(hits)))
        ranked.append(hits[:, : max(RECALL_AT)])
    first = torch.cat(ranked)
    return RetrievalScores(
        torch.cat(precisions), {k: first[:, :k].any(1) for k in RECALL_AT}, relevant.sum(1)
    )


def expected_random_ap(num_relevant: int, num_gallery: int) -> float:
    """Return the exact expectation of average precision under a uniformly random ranking.

    With R of G relevant, rank i is relevant with probability R/G, and then (i-1)(R-1)/(G-1) of those before
    it are as well; so E = (H + (R-1)/(G-1) (G - H)) / G with H the G-th harmonic number. 0 where R = 0.
    """
    if num_relevant == 0:
        return 0.0
    if num_gallery == 1:
        return 1.0
    harmonic = float((1.0 / torch.arange(1, num_gallery + 1, dtype=torch.float64)).sum())
    others = (num_relevant - 1) / (num_gallery - 1)
    return (harmonic + others * (num_gallery - harmonic)) / num_gallery


def triplet_accuracy(anchor: Tensor, positive: Tensor, negative: Tensor) -> float:
    """Return the share of triplets whose positive is strictly nearer: the figure of Zappos50k.

    Args:
        anchor: [N, D] unit vectors.
        positive: [N, D] unit vectors.
        negative: [N, D] unit vectors.
    """
    return float(((anchor * positive).sum(1) > (anchor * negative).sum(1)).double().mean())
