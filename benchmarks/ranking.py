"""Ranking and judging at the size of the public benchmarks, against an argsort of every query's scores.

    python benchmarks/ranking.py

Both sides rank the same unit vectors, on one thread as an evaluation's tasks do, and give the same average
precision; CPU seconds. Floor: the matrix product of the scores, which an exact ranking has to compute.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from agman.metrics import Listed, average_precision, retrieval
from benchmarks.reporting import in_turn, report

SIZES = {"fashionai_attribute": (450, 1_800), "fashionai_test": (3_600, 14_400), "large": (5_000, 30_000)}
"""By name: queries, candidates. FashionAI's test has eight of the first; the second is as if it had one."""
ARGSORTED = ("fashionai_attribute", "fashionai_test")
"""The largest takes the other side half a minute a round."""
NUM_VALUES = 8
CHUNK = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is measured."""

    dim: int = 512
    """Length of a vector."""
    rounds: int = 5
    """Of which the median is taken, after one to warm up."""
    results: Path | None = None
    """File for the figures."""


def main(options: Options) -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    works: dict[str, Callable[[], object]] = {}
    for number, (name, (num_queries, num_gallery)) in enumerate(SIZES.items()):
        queries = _draw(num_queries, options.dim, seed=2 * number)
        gallery = _draw(num_gallery, options.dim, seed=2 * number + 1)
        works[f"{name} ours"] = partial(retrieval, queries, gallery)
        works[f"{name} scores"] = partial(_scores, queries, gallery)
        if name in ARGSORTED:
            works[f"{name} argsort"] = partial(by_argsort, queries, gallery)
    seconds = in_turn(works, options.rounds, time.process_time)
    figures = {f"{name}_s": seconds[f"{name} ours"] for name in SIZES}
    figures |= {f"{name}_ratio": seconds[f"{name} argsort"] / seconds[f"{name} ours"] for name in ARGSORTED}
    floor = {f"{name}_s": seconds[f"{name} scores"] for name in SIZES}
    report("ranking", _table(options, seconds), figures, floor, options.results)


def by_argsort(queries: Listed, gallery: Listed) -> Tensor:
    """Average precision by a stable argsort of each query's scores and a look-up of relevance."""
    found = []
    for start in range(0, len(queries.vectors), CHUNK):
        rows = slice(start, start + CHUNK)
        order = (queries.vectors[rows] @ gallery.vectors.T).argsort(dim=1, descending=True, stable=True)
        relevant = queries.values[rows, None] == gallery.values
        found.append(average_precision(relevant.gather(1, order)))
    return torch.cat(found)


def _scores(queries: Listed, gallery: Listed) -> None:
    for start in range(0, len(queries.vectors), CHUNK):
        queries.vectors[start : start + CHUNK] @ gallery.vectors.T


def _draw(number: int, dim: int, seed: int) -> Listed:
    generator = torch.Generator().manual_seed(seed)
    vectors = functional.normalize(torch.randn(number, dim, generator=generator), dim=1)
    values = torch.randint(0, NUM_VALUES, (number,), generator=generator)
    return Listed(vectors, values, torch.arange(number) + seed * 1_000_000)


def _table(options: Options, seconds: dict[str, float]) -> Table:
    table = Table("", title=f"Ranking, {options.dim} dimensions, one thread, CPU seconds")
    for name in ("queries", "candidates", "ours", "argsort", "times faster", "scores alone"):
        table.add_column(name, justify="right")
    for name, (num_queries, num_gallery) in SIZES.items():
        ours, argsort = seconds[f"{name} ours"], seconds.get(f"{name} argsort")
        table.add_row(
            name,
            f"{num_queries:,}",
            f"{num_gallery:,}",
            f"{ours:.2f}",
            f"{argsort:.2f}" if argsort else "",
            f"{argsort / ours:.1f}" if argsort else "",
            f"{seconds[f'{name} scores']:.2f}",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
