"""The line from tar to Parquet and FAISS against the bare embedder, and against the same work in Ray Data.

    python benchmarks/line.py

Sides, in turn within one run, medians of the rounds:

- bare: pixels that were decoded before, through the embedder, nothing read and nothing written; the faster of
  one process with all threads and of as many processes as the line has, with the line's threads each;
- line: what a night does with a shard and a model: read the tar, check every picture's digest, decode, embed,
  write a checked Parquet file of every attribute, receipts, then FAISS files of all parts. Its actors have
  started and loaded before the clock runs;
- whole line: the same with its actors started within the clock;
- Ray Data: `read_webdataset`, `map_batches` that decodes, `map_batches` with a pool of actors that embed,
  `write_parquet`; its actors start within the clock too. It does less: it checks no digest and makes no FAISS
  file.

Floor: the bare embedder is all that must cost; `share_of_bare_model` is the line's images/s over its own, and
`ratio_ray_data` the whole line's over Ray Data's. Where the model runs on the cores that also decode, nothing
hides behind it: then the share cannot exceed the model's share of the processor time, which the floor states.
Memory: `peak_gib_4x_over_1x` compares the peak of all processes over four times the pictures with once.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
import tyro
from rich.table import Table

from agman.images import OVERSAMPLING
from agman.transforms import Preprocess
from benchmarks.made_shards import MadeShard, make_model, make_shards
from benchmarks.memory import PeakMemory
from benchmarks.photographs import write_photographs
from benchmarks.ray_data_line import ray_data_line
from benchmarks.reporting import MIN_ROUNDS, console, report
from benchmarks.scaling import LastingWorkers
from pipelines.actors import ActorWorkers
from pipelines.cluster import connected
from pipelines.embed_workers import EmbedActor
from pipelines.embedding import EmbedOptions, PartEmbedder, plan_part
from pipelines.index import IndexOptions, build_group, plan_groups
from pipelines.lake import Lake
from pipelines.scheduling import Receipt, Unit, run_units
from pipelines.storage.snapshots import Part
from pipelines.telemetry import quiet
from pipelines.workers import QUEUED, TaskWorkers

MEMORY_FACTOR = 4
WAYS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Workers and threads of each that are compared for oversubscription."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    num_images: int = 768
    """Pictures of a round."""
    images_per_shard: int = 96
    """Pictures of a unit of work."""
    picture_width: int = 512
    """Width of the JPEGs, which are a quarter higher."""
    image_size: int = 224
    """Side that the model sees."""
    trunk: str = "resnet50"
    """The network's trunk, with random weights."""
    batch_size: int = 32
    """Pictures of a forward pass."""
    precision: str = "auto"
    """As `--embed.precision` of a night."""
    oversampling: float = OVERSAMPLING
    """As `--preprocess.oversampling` of a training."""
    num_workers: int = 2
    """Actors of the line, of one thread each, and of Ray Data's pool."""
    rounds: int = MIN_ROUNDS
    """Rounds, of which the median is taken, after one to warm up."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse workers without a unit."""
        if self.num_images < self.images_per_shard * self.num_workers:
            raise ValueError(f"num_images: expected a shard a worker, found {self.num_images}")


class LineActor(EmbedActor):
    """An actor of the line that can also embed pixels which it holds."""

    def bare(self, num_images: int) -> float:
        """Embed noise; returns the seconds of its clock."""
        return embed_noise(self._embedder, num_images)


