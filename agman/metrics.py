"""How good a ranking is, after the published protocol.

A query ranks all candidates listed under its attribute by cosine; relevant is who has the query's value.
Where scores are equal, irrelevant candidates stand before relevant ones: what a model cannot tell apart is
not found. So a figure does not depend on the order of the candidates, and ties count as strictly as they do
in triplet accuracy. The published code leaves the order of equal scores to an unstable sort.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RECALL_AT = (1, 5, 10)
CHUNK_SCORES = 1 << 22  # scores ranked at once: some 100 MB with their sort keys


class RetrievalScores(NamedTuple):
    """Figures of Q queries."""

    average_precision: Tensor
    """[Q] float64; 0 where a query has no relevant candidate."""
    recall_at: dict[int, Tensor]
    """By k: [Q] bool, whether one of the first k is relevant."""
    num_relevant: Tensor
    """[Q] int64."""
    num_candidates: Tensor
    """[Q] int64: the gallery without the query's own picture."""


class Listed(NamedTuple):
    """Pictures listed under one attribute with one value each."""

    vectors: Tensor
    """[L, D] unit vectors."""
    values: Tensor
    """[L] int64."""
    pictures: Tensor
    """[L] int64; equal where two lines are of one picture."""


def average_precision(hits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average precision of each query's ranked gallery.

    Args:
        hits: [Q, G] bool, best candidate first.
        valid: [Q, G] bool, False on padding; None where there is none.

    Returns:
        [Q] float64 in [0, 1]; 0 where a query has no hit.

    Raises:
        ValueError: if the shapes differ.

    Source: Manning et al., Introduction to Information Retrieval, 8.4.
    """
    if valid is not None and hits.shape != valid.shape:
        raise ValueError(f"hits {tuple(hits.shape)} and valid {tuple(valid.shape)} differ in shape")
    rows, columns = (hits if valid is None else hits & valid).nonzero(as_tuple=True)
    ranks = columns + 1 if valid is None else valid.cumsum(1, dtype=torch.int32)[rows, columns]
    num_hits = torch.bincount(rows, minlength=len(hits))
    # Hits come row by row, so a hit's place within its row is its place among all less those of rows above.
    found = torch.arange(1, len(rows) + 1, device=hits.device) - (num_hits.cumsum(0) - num_hits)[rows]
    totals = torch.zeros(len(hits), dtype=torch.float64, device=hits.device)
    totals.index_add_(0, rows, found.double() / ranks)
    return totals / num_hits.clamp(min=1)


def retrieval(queries: Listed, gallery: Listed) -> RetrievalScores:
    """Rank the whole gallery for each query and judge it; a query's own picture is left out of its ranking.

    Args:
        queries: Q lines.
        gallery: G lines.

    Raises:
        ValueError: if a vector is not finite.
    """
    for name, lines in (("query", queries), ("gallery", gallery)):
        if not bool(torch.isfinite(lines.vectors).all()):
            raise ValueError(f"a {name} vector is not finite, so nothing can be ranked")
    num_queries, num_gallery = len(queries.vectors), len(gallery.vectors)
    precisions = torch.zeros(num_queries, dtype=torch.float64)
    first = torch.zeros(num_queries, max(RECALL_AT), dtype=torch.bool)
    num_relevant = torch.zeros(num_queries, dtype=torch.int64)
    num_candidates = torch.full((num_queries,), num_gallery)
    shared = bool(torch.isin(queries.pictures, gallery.pictures).any())
    step = max(1, CHUNK_SCORES // max(1, num_gallery))
    for start in range(0, num_queries, step):
        rows = slice(start, start + step)
        relevant = queries.values[rows, None] == gallery.values
        scores = queries.vectors[rows].float() @ gallery.vectors.float().T
        if shared:
            own = queries.pictures[rows, None] == gallery.pictures
            relevant &= ~own
            scores[own] = -torch.inf  # last and not relevant: no other candidate's rank depends on it
            num_candidates[rows] -= own.sum(1)
        hits = _ranked(scores, relevant)
        precisions[rows] = average_precision(hits)
        first[rows, : hits.shape[1]] = hits[:, : max(RECALL_AT)]
        num_relevant[rows] = relevant.sum(1)
    return RetrievalScores(
        precisions, {k: first[:, :k].any(1) for k in RECALL_AT}, num_relevant, num_candidates
    )


def _ranked(scores: Tensor, relevant: Tensor) -> Tensor:
    """Order relevance by falling score, among equals the irrelevant first.

    Args:
        scores: [Q, G] float32 without NaN.
        relevant: [Q, G] bool.

    Returns:
        [Q, G] bool, best candidate first.
    """
    # Relevance rides in the lowest bit of an integer that sorts like the score. Sorting values alone is what
    # numpy does with vector instructions: 7 times as fast as an argsort (512 x 30,000: 0.33 s against 2.3 s).
    bits = (scores + 0.0).view(torch.int32)  # minus zero becomes zero
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = rising.bitwise_not_().long()
    keys <<= 1
    keys |= relevant
    best_first: NDArray[np.int64] = keys.cpu().numpy()
    best_first.sort(axis=1)
    return torch.from_numpy((best_first & 1).astype(bool))


def expected_random_ap(num_relevant: Tensor, num_gallery: Tensor) -> Tensor:
    """Return the exact expectation of average precision under a uniformly random ranking.

    With R of G relevant, rank i is relevant with probability R/G, and then (i-1)(R-1)/(G-1) of those before
    it are as well; so E = (H + (R-1)/(G-1) (G - H)) / G with H the G-th harmonic number. 0 where R = 0.

    Args:
        num_relevant: [Q] int64, R of each query.
        num_gallery: [Q] int64, G of each query.

    Returns:
        [Q] float64.

    Raises:
        ValueError: if an R is negative or above its G.
    """
    wrong = (num_relevant < 0) | (num_relevant > num_gallery)
    if bool(wrong.any()):
        found = f"{int(num_relevant[wrong][0])} of {int(num_gallery[wrong][0])}"
        raise ValueError(f"expected 0 <= relevant <= gallery, found {found}")
    relevant, gallery = num_relevant.double(), num_gallery.double()
    most = int(num_gallery.max()) if len(num_gallery) else 0
    ranks = torch.arange(1, most + 1, dtype=torch.float64, device=num_gallery.device)
    sums = torch.cat([ranks.new_zeros(1), (1 / ranks).cumsum(0)])
    harmonic = sums[num_gallery]
    others = (relevant - 1) / (gallery - 1).clamp(min=1)
    expected = (harmonic + others * (gallery - harmonic)) / gallery.clamp(min=1)
    return torch.where(num_relevant > 0, expected, 0.0)


def triplet_accuracy(anchor: Tensor, positive: Tensor, negative: Tensor) -> float:
    """Return the share of triplets whose positive is strictly nearer: the figure of Zappos50k.

    Args:
        anchor: [N, D] unit vectors.
        positive: [N, D] unit vectors.
        negative: [N, D] unit vectors.
    """
    return float(((anchor * positive).sum(1) > (anchor * negative).sum(1)).double().mean())
