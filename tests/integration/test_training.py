"""Training through Ray Train: resumed bitwise, ended by validation, on listed triplets, with curves."""

import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from made_up_datasets import make_asen, make_zappos50k
from ray.train.v2.api.exceptions import WorkerGroupError
from tensorboardX.proto.event_pb2 import Event

from agman.checkpoint import load_model
from agman.errors import InvalidInput
from agman.model import ModelConfig
from agman.taxonomy import FASHIONAI
from agman.trainer import TrainerConfig
from agman.transforms import Preprocess
from pipelines.dataset import Dataset
from pipelines.errors import WorkersLost
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.morning.learned import learned
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.shards.plan import ShardOptions
from pipelines.storage.objects import ObjectStore
from pipelines.telemetry import Run
from pipelines.training.board import open_board
from pipelines.training.config import TrainConfig
from pipelines.training.driver import train
from pipelines.training.fit import fit
from pipelines.training.learner import Learner
from pipelines.training.pictures import training_pictures

pytestmark = pytest.mark.integration


def config(lake: Lake, source: str, **changes: Any) -> TrainConfig:
    asked = TrainConfig(
        lake=lake.url,
        source=source,
        network=ModelConfig(trunk="resnet18", embedding_dim=16),
        preprocess=Preprocess(image_size=32),
        optimisation=TrainerConfig(sampling="batch", weighting="learned", schedule="cosine", warmup_steps=1),
        shards=ShardOptions(images_per_shard=64),
        triplets_per_step=2,
        steps=4,
        validate_every=2,
        num_workers=1,
    )
    return replace(asked, **changes)


def shard(asked: TrainConfig) -> Dataset:
    night = NightConfig(lake=asked.lake, source=asked.source, dataset=asked.dataset, shards=asked.shards)
    return build_shards(night, Run("train", night, Lake(asked.lake)))


def run_of(asked: TrainConfig) -> Run:
    return Run("train", asked, Lake(asked.lake))


def states(asked: TrainConfig) -> dict[int, dict[str, Any]]:
    """Return the states that are kept, by step, with those of their shares."""
    store = Lake(asked.lake).store
    found = {}
    left = [name for name in store.list_names("runs") if name.endswith(".pt")]
    for name in (name for name in left if name.endswith("/state.pt")):
        state = load(store, name)
        folder = name.removesuffix("state.pt")
        state["shares"] = [load(store, share) for share in left if share.startswith(f"{folder}share-")]
        found[state["trainer"]["step"]] = state
    return found


def load(store: ObjectStore, name: str) -> dict[str, Any]:
    return torch.load(BytesIO(store.read(name).body), weights_only=True)