def embed_noise(embedder: PartEmbedder, num_images: int) -> float:
    """Embed pixels that are decoded already, batch after batch; returns the seconds."""
    size, side = embedder.batch_size, embedder.loaded.preprocess.image_size
    pixels = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
    started = time.perf_counter()
    for _ in range(num_images // size):
        embedder.embed(pixels)
    return time.perf_counter() - started


@dataclass(slots=True)
class Line:
    """The product's line over made shards, under a new model's name each time, so that nothing is there."""

    lake: Lake
    model: str
    shards: Sequence[MadeShard]
    options: Options
    num_runs: int = 0
    receipts: list[Receipt] = field(default_factory=list)
    """Of the parts of the last run."""

    def embed_options(self, threads: int = 1) -> EmbedOptions:
        """Return how an actor embeds."""
        options = self.options
        return EmbedOptions(
            batch_size=options.batch_size, threads=threads, accelerator="cpu", precision=options.precision
        )

    def start(self, threads: int = 1) -> Any:
        """Start an actor; it reserves no CPU, so that more threads than cores can be tried."""
        actor: Any = ray.remote(LineActor).options(num_cpus=0, max_restarts=-1, max_concurrency=QUEUED)
        return actor.remote(self.lake, self.model, self.embed_options(threads))

    def run(self, workers: ActorWorkers, copies: int = 1) -> None:
        """Embed and index all shards, `copies` times under a name each."""
        self.num_runs += 1
        names = [f"{self.model}-{self.num_runs}-{copy}" for copy in range(copies)]
        units = [
            plan_part(made.receipt.unit, made.receipt.files, name, made.digests)
            for name in names
            for made in self.shards
        ]
        self.receipts = []
        parts: dict[str, list[Part]] = {name: [] for name in names}
        for unit, made, _ in run_units(self.lake, units, workers):
            self.receipts.append(made)
            parts[unit.payload.model].append(_part(made))
        lake = self.lake

        def work(unit: Unit) -> Receipt:
            return build_group(lake, unit)

        groups = (unit for name in names for unit in plan_groups(name, parts[name], IndexOptions()))
        list(run_units(lake, groups, TaskWorkers(work)))

    def whole(self, copies: int = 1) -> None:
        """Start actors, embed and index, and end them."""
        self.run(ActorWorkers(self.start, self.options.num_workers), copies)


def main(options: Options) -> None:
    """Make shards, run the sides in turn, and report."""
    quiet()
    os.environ.pop("RAY_ADDRESS", None)  # the cores of this machine are the floor
    with tempfile.TemporaryDirectory(prefix="line-") as folder, connected():
        lake = Lake(f"{folder}/lake")
        console.print(f"making and packing {options.num_images} pictures")
        write_photographs(Path(folder) / "pictures", options.num_images, options.picture_width)
        shards = make_shards(lake, f"{folder}/pictures", options.images_per_shard, "line")
        preprocess = Preprocess(image_size=options.image_size, oversampling=options.oversampling)
        model = make_model(lake, Path(folder) / "model", options.trunk, preprocess)
        line = Line(lake, model, shards, options)
        seconds = _measure(line)
        work = {part: sum(made.seconds[part] for made in line.receipts) for part in line.receipts[0].seconds}
        ways = _measure_ways(line)
        peaks = _measure_memory(line)
    found = figures(options.num_images, seconds, ways, peaks)
    floor = {"share_of_bare_model": work["model"] / sum(work.values())}
    report("line", _table(options, found, work), found, floor, options.results)


def figures(
    num_images: int,
    seconds: Mapping[str, float],
    ways: Mapping[tuple[int, int], float],
    peaks: Sequence[float],
) -> dict[str, float]:
    """Return ratios and images/s.

    Args:
        num_images: of a round.
        seconds: by side.
        ways: images/s of the line by workers and threads of each.
        peaks: GiB over the pictures once, and `MEMORY_FACTOR` times.
    """
    rates = {name: num_images / taken for name, taken in seconds.items()}
    bare = max(rates["bare, one process"], rates["bare, in the workers"])
    return {
        "share_of_bare_model": rates["line"] / bare,
        "ratio_ray_data": rates["whole line"] / rates["Ray Data"],
        "peak_gib_4x_over_1x": peaks[1] / peaks[0],
        "peak_gib": peaks[0],
        "bare_images_per_s": bare,
        "line_images_per_s": rates["line"],
        "whole_line_images_per_s": rates["whole line"],
        "ray_data_images_per_s": rates["Ray Data"],
        "start_s": seconds["whole line"] - seconds["line"],
        **{f"images_per_s_{count}x{threads}": rate for (count, threads), rate in ways.items()},
    }


def _measure(line: Line) -> dict[str, float]:
    """Return the median seconds of each side; the receipts that stay are those of the last line."""
    options = line.options
    tars = [f"{line.lake.url}/{made.receipt.files[0].name}" for made in line.shards]
    actors = [line.start() for _ in range(options.num_workers)]
    ray.get([actor.load.remote() for actor in actors])
    alone = PartEmbedder(line.lake, line.model, line.embed_options(threads=os.cpu_count() or 1))
    share = options.num_images // options.num_workers
    with tempfile.TemporaryDirectory(prefix="ray-data-") as output:
        sides: dict[str, Callable[[], object]] = {
            "bare, one process": lambda: embed_noise(alone, options.num_images),
            "bare, in the workers": lambda: ray.get([actor.bare.remote(share) for actor in actors]),
            "Ray Data": lambda: ray_data_line(
                tars, line.lake, line.model, alone.loaded, line.embed_options(),
                options.num_workers, Path(output),
            ),
            "whole line": line.whole,
            "line": lambda: line.run(_lasting(actors)),
        }  # fmt: skip
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds + 1):
            console.print(f"round {number} of {options.rounds}" if number else "warming up")
            for name, side in sides.items():
                started = time.perf_counter()
                side()
                if number:
                    taken[name].append(time.perf_counter() - started)
    for actor in actors:
        ray.kill(actor)
    return {name: statistics.median(each) for name, each in taken.items()}


