"""Baselines, ablations and ways of sampling at equal training time, on generated garments.

    python benchmarks/quality.py

Every variant trains for the same processor time of one core, from the same trunk: a ResNet-18 that was taught
to name values on another drawn catalog, in place of the ImageNet weights that the published training starts
from. MAP is query-weighted over held-out products. The floor is the exact expectation of a random ranking.
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro
from rich.table import Table

from agman.model import ModelConfig
from agman.taxonomy import FASHIONAI
from agman.trainer import TrainerConfig
from agman.transforms import Augmentation, Preprocess
from benchmarks.reporting import console, report
from benchmarks.starting_trunk import TRUNK, pretrain
from pipelines.cluster import connected
from pipelines.dataset import Dataset, Description
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.scoring import MAP, MODEL, RANDOM, overall, score_attribute
from pipelines.telemetry import Run
from pipelines.training.config import TrainConfig
from pipelines.training.learner import Learner
from pipelines.training.pictures import training_pictures
from pipelines.validation import Validation, load_validation, validate

EMBEDDING_DIM = 128
PAPER, BATCH = "paper sampling", "batch sampling"
HELD_OUT = {"valid": "valid_query", "query": "valid_query", "candidate": "valid_candidate"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the comparison."""

    seconds: float = 90
    """Processor time of one training."""
    pretrain_seconds: float = 900
    """Processor time of the trunk that all start from."""
    seeds: int = 3
    """Trainings of each variant."""
    num_images: int = 4000
    """Pictures of the catalog: three quarters to learn from."""
    held_out: int = 500
    """Most pictures that judge a training; the rest of the last quarter is not used."""
    image_size: int = 64
    """Side in pixels."""
    evaluations: int = 6
    """Points of each curve."""
    processes: int = 2
    """Trainings at once, a core each."""
    lr: float = 5e-4
    """Adam's step size in every variant."""
    work: Path = Path(".benchmarks/quality")
    """Where pictures and trunk are kept for the next run."""
    only: tuple[str, ...] = ()
    """Names of variants; all where left out."""
    results: Path | None = None
    """File for the figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of the table: what differs from full AG-MAN with batch sampling."""

    name: str
    network: ModelConfig = field(
        default_factory=lambda: ModelConfig(trunk=TRUNK, embedding_dim=EMBEDDING_DIM)
    )
    optimisation: TrainerConfig = field(default_factory=lambda: TrainerConfig(sampling="batch"))