def curves(asked: TrainConfig) -> dict[str, list[int]]:
    """Return the steps of each tag in TensorBoard's files."""
    found: dict[str, list[int]] = {}
    store = Lake(asked.lake).store
    for name in store.list_names("runs"):
        body = store.read(name).body if "/tensorboard/events.out.tfevents." in name else b""
        while body:  # a record: 8 bytes length, 4 of its check sum, the event, 4 of its check sum
            (length,) = struct.unpack("<Q", body[:8])
            event = Event.FromString(body[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
            body = body[16 + length :]
    return found


@pytest.mark.usefixtures("local_ray")
def test_a_stopped_training_goes_on_to_the_weights_of_the_unbroken_one(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unbroken one runs in this process: Ray Train may add nothing to the weights either."""
    asked = config(lake, "generated:num_images=120,seed=0,size=32")
    dataset = shard(asked)
    torch.set_num_threads(1)
    unbroken = Learner(asked, FASHIONAI, training_pictures(dataset, FASHIONAI))
    for _ in range(asked.steps):
        unbroken.learn()

    # A limit that is over after the first step; the schedule of both is that of four steps.
    limited = replace(asked, max_minutes=1e-6)
    stopped = train(limited, dataset, FASHIONAI, run_of(limited))
    assert "stopped after step 1 of 4: the time limit" in capsys.readouterr().out
    assert train(limited, dataset, FASHIONAI, run_of(limited)) == stopped
    assert "nothing was left to do" in capsys.readouterr().out
    assert set(states(asked)) == {1}
    run = run_of(asked)
    trained = train(asked, dataset, FASHIONAI, run)

    found, expected = states(asked)[4], unbroken.trainer.state_dict()
    assert set(found["trainer"]["module"]) == set(expected["module"])
    for name, tensor in expected["module"].items():
        assert torch.equal(tensor, found["trainer"]["module"][name]), name
    for key, moments in expected["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, found["trainer"]["optimizer"]["state"][key][name]), name
    (share,) = found["shares"]
    assert torch.equal(unbroken.shares[0].state_dict()["generator"], share["generator"])
    assert curves(asked)["valid/score"] == [1, 2, 4]
    assert {"train/loss", "train/type", "work/images_per_s"} <= set(curves(asked))
    told = learned(lake, trained.model)
    assert told is not None, "the model names its run"
    assert [step for step, _ in told["validation"]] == [1, 2, 4]
    assert told["step"] == trained.step
    assert told["validation"][-1][1] <= trained.validation + 1e-6
    (stage,) = (stage for stage in run.stages if stage.name == "train")
    assert min(stage.parts[part] for part in ("read", "model")) > 0


@pytest.mark.usefixtures("local_ray")
def test_all_ranks_stop_when_validation_stops_improving(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A baseline on multi-label pictures, three shares on the two CPUs: nothing waits for a gradient."""
    make_asen(tmp_path / "data", "DeepFashion", train_per_value=4)
    asked = config(lake, f"deepfashion:{tmp_path / 'data' / 'DeepFashion'}", steps=30)
    asked = replace(
        asked,
        network=replace(asked.network, head="csn"),
        optimisation=replace(asked.optimisation, classification=False, schedule="constant"),
        shards=ShardOptions(images_per_shard=30),
        num_workers=3,
        min_workers=2,
        validate_every=1,
        patience=1,
    )
    dataset = shard(asked)
    assert dataset.taxonomy is not None
    run = run_of(asked)
    trained = train(asked, dataset, dataset.taxonomy, run)
    validated = curves(asked)["valid/score"]
    assert validated == list(range(1, trained.step + 2)), "it stops after the first that is not better"
    assert len(validated) < 30
    assert "train/type" not in curves(asked)
    said = capsys.readouterr().out
    assert "2 workers, not 3: each step still learns from 3 batches" in said
    assert f"stopped after step {trained.step + 1} of 30: no improvement in 1 validations" in said
    with fetch_model(lake, trained.model) as folder:
        assert load_model(folder).taxonomy == dataset.taxonomy

    assert train(asked, dataset, dataset.taxonomy, run_of(asked)) == trained
    assert "nothing was left to do" in capsys.readouterr().out


@pytest.mark.usefixtures("local_ray")
def test_losses_are_made_good_as_long_as_there_are_new_checkpoints() -> None:
    board = open_board()
    lost = WorkerGroupError("a node is gone", {0: RuntimeError("killed")})

    class Spot:
        """Machines that are lost three times, each time after a checkpoint, or before there is one."""

        num_fits = 0

        def __init__(self, num_good: int) -> None:
            self.num_good = num_good

        def fit(self) -> str:
            self.num_fits += 1
            if self.num_fits > 3 and self.num_good:
                return "trained"
            if self.num_fits <= self.num_good:
                ray.get(board.keep.remote())
            raise lost

    spot = Spot(3)
    assert fit(lambda: spot, board) == "trained"
    assert spot.num_fits == 4
    hopeless = Spot(0)
    with pytest.raises(WorkersLost, match="training: workers failed 4 times without a new checkpoint"):
        fit(lambda: hopeless, board)
    assert hopeless.num_fits == 1


@pytest.mark.usefixtures("local_ray")
def test_listed_triplets_are_learned_by_two_workers(lake: Lake, tmp_path: Path) -> None:
    make_zappos50k(tmp_path / "data")
    asked = config(lake, f"zappos50k:{tmp_path / 'data'}", num_workers=2)
    dataset = shard(asked)
    assert dataset.taxonomy is not None
    with pytest.raises(
        InvalidInput, match=r"lists triplets and no labels: expected --optimisation.sampling paper"
    ):
        train(asked, dataset, dataset.taxonomy, run_of(asked))
    asked = replace(asked, optimisation=replace(asked.optimisation, sampling="paper", classification=False))
    with pytest.raises(InvalidInput, match=r"expected\s+--taxonomy auto"):
        train(asked, dataset, FASHIONAI, run_of(asked))
    with pytest.raises(InvalidInput, match="expected at most --buffer-samples 3"):
        train(replace(asked, buffer_samples=3), dataset, dataset.taxonomy, run_of(asked))
    nowhere = replace(asked, network=replace(asked.network, pretrained=str(tmp_path / "resnet.pth")))
    with pytest.raises(InvalidInput, match=r"resnet\.pth"):
        train(nowhere, dataset, dataset.taxonomy, run_of(nowhere))
    trained = train(asked, dataset, dataset.taxonomy, run_of(asked))
    assert 0 < trained.validation <= 1
    assert len(dataset.urls) == 1  # both workers read the one tar
    assert [share["pool"]["num_drawn"] for share in states(asked)[4]["shares"]] == [8, 8]
