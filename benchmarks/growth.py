"""Whether a picture costs the same in a large catalog as in a small one: first nights of 1, 2, 4 and 8 times.

    python benchmarks/growth.py

Each night is the product's own, into an empty lake: shard, embed, index, gates, publish, report. A straight
line is fitted to the seconds over the pictures: its height at none is the start-up (actors, imports,
empty tables), its slope the cost of a picture. `per_image_8x_over_1x` compares what a picture of the largest
catalog costs with one of the smallest, both without that start-up; `work_per_image_8x_over_1x` does so by the
workers' own clocks. Floor: 1.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.table import Table

from agman.transforms import Preprocess
from benchmarks.made_shards import make_model
from benchmarks.photographs import write_photographs
from benchmarks.reporting import console, report
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.telemetry import Run, quiet

FACTORS = (1, 2, 4, 8)
PLANNING = "read source"
REST = "rest"
FLOOR = {"per_image_8x_over_1x": 1.0, "work_per_image_8x_over_1x": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    num_images: int = 2000
    """Pictures of the smallest catalog."""
    picture_width: int = 128
    """Width of the JPEGs, which are a quarter higher."""
    image_size: int = 64
    """Side that the model sees."""
    trunk: str = "resnet18"
    """The network's trunk, with random weights."""
    results: Path | None = None
    """File for the figures."""


@dataclass(frozen=True, slots=True)
class Night:
    """What a first night cost."""

    num_images: int
    stages: dict[str, float]
    """Seconds of the clock by stage, and `REST`."""
    work_s: float
    """Worker seconds: read, decode, model, index, write."""

    @property
    def seconds(self) -> float:
        """Of the clock, the whole night."""
        return sum(self.stages.values())


def main(options: Options) -> None:
    """Run a night of each size and report."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name)
        console.print(f"making {FACTORS[-1] * options.num_images} pictures")
        write_photographs(folder / "all", FACTORS[-1] * options.num_images, options.picture_width)
        nights = []
        for factor in FACTORS:
            console.print(f"{factor} times {options.num_images} pictures")
            nights.append(_run_night(folder, factor, options))
    start_s, image_s = fitted(nights)
    report(
        "growth", _table(options, nights, start_s), figures(nights, start_s, image_s), FLOOR, options.results
    )


def fitted(nights: Sequence[Night]) -> tuple[float, float]:
    """Return the start-up and the seconds of a picture that fit the nights best, by least squares."""
    slope, start = np.polyfit([n.num_images for n in nights], [n.seconds for n in nights], 1)
    return float(start), float(slope)


def figures(nights: Sequence[Night], start_s: float, image_s: float) -> dict[str, float]:
    """Return costs a picture by size, and how those of the largest compare with those of the smallest."""
    clock = [(night.seconds - start_s) / night.num_images for night in nights]
    work = [night.work_s / night.num_images for night in nights]
    found = {
        "per_image_8x_over_1x": clock[-1] / clock[0],
        "work_per_image_8x_over_1x": work[-1] / work[0],
        "start_s": start_s,
        "ms_per_image": 1000 * image_s,
    }
    for factor, night, per_image, worked in zip(FACTORS, nights, clock, work, strict=True):
        found |= {f"seconds_{factor}x": night.seconds, f"read_source_s_{factor}x": night.stages[PLANNING]}
        found |= {f"ms_per_image_{factor}x": 1000 * per_image, f"work_ms_per_image_{factor}x": 1000 * worked}
    return found


def _run_night(folder: Path, factor: int, options: Options) -> Night:
    """Publish a part of the pictures in a lake of its own."""
    num_images = factor * options.num_images
    source = folder / f"pictures-{factor}"
    source.mkdir()
    for picture in sorted((folder / "all").iterdir())[:num_images]:
        (source / picture.name).hardlink_to(picture)
    lake = Lake(f"{folder}/lake-{factor}")
    make_model(lake, folder / f"model-{factor}", options.trunk, Preprocess(image_size=options.image_size))
    config = NightConfig(lake=lake.url, source=str(source), model=str(folder / f"model-{factor}"))
    run = Run("growth", config, lake)
    run_night(config, run)
    stages = {stage.name: stage.seconds for stage in run.stages}
    stages[REST] = run.seconds() - sum(stages.values())
    return Night(num_images, stages, sum(sum(stage.parts.values()) for stage in run.stages))


def _table(options: Options, nights: Sequence[Night], start_s: float) -> Table:
    table = Table(title=f"first nights, {options.trunk}, {options.image_size} px; seconds of the clock")
    table.add_column("pictures")
    for night in nights:
        table.add_column(f"{night.num_images:,}", justify="right")
    for stage in nights[-1].stages:
        table.add_row(stage, *(f"{night.stages.get(stage, 0.0):.2f}" for night in nights))
    table.add_section()
    table.add_row("the whole night", *(f"{night.seconds:.2f}" for night in nights))
    rates = [1000 * (night.seconds - start_s) / night.num_images for night in nights]
    table.add_row(f"without {start_s:.1f} s of start-up, ms a picture", *(f"{rate:.2f}" for rate in rates))
    work = [1000 * night.work_s / night.num_images for night in nights]
    table.add_row("worker time, ms a picture", *(f"{each:.2f}" for each in work))
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
