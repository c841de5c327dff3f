"""Training as the product does it against a plain loop of the published code's form; and who waits for whom.

    python benchmarks/train.py

Sides, in turn within one run, each from tars or files to updated weights, on all cores of one process:

- plain loop: draw triplets, decode their 3 x 16 pictures, three forward passes over anchors, positives and
  negatives, triplet and type loss, backward, Adam; float32, as the published code runs;
- paper sampling: the product's learner with the same triplets a step, in float32: one forward pass over each
  picture once;
- batch sampling: the product's recipe: every picture once under all of its attributes, all valid triplets, in
  bfloat16 where the processor has it.

`ratio_plain_loop` is batch sampling's images/s over the plain loop's, `ratio_plain_loop_float32` paper
sampling's. The learner's pool is smaller than its pictures, so that fresh ones are decoded all the time;
`waiting_share` is the share of its time in which it makes batches and no step is computed. Floor: no waiting,
and a ratio of 1 for float32, where both compute the same products.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.table import Table
from torch import Tensor

from agman.losses import PaperWeighting, triplet_loss, type_loss
from agman.model import AGMAN, ModelConfig
from agman.taxonomy import FASHIONAI
from agman.trainer import TrainerConfig
from agman.transforms import Preprocess, augment, normalise, read_pixels
from benchmarks.reporting import MIN_ROUNDS, console, report
from pipelines.cluster import connected
from pipelines.dataset import Dataset
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.shards.read import stream_samples
from pipelines.telemetry import Run, quiet
from pipelines.training.config import TrainConfig
from pipelines.training.learner import Learner
from pipelines.training.pictures import training_pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    num_images: int = 480
    """Pictures to learn from."""
    buffer_samples: int = 240
    """Decoded pictures that the learner holds; fewer than there are, so that fresh ones flow."""
    image_size: int = 224
    """Side in pixels."""
    trunk: str = "resnet50"
    """The network's trunk, from random weights."""
    triplets: int = 16
    """Triplets of a step, as published."""
    steps: int = 1
    """Steps of a round of each side."""
    rounds: int = MIN_ROUNDS
    """Rounds, of which the median is taken, after one to warm up."""
    results: Path | None = None
    """File for the figures."""


class PlainLoop:
    """The published form: three forward passes over pictures of one attribute each."""

    def __init__(self, options: Options, dataset: Dataset) -> None:
        """Hold the files, by what they show."""
        torch.manual_seed(0)
        self._options = options
        self._preprocess = Preprocess(image_size=options.image_size)
        self._model = AGMAN(ModelConfig(trunk=options.trunk), len(FASHIONAI)).train()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=1e-4)
        self._weighting = PaperWeighting()
        self._random, self._generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        self._shown = _by_value(dataset)

    def step(self) -> int:
        """Learn from the next triplets; returns the pictures that were seen."""
        attributes, triplets = zip(*(self._draw() for _ in range(self._options.triplets)), strict=True)
        attribute = torch.tensor(attributes)
        outputs = [self._model(self._read(files), attribute) for files in zip(*triplets, strict=True)]
        target = torch.nn.functional.one_hot(attribute, len(FASHIONAI))
        kinds = torch.stack([type_loss(output.logits, target) for output in outputs]).mean()
        loss = self._weighting(triplet_loss(*(output.embedding for output in outputs)), kinds)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return 3 * len(triplets)

    def _draw(self) -> tuple[int, tuple[bytes, bytes, bytes]]:
        """Return an attribute's number, and the files of an anchor, a positive and a negative."""
        random = self._random
        attribute = int(random.choice(list(self._shown)))
        values = self._shown[attribute]
        value, other = random.permutation(len(values))[:2]
        anchor, positive = random.permutation(len(values[value]))[:2]
        negative = random.integers(len(values[other]))
        return attribute, (values[value][anchor], values[value][positive], values[other][negative])

    def _read(self, files: Sequence[bytes]) -> Tensor:
        pixels = torch.stack([read_pixels(file, self._preprocess) for file in files])
        return normalise(augment(pixels, self._generator), self._preprocess)


