"""From vectors of held-out pictures to figures, one attribute at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agman.metrics import Listed, expected_random_ap, retrieval, triplet_accuracy
from pipelines.held_out import HeldOut, Lines, Positions

MODEL = "model"
"""Name of the judged model's vectors among those that are compared."""
MAP = "map"
TRIPLET_ACCURACY = "triplet_accuracy"
RANDOM = "random"
GUESSED_TRIPLETS = 0.5
TRIPLET_CHUNK = 8192  # three vectors of 512 dimensions each: 50 MB

Row = dict[str, Any]
"""Figures of one attribute. The judged model's are named by what they measure: `map` or `triplet_accuracy`,
`recall_at_k`, …; the first of these for what it is compared with by who that is: `random`, `untrained`, …"""


def score_attribute(
    held_out: HeldOut, attribute: int, positions: Positions, vectors: Mapping[str, Tensor]
) -> Row | None:
    """Judge one attribute by its triplets where it has them, else by its lists.

    Args:
        held_out: who is compared with whom.
        attribute: position in the model's taxonomy.
        positions: [N] in `held_out.pictures`; pictures that are not among them were not readable.
        vectors: by name, `MODEL` and what is compared with it: [N, D] unit vectors under this attribute.

    Returns:
        The figures; None where no pictures are left to compare.
    """
    place = np.full(len(held_out.pictures), -1)
    place[positions] = np.arange(len(positions))
    if attribute in held_out.triplets:
        rows = place[held_out.triplets[attribute]]
        return _score_triplets(rows[(rows >= 0).all(axis=1)], vectors)
    queries, candidates = (_readable(lines, place) for lines in held_out.lists[attribute])
    return _score_lists(queries, candidates, place, vectors)


def _score_lists(
    queries: Lines, candidates: Lines, place: Positions, vectors: Mapping[str, Tensor]
) -> Row | None:
    if not len(queries.values) or not len(candidates.values):
        return None
    found = {
        name: retrieval(_listed(queries, place, rows), _listed(candidates, place, rows))
        for name, rows in vectors.items()
    }
    judged = found.pop(MODEL)
    return {
        MAP: float(judged.average_precision.mean()),
        **{f"recall_at_{k}": float(hit.double().mean()) for k, hit in judged.recall_at.items()},
        "num_queries": len(queries.values),
        "num_candidates": len(candidates.values),
        "queries_without_relevant": int((judged.num_relevant == 0).sum()),
        RANDOM: float(expected_random_ap(judged.num_relevant, judged.num_candidates).mean()),
        **{name: float(rival.average_precision.mean()) for name, rival in found.items()},
    }


def _score_triplets(rows: Positions, vectors: Mapping[str, Tensor]) -> Row | None:
    if not len(rows):
        return None
    found = {name: _triplet_accuracy(rows, among) for name, among in vectors.items()}
    judged = found.pop(MODEL)
    return {TRIPLET_ACCURACY: judged, "num_triplets": len(rows), RANDOM: GUESSED_TRIPLETS, **found}


def _triplet_accuracy(rows: Positions, among: Tensor) -> float:
    """Return the share of triplets [T, 3] whose positive is strictly nearer, some thousands at a time."""
    chunks = [torch.from_numpy(rows[at : at + TRIPLET_CHUNK]) for at in range(0, len(rows), TRIPLET_CHUNK)]
    right = [triplet_accuracy(*(among[column] for column in chunk.T)) * len(chunk) for chunk in chunks]
    return sum(right) / len(rows)


def measure_of(row: Row) -> str:
    """Return what a row, of an attribute or of all, measures."""
    return MAP if MAP in row else TRIPLET_ACCURACY


def overall(rows: Mapping[str, Row], kinds: tuple[str, ...]) -> dict[str, Row]:
    """Average figures over attributes.

    Args:
        rows: by attribute; at least one.
        kinds: the figures that are averaged.

    Returns:
        `query_weighted`, the papers' number, in which each query (or triplet) counts alike, and `plain`, in
        which each attribute does.
    """
    counted = "num_queries" if MAP in kinds else "num_triplets"
    weights = [row[counted] for row in rows.values()]
    return {
        "query_weighted": {
            kind: float(np.average([row[kind] for row in rows.values()], weights=weights)) for kind in kinds
        },
        "plain": {kind: float(np.mean([row[kind] for row in rows.values()])) for kind in kinds},
    }


def _listed(lines: Lines, place: Positions, among: Tensor) -> Listed:
    rows = torch.from_numpy(place[lines.pictures])
    return Listed(among[rows], torch.from_numpy(lines.values), torch.from_numpy(lines.pictures))


def _readable(lines: Lines, place: Positions) -> Lines:
    kept = place[lines.pictures] >= 0
    return Lines(lines.pictures[kept], lines.values[kept])
