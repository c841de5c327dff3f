"""How good a ranking is, after the published protocol.

A query ranks all candidates by cosine. Relevant is who shares the query's value. Equal scores keep the order
of the gallery: a tie is no more likely to help than to hurt, and a run repeats itself.
"""

from collections.abc import Mapping
from functools import lru_cache
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


class MeanScores(NamedTuple):
    """Mean average precision over several attributes."""

    query_weighted: float
    """Mean over all queries: an attribute weighs by its queries. The number of the papers."""
    plain: float
    """Mean over attributes that have a query."""


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
    rows, columns = (hits & valid).nonzero(as_tuple=True)
    ranks = valid.cumsum(1, dtype=torch.int32)[rows, columns]
    num_hits = torch.bincount(rows, minlength=len(hits))
    # Hits come row by row, so a hit's place within its row is its place among all less those of rows above.
    found = torch.arange(1, len(rows) + 1, device=hits.device) - (num_hits.cumsum(0) - num_hits)[rows]
    totals = torch.zeros(len(hits), dtype=torch.float64, device=hits.device)
    totals.index_add_(0, rows, found.double() / ranks)
    return totals / num_hits.clamp(min=1)


def retrieval(queries: Tensor, gallery: Tensor, relevant: Tensor) -> RetrievalScores:
    """Rank the whole gallery for each query and judge it.

    Args:
        queries: [Q, D] unit vectors.
        gallery: [G, D] unit vectors.
        relevant: [Q, G] bool; from `same_value` where each picture has one value.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if relevant.shape != (len(queries), len(gallery)):
        raise ValueError(f"relevant {tuple(relevant.shape)}: expected {(len(queries), len(gallery))}")
    precisions = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
    first = torch.zeros(len(queries), max(RECALL_AT), dtype=torch.bool, device=queries.device)
    for start in range(0, len(queries), CHUNK_QUERIES):
        rows = slice(start, start + CHUNK_QUERIES)
        order = (queries[rows] @ gallery.T).argsort(dim=1, descending=True, stable=True)
        hits = relevant[rows].gather(1, order)
        precisions[rows] = average_precision(hits, torch.ones_like(hits))
        first[rows, : hits.shape[1]] = hits[:, : max(RECALL_AT)]
    return RetrievalScores(precisions, {k: first[:, :k].any(1) for k in RECALL_AT}, relevant.sum(1))


def same_value(query_values: Tensor, gallery_values: Tensor) -> Tensor:
    """Which candidates are relevant where each picture has one value: [Q] and [G] ints give [Q, G] bool."""
    return query_values[:, None] == gallery_values


def mean_over_attributes(scores: Mapping[str, RetrievalScores]) -> MeanScores:
    """Average over attributes in both ways; queries without a relevant candidate count with 0.

    Raises:
        ValueError: if no attribute has a query.
    """
    asked = [score.average_precision for score in scores.values() if len(score.average_precision)]
    if not asked:
        raise ValueError(f"no query in any of {len(scores)} attributes, so there is no mean")
    means = [float(precisions.mean()) for precisions in asked]
    return MeanScores(float(torch.cat(asked).mean()), sum(means) / len(means))


def expected_random_ap(num_relevant: int, num_gallery: int) -> float:
    """Return the exact expectation of average precision under a uniformly random ranking.

    With R of G relevant, rank i is relevant with probability R/G, and then (i-1)(R-1)/(G-1) of those before
    it are as well; so E = (H + (R-1)/(G-1) (G - H)) / G with H the G-th harmonic number. 0 where R = 0.

    Raises:
        ValueError: if R is negative or above G.
    """
    if not 0 <= num_relevant <= num_gallery:
        raise ValueError(f"expected 0 <= relevant <= gallery, found {num_relevant} of {num_gallery}")
    if num_relevant == 0:
        return 0.0
    if num_gallery == 1:
        return 1.0
    others = (num_relevant - 1) / (num_gallery - 1)
    harmonic = _harmonic(num_gallery)
    return (harmonic + others * (num_gallery - harmonic)) / num_gallery


@lru_cache(maxsize=64)
def _harmonic(number: int) -> float:
    """Sum of 1/i up to a number; kept, since all queries of an attribute share their gallery's."""
    return float((1.0 / torch.arange(1, number + 1, dtype=torch.float64)).sum())


def triplet_accuracy(anchor: Tensor, positive: Tensor, negative: Tensor) -> float:
    """Return the share of triplets whose positive is strictly nearer: the figure of Zappos50k.

    Args:
        anchor: [N, D] unit vectors.
        positive: [N, D] unit vectors.
        negative: [N, D] unit vectors.
    """
    return float(((anchor * positive).sum(1) > (anchor * negative).sum(1)).double().mean())