def _measure_ways(line: Line) -> dict[tuple[int, int], float]:
    """Return images/s of the line by workers and threads of each."""
    found = {}
    for count, threads in WAYS:
        actors = [line.start(threads) for _ in range(count)]
        ray.get([actor.load.remote() for actor in actors])
        ray.get([actor.bare.remote(line.options.batch_size) for actor in actors])
        started = time.perf_counter()
        line.run(_lasting(actors))
        found[count, threads] = line.options.num_images / (time.perf_counter() - started)
        for actor in actors:
            ray.kill(actor)
    return found


def _measure_memory(line: Line) -> list[float]:
    """Return the peak GiB of all processes over the pictures once and `MEMORY_FACTOR` times."""
    found = []
    for copies in (1, MEMORY_FACTOR):
        with PeakMemory() as peak:
            line.whole(copies)
        found.append(peak.gib)
    return found


def _lasting(actors: Sequence[Any]) -> LastingWorkers:
    remaining: Iterator[Any] = iter(actors)
    return LastingWorkers(lambda: next(remaining), len(actors))


def _part(made: Receipt) -> Part:
    files = dict(zip(made.detail["attributes"], made.files, strict=True))
    return Part(name=made.unit, shard=made.detail["shard"], num_rows=made.counts["embedded"], files=files)


def _table(options: Options, found: Mapping[str, float], work: Mapping[str, float]) -> Table:
    table = Table(
        title=f"{options.num_images} JPEGs of {options.picture_width} px, {options.trunk}, "
        f"{options.image_size} px, {options.num_workers} workers; medians of {options.rounds}"
    )
    table.add_column("")
    table.add_column("images/s", justify="right")
    table.add_column("share of bare", justify="right")
    for name, key in (
        ("bare embedder on decoded pixels", "bare_images_per_s"),
        ("line: tar to Parquet and FAISS", "line_images_per_s"),
        ("whole line: with its actors started", "whole_line_images_per_s"),
        ("Ray Data: tar to Parquet", "ray_data_images_per_s"),
    ):
        table.add_row(name, f"{found[key]:.1f}", f"{found[key] / found['bare_images_per_s']:.1%}")
    table.add_section()
    for count, threads in WAYS:
        rate = found[f"images_per_s_{count}x{threads}"]
        table.add_row(
            f"line: {count} workers of {threads} threads",
            f"{rate:.1f}",
            f"{rate / found['bare_images_per_s']:.1%}",
        )
    table.add_section()
    for part, seconds in work.items():
        table.add_row(f"worker time: {part}", "", f"{seconds / sum(work.values()):.1%}")
    table.add_section()
    table.add_row("peak memory, GiB", f"{found['peak_gib']:.2f}", "")
    table.add_row(f"of {MEMORY_FACTOR} times the pictures", "", f"{found['peak_gib_4x_over_1x']:.2f} times")
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
