"""Recipes as a person calls them: the published settings, and baselines by one flag."""

import sys

import pytest

from agman.trainer import learning_rate
from jobs.command_line import read_config
from jobs.recipes import NIGHT, TRAIN
from pipelines.embed_workers import Found, count_workers, uses_gpu
from pipelines.training.config import TrainConfig


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> TrainConfig:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    return read_config(TRAIN, "")


@pytest.mark.parametrize(
    ("recipe", "epochs", "epoch_triplets"),
    [("fashionai-paper", 150, 100_000), ("deepfashion-paper", 50, 100_000), ("zappos50k-paper", 50, 200_000)],
)
def test_the_papers_settings(
    monkeypatch: pytest.MonkeyPatch, recipe: str, epochs: int, epoch_triplets: int
) -> None:
    config = asked(monkeypatch, recipe)
    batch = config.num_workers * config.triplets_per_step
    assert batch == 16
    assert config.steps * batch == epochs * epoch_triplets
    rates = [
        learning_rate(config.optimisation, epoch * epoch_triplets // batch, config.steps)
        for epoch in range(7)
    ]
    assert rates == pytest.approx([1e-4] * 3 + [0.9e-4] * 3 + [0.81e-4])
    assert (config.optimisation.sampling, config.optimisation.weighting) == ("paper", "paper")
    assert (config.optimisation.margin, config.optimisation.weight_decay) == (0.2, 0)
    assert config.optimisation.classification == (recipe != "zappos50k-paper")
    assert (config.network.trunk, config.preprocess.image_size, config.patience) == ("resnet50", 224, 0)


@pytest.mark.parametrize("recipe", ["catalog", "fashionai", "deepfashion-paper", "darn", "demo"])
def test_a_baseline_is_one_flag(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    full = asked(monkeypatch, recipe)
    assert (full.network.head, full.network.multi_level, full.optimisation.classification) == (
        "agman",
        True,
        True,
    )
    assert asked(monkeypatch, recipe, "--network.head", "plain").network.head == "plain"
    assert asked(monkeypatch, recipe, "--network.head", "csn").network.head == "csn"
    assert not asked(monkeypatch, recipe, "--network.no-multi-level").network.multi_level
    assert not asked(monkeypatch, recipe, "--optimisation.no-classification").optimisation.classification
    assert asked(monkeypatch, recipe, "--network.pretrained", "None").network.pretrained is None


def test_listed_triplets_train_without_classification() -> None:
    for name in ("zappos50k", "zappos50k-paper"):
        options = TRAIN[name][1].optimisation
        assert (options.sampling, options.classification) == ("paper", False)


def test_a_night_on_a_cluster_asks_for_gpus_that_are_not_there_yet() -> None:
    options = NIGHT["cluster"][1].embed
    nothing = Found(num_cpus=0, num_gpus=0, may_grow=True)
    assert uses_gpu(options, nothing.num_gpus)
    assert count_workers(options, nothing) == 4
    assert options.decoders > 0