def main(options: Options) -> None:
    """Draw pictures, run the sides in turn, and report."""
    quiet()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        dataset = _dataset(options, folder)
        learners = {
            "paper sampling": _learner(options, dataset, TrainerConfig()),
            "batch sampling": _learner(options, dataset, TrainerConfig(sampling="batch", precision="auto")),
        }
        sides: dict[str, Callable[[], int]] = {"plain loop": PlainLoop(options, dataset).step}
        sides |= {name: _step(learner) for name, learner in learners.items()}
        rates = _measure(sides, options)
    found = figures(rates, learners)
    report(
        "train",
        _table(options, found),
        found,
        {"waiting_share": 0.0, "ratio_plain_loop_float32": 1.0},
        options.results,
    )


def figures(rates: Mapping[str, float], learners: Mapping[str, Learner]) -> dict[str, float]:
    """Return ratios, images/s by side, and the learners' waiting."""
    recipe, paper = learners["batch sampling"], learners["paper sampling"]
    return {
        "waiting_share": recipe.waited_s / recipe.worked_s,
        "waiting_share_float32": paper.waited_s / paper.worked_s,
        "ratio_plain_loop": rates["batch sampling"] / rates["plain loop"],
        "ratio_plain_loop_float32": rates["paper sampling"] / rates["plain loop"],
        **{f"images_per_s_{name.replace(' ', '_')}": rate for name, rate in rates.items()},
    }


def _measure(sides: Mapping[str, Callable[[], int]], options: Options) -> dict[str, float]:
    """Return the median images/s of each side."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        console.print(f"round {number} of {options.rounds}" if number else "warming up")
        for name, step in sides.items():
            started = time.perf_counter()
            num_images = sum(step() for _ in range(options.steps))
            if number:
                rates[name].append(num_images / (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in rates.items()}


def _step(learner: Learner) -> Callable[[], int]:
    def step() -> int:
        before = learner.num_images
        learner.learn()
        return learner.num_images - before

    return step


def _learner(options: Options, dataset: Dataset, optimisation: TrainerConfig) -> Learner:
    config = TrainConfig(
        lake="",
        source="",
        network=ModelConfig(trunk=options.trunk),
        preprocess=Preprocess(image_size=options.image_size),
        optimisation=replace(optimisation, schedule="constant"),
        num_workers=1,
        triplets_per_step=options.triplets,
        buffer_samples=options.buffer_samples,
    )
    return Learner(config, FASHIONAI, training_pictures(dataset, FASHIONAI))


def _dataset(options: Options, folder: str) -> Dataset:
    source = f"generated:num_images={options.num_images},size=256"
    config = NightConfig(lake=f"{folder}/lake", source=source)
    with connected():
        return build_shards(config, Run("train", config, Lake(config.lake)))


def _by_value(dataset: Dataset) -> dict[int, list[list[bytes]]]:
    """Return by attribute's number the files of each value, of values that two pictures show or more."""
    encoded = {sample.sha256: sample.encoded for sample in stream_samples(dataset.urls)}
    shown: dict[int, dict[str, list[bytes]]] = {}
    for digest, uses in dataset.described.items():
        for attribute, values in uses[0].labels.items():
            for value in values:
                by_value = shown.setdefault(FASHIONAI.names.index(attribute), {})
                by_value.setdefault(value, []).append(encoded[digest])
    usable = {
        number: [files for files in values.values() if len(files) > 1] for number, values in shown.items()
    }
    return {number: values for number, values in usable.items() if len(values) > 1}


def _table(options: Options, found: Mapping[str, float]) -> Table:
    table = Table(
        title=f"{options.trunk}, {options.image_size} px, {options.triplets} triplets a step; "
        f"medians of {options.rounds}"
    )
    for name in ("", "images/s", "times the plain loop", "waiting for pictures"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("plain loop, float32", f"{found['images_per_s_plain_loop']:.2f}", "1.00", "")
    for name, ratio, waiting in (
        ("paper sampling, float32", "ratio_plain_loop_float32", "waiting_share_float32"),
        ("batch sampling, the recipe's precision", "ratio_plain_loop", "waiting_share"),
    ):
        rate = found[f"images_per_s_{name.split(',')[0].replace(' ', '_')}"]
        table.add_row(name, f"{rate:.2f}", f"{found[ratio]:.2f}", f"{found[waiting]:.1%}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
