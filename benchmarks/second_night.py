"""What a night costs after the first: of a catalog of which 1% changes, against embedding all of it.

    python benchmarks/second_night.py

Draws a catalog, runs its first night, then several more of which each changes the same share of it: a third
of that deleted, a third edited, a third added. Every night starts its own Ray, as `jobs/nightly.py` does.
Model time is the workers' seconds in the network, by the clock, and what the probe's pictures would take at
the first night's price of a picture: every night embeds those anew, and its gates time no part of their work.
Of the later nights each figure is the median. Floor: the share of pictures whose bytes are new. The probe's
size is fixed, so that the smaller the catalog, the further is the share above it.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.table import Table

from agman.checkpoint import save_model
from agman.model import AGMAN, ModelConfig
from agman.taxonomy import FASHIONAI
from agman.transforms import Preprocess
from benchmarks.reporting import console, report
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.telemetry import Run, quiet

REST = "rest"
"""Of the clock, what is no stage: the start and end of Ray, choosing the model, the catalog, the swap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the catalog and of the network."""

    num_images: int = 3000
    """Pictures of the catalog."""
    change: float = 0.01
    """Share of the catalog that changes from night to night."""
    nights: int = 5
    """Nights after the first, of which the median is taken."""
    trunk: str = "resnet18"
    """torchvision's name; the network is random, which costs what a trained one does."""
    image_size: int = 224
    """Side in pixels, of what is drawn and of what the network sees."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse a comparison with nothing."""
        if self.nights < 1:
            raise ValueError(f"nights: expected at least 1, found {self.nights}")
        if not 0 < self.change <= 1:
            raise ValueError(f"change: expected a share above 0 and at most 1, found {self.change}")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one night cost."""

    embedded: float
    """Pictures that were embedded for the snapshot."""
    probed: float
    """Pictures that were embedded anew to compare them with what is stored."""
    stages: dict[str, float]
    """Seconds of the clock by stage, and `rest`."""
    work: dict[str, float]
    """Worker seconds of all stages by part of the work: read, decode, model, index, write."""

    @property
    def seconds(self) -> float:
        """Of the clock, the whole night."""
        return sum(self.stages.values())

    @property
    def model_ms(self) -> float:
        """Milliseconds of the model for a picture of the snapshot."""
        return 1000 * self.work["model"] / self.embedded


def main(options: Options) -> None:
    """Run the nights and report."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="second-night-") as folder:
        model = _random_model(options, Path(folder) / "model")
        costs = []
        for night in range(1, options.nights + 2):
            console.print(f"night {night}")
            costs.append(_run_night(options, night, model, Path(folder) / "lake"))
    first, later = costs[0], median(costs[1:])
    floor = {"model_time_share": later.embedded / first.embedded}
    report("second_night", _table(options, first, later), figures(first, later), floor, options.results)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the nights' medians, figure by figure."""
    return Cost(
        statistics.median(cost.embedded for cost in costs),
        statistics.median(cost.probed for cost in costs),
        _medians([cost.stages for cost in costs]),
        _medians([cost.work for cost in costs]),
    )


def figures(first: Cost, later: Cost) -> dict[str, float]:
    """Return the shares of the first night, and what both cost in seconds."""
    models = [model_seconds(cost, first.model_ms) for cost in (first, later)]
    found = {
        "model_time_share": models[1] / models[0],
        "model_time_share_without_probe": later.work["model"] / first.work["model"],
        "time_share": later.seconds / first.seconds,
    }
    for name, cost, model in zip(("first", "second"), (first, later), models, strict=True):
        found |= {f"{name}_embedded": cost.embedded, f"{name}_probed": cost.probed}
        found |= {f"{name}_s": cost.seconds, f"{name}_model_s": model}
        found[f"{name}_model_ms_per_image"] = cost.model_ms
        found |= {f"{name}_{stage.replace(' ', '_')}_s": seconds for stage, seconds in cost.stages.items()}
        found |= {f"{name}_worker_{work}_s": seconds for work, seconds in cost.work.items()}
    return found


def model_seconds(cost: Cost, probe_ms: float) -> float:
    """Return a night's seconds of the model, with the probe's pictures at a price each."""
    return cost.work["model"] + cost.probed * probe_ms / 1000


def _random_model(options: Options, folder: Path) -> Path:
    torch.manual_seed(0)
    network = AGMAN(ModelConfig(trunk=options.trunk), len(FASHIONAI)).eval()
    save_model(network, FASHIONAI, Preprocess(image_size=options.image_size), folder)
    return folder


def _run_night(options: Options, night: int, model: Path, lake: Path) -> Cost:
    source = (
        f"generated:num_images={options.num_images},size={options.image_size},"
        f"change={options.change},night={night}"
    )
    config = NightConfig(lake=str(lake), source=source, model=str(model))
    run = Run("second_night", config, Lake(config.lake))
    published = run_night(config, run)
    stages = {stage.name: stage.seconds for stage in run.stages}
    stages[REST] = run.seconds() - sum(stages.values())
    work: dict[str, float] = {}
    for stage in run.stages:
        for part, seconds in stage.parts.items():
            work[part] = work.get(part, 0.0) + seconds
    assert published is not None  # something changes every night
    return Cost(published.counts["images_embedded"], len(published.probe), stages, work)


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in names}


def _table(options: Options, first: Cost, later: Cost) -> Table:
    table = Table(
        title=f"{options.num_images:,} pictures, {options.change:.1%} changed a night, {options.trunk}, "
        f"{options.image_size} px; medians of {options.nights} later nights"
    )
    for name in ("seconds", "first night", "later night", "share"):
        table.add_column(name, justify="left" if name == "seconds" else "right")
    table.add_row(
        "pictures embedded",
        f"{first.embedded:.0f}",
        f"{later.embedded:.0f}",
        _share(first.embedded, later.embedded),
    )
    table.add_row("pictures of the probe", *(f"{cost.probed:.0f}" for cost in (first, later)), "")
    table.add_section()
    for part, seconds in first.work.items():
        table.add_row(f"workers: {part}", *_row(seconds, later.work.get(part, 0.0)))
    table.add_row("workers: model, ms a picture", f"{first.model_ms:.1f}", f"{later.model_ms:.1f}", "")
    table.add_row(
        "model with the probe", *_row(*(model_seconds(each, first.model_ms) for each in (first, later)))
    )
    table.add_section()
    for stage, seconds in first.stages.items():
        table.add_row(f"clock: {stage}", *_row(seconds, later.stages.get(stage, 0.0)))
    table.add_row("clock: the whole night", *_row(first.seconds, later.seconds))
    return table


def _row(first: float, later: float) -> tuple[str, str, str]:
    return f"{first:.2f}", f"{later:.2f}", _share(first, later)


def _share(first: float, later: float) -> str:
    return f"{later / first:.1%}" if first else ""


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
