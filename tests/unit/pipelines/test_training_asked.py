"""What a training is asked for, without Ray: workers and GPUs, refusals, and what is the same run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agman.errors import InvalidInput
from agman.model import ModelConfig
from agman.taxonomy import Attribute, Taxonomy
from pipelines.dataset import Dataset
from pipelines.training.board import Board
from pipelines.training.config import TrainConfig
from pipelines.training.driver import run_name
from pipelines.training.placement import Machines, place


def config(**changes: Any) -> TrainConfig:
    return replace(TrainConfig(lake="", source="s"), **changes)


@pytest.mark.parametrize(
    ("accelerator", "num_gpus", "placed"),
    [("auto", 0, (3, False)), ("auto", 2, (2, True)), ("auto", 8, (3, True)), ("cpu", 8, (3, False)),
     ("gpu", 1, (1, True))],
)  # fmt: skip
def test_gpus_are_used_where_there_are_any(accelerator: str, num_gpus: int, placed: tuple[int, bool]) -> None:
    found = place(config(num_workers=3, accelerator=accelerator), Machines(4, num_gpus, False), None)
    assert (found.num_workers, found.use_gpu) == placed
    assert len(found.said) == found.use_gpu
    if placed[0] < 3:
        assert f"{num_gpus} GPUs found: {placed[0]} workers, not 3" in found.said[0]


def test_what_can_never_be_placed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="accelerator gpu: expected a GPU, found none"):
        place(config(accelerator="gpu"), Machines(64, 0, True), None)
    large = config(num_workers=3, cpus_per_worker=2)
    with pytest.raises(InvalidInput, match="3 workers of 2 CPUs: expected to fit this machine, found 4 CPUs"):
        place(large, Machines(4, 0, False), None)
    assert place(large, Machines(4, 0, True), None).num_workers == 3, "a cluster may still grow"
    few = place(large, Machines(4, 0, False), 2)
    assert few.num_workers == 2
    assert few.said == ("2 shards to learn from feed 2 workers, not 3",)


@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [("num_workers", 0, 1), ("cpus_per_worker", 0, 1), ("patience", -1, 0), ("max_minutes", -0.5, 0)],
)
def test_figures_that_cannot_be_are_refused(name: str, wrong: float, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least {least}, found {wrong}"):
        config(**{name: wrong})


def test_files_count_by_what_they_hold(tmp_path: Path) -> None:
    """Another run is another folder: in the same one it would go on from weights that do not fit."""
    dataset = Dataset("d", ("1.tar",), {})
    red, blue = (Taxonomy((Attribute("hue", (name, "grey")),)) for name in ("red", "blue"))
    path, same = tmp_path / "trunk.pth", tmp_path / "same.pth"
    path.write_bytes(b"weights")
    same.write_bytes(b"weights")
    asked = config(taxonomy="names.json", network=ModelConfig(pretrained=str(path)))
    name = run_name(asked, dataset, red)
    assert name == run_name(replace(asked, taxonomy="auto", steps=7), dataset, red)
    assert name == run_name(replace(asked, network=ModelConfig(pretrained=str(same))), dataset, red)
    assert name != run_name(asked, dataset, blue)
    assert name != run_name(replace(asked, network=ModelConfig()), dataset, red)
    path.write_bytes(b"other weights")
    assert name != run_name(asked, dataset, red)


def test_the_board_keeps_the_first_refusal() -> None:
    board = Board()
    assert board.refusal() is None
    for text in ("loss is nan", "connection lost"):
        board.refuse(InvalidInput(text))
    assert str(board.refusal()) == "loss is nan"