_FULL = Variant(name=BATCH)
_TRIPLETS = replace(
    _FULL, name="without classification", optimisation=replace(_FULL.optimisation, classification=False)
)
VARIANTS = (
    replace(_FULL, name=PAPER, optimisation=TrainerConfig(sampling="paper")),
    _FULL,
    replace(_FULL, name="semi-hard mining", optimisation=replace(_FULL.optimisation, mining="semi_hard")),
    replace(_FULL, name="hard mining", optimisation=replace(_FULL.optimisation, mining="hard")),
    replace(_FULL, name="contrastive loss", optimisation=replace(_FULL.optimisation, loss="contrastive")),
    replace(_FULL, name="learned weights", optimisation=replace(_FULL.optimisation, weighting="learned")),
    _TRIPLETS,
    replace(_FULL, name="without multi-level", network=replace(_FULL.network, multi_level=False)),
    replace(_TRIPLETS, name="CSN masks", network=replace(_FULL.network, head="csn")),
    replace(_TRIPLETS, name="plain triplet", network=replace(_FULL.network, head="plain")),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """One training."""

    variant: str
    seed: int
    points: tuple[tuple[float, float], ...]
    """Processor seconds and validation MAP, from before the first step on."""
    steps: int


def main(options: Options) -> None:
    """Draw, pretrain, train all variants, report."""
    chosen = [variant for variant in VARIANTS if not options.only or variant.name in options.only]
    dataset = _dataset(options, seed=0)
    trunk = _trunk(options)
    tasks = [(variant, seed) for seed in range(options.seeds) for variant in chosen]
    curves: list[Curve] = []
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        futures = [pool.submit(train, options, dataset, trunk, *task) for task in tasks]
        for future in futures:
            curves.append(future.result())
            last = curves[-1]
            console.print(
                f"{len(curves)}/{len(tasks)} {last.variant}, seed {last.seed}: {last.steps} steps, "
                f"MAP {last.points[0][1]:.4f} -> {last.points[-1][1]:.4f}"
            )
    random = _random_map(dataset, options)
    table, figures = _table(curves, chosen, random, options), _figures(curves, chosen)
    report("quality", table, figures, {"map_random": random}, options.results)


def train(options: Options, dataset: Dataset, trunk: Path, variant: Variant, seed: int) -> Curve:
    """Train one variant for its processor time; judging it is not counted."""
    torch.set_num_threads(1)
    config = TrainConfig(
        lake="",
        source="",
        network=replace(variant.network, pretrained=str(trunk)),
        preprocess=Preprocess(image_size=options.image_size),
        augmentation=Augmentation(),
        optimisation=replace(variant.optimisation, lr=options.lr, schedule="constant", seed=seed),
        num_workers=1,
        buffer_samples=options.num_images,
    )
    validation = _validation(dataset, options)
    learner = Learner(config, FASHIONAI, training_pictures(dataset, FASHIONAI))
    points = [(0.0, validate(learner.model, validation, config.preprocess))]
    spent = 0.0
    for number in range(1, options.evaluations + 1):
        due = options.seconds * number / options.evaluations
        while spent < due:
            started = time.process_time()
            learner.learn()
            spent += time.process_time() - started
        points.append((spent, validate(learner.model, validation, config.preprocess)))
    return Curve(variant.name, seed, tuple(points), learner.step)


def _validation(dataset: Dataset, options: Options) -> Validation:
    preprocess = Preprocess(image_size=options.image_size)
    return load_validation(dataset, FASHIONAI, preprocess, limit=options.held_out)


def _dataset(options: Options, seed: int) -> Dataset:
    """Draw and shard a catalog; a quarter of it is held out, a tenth of the whole asks."""
    lake = options.work / f"catalog-{seed}"
    config = NightConfig(
        lake=str(lake), source=f"generated:num_images={options.num_images},seed={seed},size=128"
    )
    with connected():
        dataset = build_shards(config, Run("quality", config, Lake(config.lake)))
    described = {
        sha256: tuple(Description(HELD_OUT.get(use.role, use.role), use.labels) for use in uses)
        for sha256, uses in dataset.described.items()
    }
    return replace(dataset, described=described)


def _trunk(options: Options) -> Path:
    """Return the trunk that all variants start from, trained once."""
    path = (
        options.work / f"trunk-{options.num_images}-{options.image_size}-{options.pretrain_seconds:.0f}.pth"
    )
    if not path.exists():
        dataset = _dataset(options, seed=1)
        console.print(
            f"teaching a trunk to name values for {options.pretrain_seconds:.0f} s of processor time"
        )
        pretrain(dataset, options.image_size, options.pretrain_seconds, path)
    return path


def _random_map(dataset: Dataset, options: Options) -> float:
    """Return the expectation of a random ranking on the held-out pictures."""
    validation = _validation(dataset, options)
    nothing = torch.zeros(len(validation.positions), 1)
    scored = {
        str(attribute): score_attribute(
            validation.held_out, attribute, validation.positions, {MODEL: nothing}
        )
        for attribute in validation.held_out.attributes
    }
    rows = {name: row for name, row in scored.items() if row is not None}
    return float(overall(rows, (MAP, RANDOM))["query_weighted"][RANDOM])


def _finals(curves: Iterable[Curve], variant: str) -> list[float]:
    return [curve.points[-1][1] for curve in curves if curve.variant == variant]


def _mean_curve(curves: Iterable[Curve], variant: str) -> list[float]:
    points = [[score for _, score in curve.points] for curve in curves if curve.variant == variant]
    return [statistics.fmean(scores) for scores in zip(*points, strict=True)]


def time_share(curves: Sequence[Curve], variant: str) -> float | None:
    """Return the share of the time after which a variant's mean stays at what paper sampling ends with."""
    target, reached = _mean_curve(curves, PAPER)[-1], _mean_curve(curves, variant)
    below = [place for place, score in enumerate(reached) if score < target]
    first = below[-1] + 1 if below else 0
    return first / (len(reached) - 1) if first < len(reached) else None


def _table(curves: Sequence[Curve], variants: Sequence[Variant], random: float, options: Options) -> Table:
    table = Table(
        title=f"MAP after {options.seconds:.0f} s of one core, {options.seeds} seeds, "
        f"{options.image_size} px; a random ranking has {random:.4f}"
    )
    for name in ("variant", "MAP", "lowest", "highest", "times random", "steps", "time to paper's MAP"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for variant in variants:
        found = _finals(curves, variant.name)
        steps = statistics.fmean(curve.steps for curve in curves if curve.variant == variant.name)
        share = time_share(curves, variant.name) if _finals(curves, PAPER) else None
        table.add_row(
            variant.name,
            *(f"{value:.4f}" for value in (statistics.fmean(found), min(found), max(found))),
            f"{statistics.fmean(found) / random:.2f}",
            f"{steps:.0f}",
            "never" if share is None else f"{share:.0%}",
        )
    return table


def _figures(curves: Sequence[Curve], variants: Sequence[Variant]) -> dict[str, float]:
    figures = {}
    for variant in variants:
        name = variant.name.replace(" ", "_").replace("-", "_")
        figures[f"map_{name}"] = statistics.fmean(_finals(curves, variant.name))
        share = time_share(curves, variant.name) if _finals(curves, PAPER) else None
        if share is not None and variant.name != PAPER:
            figures[f"time_share_{name}"] = share
    return figures


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
