"""What the pipeline around the model loses as workers are added: 1, 2 and 4 of them, by the clock.

    python benchmarks/scaling.py

The model is simulated: it waits a fixed time for each picture, as one on an accelerator of its own would, and
gives unit vectors. All else is what a night does: an actor reads a tar, decodes, writes a part of every
attribute, and the driver keeps a receipt of each unit. Every worker gets the same number of pictures; actors
are started and have loaded before the clock runs. The efficiency of n workers is their throughput over n
times that of one. Floor: the workers share this machine's cores, so what those allow, cores over what n
workers keep busy, at most 1. A model time far above the true work of a picture keeps it at 1.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import tyro
from rich.table import Table

from agman.lanes import Lane
from agman.transforms import Preprocess
from benchmarks.made_shards import MadeShard, make_model, make_shards
from benchmarks.reporting import MIN_ROUNDS, console, report
from pipelines.actors import ActorWorkers
from pipelines.cluster import connected
from pipelines.embedding import EmbedOptions, PartEmbedder, plan_part
from pipelines.lake import Lake
from pipelines.parts import round_to_half
from pipelines.scheduling import run_units
from pipelines.telemetry import quiet

COUNTS = (1, 2, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    lake: str = ""
    """Root of a new lake, such as s3://bucket/prefix; empty: a temporary folder."""
    images_per_worker: int = 192
    """Pictures that each worker embeds in a round."""
    images_per_shard: int = 32
    """Pictures of a unit of work."""
    model_ms: float = 80.0
    """Milliseconds that the simulated model takes for a picture: about what ResNet-50 takes on two cores."""
    image_size: int = 224
    """Side in pixels, of what is drawn and of what is decoded."""
    rounds: int = MIN_ROUNDS
    """Rounds, of which the median is taken, after one to warm up."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse workers without a unit."""
        if not 1 <= self.images_per_shard <= self.images_per_worker:
            raise ValueError(
                f"images_per_shard: expected 1 to {self.images_per_worker}, found {self.images_per_shard}"
            )


class WaitingEmbedder(PartEmbedder):
    """Makes parts with a model that waits; also the actor, which loads with its constructor."""

    def __init__(self, lake: Lake, model: str, options: EmbedOptions, model_ms: float) -> None:
        """Load the model that is not asked, for its taxonomy and its preprocessing."""
        super().__init__(lake, model, options)
        self._model_ms = model_ms
        shape = (len(self.loaded.taxonomy), self.loaded.model.config.embedding_dim)
        vector = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self._vector = round_to_half(vector / np.linalg.norm(vector, axis=1, keepdims=True))

    def load(self) -> None:
        """Nothing is left to load."""

    def embed_through(self, lane: Lane, pixels: torch.Tensor) -> np.ndarray:
        """Wait, then return [B, A, D] of the same unit vectors."""
        time.sleep(self._model_ms * len(pixels) / 1000)
        return np.repeat(self._vector[None], len(pixels), axis=0)


class LastingWorkers(ActorWorkers):
    """Actors that outlive the rounds, since starting them is not measured."""

    def cancel(self) -> None:
        """Keep them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of some workers."""

    seconds: float
    """By the clock, from the first unit given to the last receipt."""
    num_images: int
    work_s: float
    """Worker seconds of read, decode and write."""

    @property
    def images_per_s(self) -> float:
        """Throughput."""
        return self.num_images / self.seconds


def main(options: Options) -> None:
    """Make shards, run every number of workers in turn, and report."""
    quiet()
    os.environ.pop("RAY_ADDRESS", None)  # the cores of this machine are the floor
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, connected():
        lake = Lake(options.lake or f"{folder}/lake")
        model = make_model(
            lake, Path(folder) / "model", "resnet18", Preprocess(image_size=options.image_size)
        )
        num_images = max(COUNTS) * options.images_per_worker
        source = f"generated:num_images={num_images},size={options.image_size}"
        shards = make_shards(lake, source, options.images_per_shard, "scaling")
        actor: Any = ray.remote(WaitingEmbedder).options(num_cpus=0, max_restarts=-1)
        embed = EmbedOptions(batch_size=options.images_per_shard, precision="float32", accelerator="cpu")
        actors = [actor.remote(lake, model, embed, options.model_ms) for _ in range(max(COUNTS))]
        ray.get([each.__ray_ready__.remote() for each in actors])
        found: dict[int, list[Measured]] = {count: [] for count in COUNTS}
        for number in range(options.rounds + 1):
            console.print(f"round {number} of {options.rounds}" if number else "warming up")
            for count in COUNTS:
                made = _measure(lake, f"round-{number}-of-{count}", shards, actors[:count], options)
                if number:
                    found[count].append(made)
    measured = {count: median(rounds) for count, rounds in found.items()}
    floor = floors(measured, options.model_ms, os.cpu_count() or 1)
    report("scaling", _table(options, measured, floor), figures(measured), floor, options.results)


def median(rounds: Sequence[Measured]) -> Measured:
    """Return the rounds' medians, figure by figure."""
    return Measured(
        statistics.median(each.seconds for each in rounds),
        rounds[0].num_images,
        statistics.median(each.work_s for each in rounds),
    )


def figures(measured: Mapping[int, Measured]) -> dict[str, float]:
    """Return throughput and efficiency by number of workers, and the true work of a picture."""
    alone = measured[1].images_per_s
    found: dict[str, float] = {}
    for count, each in measured.items():
        found[f"images_per_s_{count}"] = each.images_per_s
        found[f"efficiency_{count}"] = each.images_per_s / (count * alone)
        found[f"work_ms_per_image_{count}"] = 1000 * each.work_s / each.num_images
    return found


def floors(measured: Mapping[int, Measured], model_ms: float, num_cores: float) -> dict[str, float]:
    """Return the best efficiency that the cores allow: a worker is busy for its true work alone."""
    work_ms = 1000 * measured[1].work_s / measured[1].num_images
    busy = work_ms / (model_ms + work_ms)
    return {f"efficiency_{count}": min(1.0, num_cores / (count * busy)) for count in measured}


def _measure(
    lake: Lake, name: str, shards: Sequence[MadeShard], actors: list[Any], options: Options
) -> Measured:
    """Embed each worker's share under a model's name of its own, so that nothing is there already."""
    num_units = len(actors) * (options.images_per_worker // options.images_per_shard)
    units = [
        plan_part(made.receipt.unit, made.receipt.files, name, made.digests) for made in shards[:num_units]
    ]
    remaining = iter(actors)
    workers = LastingWorkers(lambda: next(remaining), len(actors))
    started = time.perf_counter()
    made = [receipt for _, receipt, _ in run_units(lake, units, workers)]
    seconds = time.perf_counter() - started
    work = sum(each.seconds[part] for each in made for part in ("read", "decode", "write"))
    return Measured(seconds, sum(each.counts["embedded"] for each in made), work)


def _table(options: Options, measured: Mapping[int, Measured], floor: Mapping[str, float]) -> Table:
    table = Table(
        title=f"{options.images_per_worker} pictures a worker, {options.image_size} px, "
        f"{options.model_ms:g} ms of model each; medians of {options.rounds}"
    )
    for name in ("workers", "images/s", "efficiency", "floor", "true work, ms a picture"):
        table.add_column(name, justify="right")
    found = figures(measured)
    for count in measured:
        table.add_row(
            str(count),
            f"{found[f'images_per_s_{count}']:.1f}",
            f"{found[f'efficiency_{count}']:.3f}",
            f"{floor[f'efficiency_{count}']:.2f}",
            f"{found[f'work_ms_per_image_{count}']:.1f}",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
