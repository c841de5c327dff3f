"""What a training is asked for, without Ray: workers and GPUs, refusals, and what is the same run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agman.errors import InvalidInput
from agman.model import ModelConfig
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import Preprocess
from pipelines.dataset import Dataset, Description
from pipelines.training.board import Board
from pipelines.training.config import TrainConfig
from pipelines.training.driver import as_packed, run_name
from pipelines.training.placement import Machines, place


def config(**changes: Any) -> TrainConfig:
    return replace(TrainConfig(lake="", source="s"), **changes)


FIXED, ELASTIC = 0, 1


@pytest.mark.parametrize(
    ("accelerator", "num_gpus", "may_grow", "min_workers", "placed"),
    [
        ("auto", 0, False, FIXED, (3, 3, False)),
        ("auto", 2, False, FIXED, (2, 2, True)),
        ("auto", 8, False, FIXED, (3, 3, True)),
        ("cpu", 8, False, FIXED, (3, 3, False)),
        ("gpu", 1, False, FIXED, (1, 1, True)),
        ("auto", 2, True, FIXED, (2, 2, True)),  # `auto` goes by what is there now
        ("gpu", 0, True, FIXED, (3, 3, True)),  # a group of GPU nodes that is scaled to zero
        ("gpu", 2, True, FIXED, (3, 3, True)),
        ("gpu", 0, True, ELASTIC, (1, 3, True)),
        ("auto", 2, True, ELASTIC, (1, 3, True)),
        ("auto", 2, False, ELASTIC, (1, 2, True)),
        ("cpu", 2, True, ELASTIC, (1, 3, False)),
    ],
)
def test_gpus_are_used_where_there_are_any(
    accelerator: str, num_gpus: int, may_grow: bool, min_workers: int, placed: tuple[int, int, bool]
) -> None:
    asked = config(num_workers=3, accelerator=accelerator, min_workers=min_workers)
    found = place(asked, Machines(4, num_gpus, may_grow))
    assert (found.min_workers, found.max_workers, found.use_gpu) == placed
    said = " ".join(found.said)
    assert (f"{num_gpus} GPUs found" in said) == found.use_gpu
    assert ("each step still learns from 3 batches" in said) == (found.max_workers < 3)
    assert ("waiting for" in said) == (found.use_gpu and num_gpus < found.max_workers)


def test_what_can_never_be_placed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="accelerator gpu: expected a GPU, found none"):
        place(config(accelerator="gpu"), Machines(64, 0, False))
    large = config(num_workers=3, cpus_per_worker=2)
    with pytest.raises(InvalidInput, match="3 workers of 2 CPUs: expected to fit this machine, found 4 CPUs"):
        place(large, Machines(4, 0, False))
    assert place(large, Machines(4, 0, True)).max_workers == 3, "a cluster may still grow"
    fewer = place(replace(large, min_workers=1), Machines(4, 0, False))
    assert (fewer.min_workers, fewer.max_workers) == (1, 2)
    assert fewer.said == ("2 workers, not 3: each step still learns from 3 batches, so it takes longer",)
    with pytest.raises(InvalidInput, match=r"2 workers of 2 CPUs and a GPU: .*found 8 CPUs and 1 GPUs"):
        place(replace(large, min_workers=2), Machines(8, 1, False))


def test_more_workers_at_least_than_at_most_are_refused() -> None:
    with pytest.raises(ValueError, match="min_workers: expected at most num_workers, 2, found 3"):
        config(num_workers=2, min_workers=3)


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
    assert name == run_name(replace(asked, min_workers=1), dataset, red), "a run goes on with fewer"
    assert name != run_name(replace(asked, num_workers=3), dataset, red), "its steps are others"
    assert name != run_name(asked, dataset, blue)
    labelled = replace(dataset, described={"a": (Description("train", {"hue": ["red"]}),)})
    names = {
        run_name(asked, replace(labelled, described=described), red)
        for described in (
            labelled.described,
            {"a": (Description("valid", {"hue": ["red"]}),)},
            {"a": (Description("train", {"hue": ["grey"]}),)},
            {"b": labelled.described["a"]},
            {},
        )
    }
    assert len(names) == 5
    assert name != run_name(replace(asked, network=ModelConfig()), dataset, red)
    path.write_bytes(b"other weights")
    assert name != run_name(asked, dataset, red)


def test_a_model_knows_how_its_pictures_were_packed() -> None:
    plain, packed = Dataset("d", ("1.tar",), {}), Dataset("d", ("1.tar",), {}, packed_side=256)
    assert as_packed(config(), plain) == config()
    asked = as_packed(config(), packed)
    assert asked == config(preprocess=Preprocess(packed_side=256))
    assert as_packed(asked, packed) == asked
    assert run_name(asked, packed, FASHIONAI) != run_name(config(), plain, FASHIONAI)
    with pytest.raises(InvalidInput, match=r"packed-side: expected what --shards.resize says, 0, found 256"):
        as_packed(asked, plain)
    with pytest.raises(InvalidInput, match="packed_side must be 0 or at least image_size"):
        as_packed(config(), Dataset("d", ("1.tar",), {}, packed_side=128))


def test_a_run_of_before_there_were_choices_of_decoding_goes_on() -> None:
    pictures = Dataset("d", ("1.tar",), {})
    assert run_name(config(), pictures, FASHIONAI) == "train-54aa965f", "the name that such a run has"
    faster = config(preprocess=Preprocess(oversampling=1))
    assert run_name(faster, pictures, FASHIONAI) != run_name(config(), pictures, FASHIONAI)


def test_the_board_keeps_the_first_refusal() -> None:
    board = Board()
    assert board.refusal() is None
    for text in ("loss is nan", "connection lost"):
        board.refuse(InvalidInput(text))
    assert str(board.refusal()) == "loss is nan"
