import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from two_ranks import CONFIG, gradients, learn_as, make_step

from agman.errors import CheckpointMismatch, InvalidInput
from agman.losses import batch_triplet_loss, triplet_loss
from agman.model import Head, ModelConfig
from agman.networks import build_network
from agman.taxonomy import Attribute, Taxonomy
from agman.trainer import (
    Trainer,
    TrainerConfig,
    TrainingBatch,
    TrainingStep,
    index_labels,
    index_triplets,
    learning_rate,
)
from agman.triplets import TripletBuffer

TAXONOMY = Taxonomy((Attribute("hue", ("red", "blue")), Attribute("tone", ("dark", "light"))))
LABELS = [{0: [i % 2], 1: [i // 2 % 2]} for i in range(8)]
PICTURES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(9))


class Run:
    """A buffer of eight pictures and a trainer, as the training loop holds them."""

    def __init__(self, config: TrainerConfig, network: ModelConfig | None = None) -> None:
        torch.manual_seed(config.seed)
        model = build_network(network or ModelConfig(trunk="resnet18", embedding_dim=16), 2)
        self.buffer = TripletBuffer(TAXONOMY, seed=config.seed)
        for slot, labels in enumerate(LABELS):
            self.buffer.add(slot, labels)
        self.trainer = Trainer(TrainingStep(model, config), config, total_steps=20)

    def batch(self) -> TrainingBatch:
        targets = torch.ones(8, 2)
        if self.trainer.config.sampling == "batch":
            image, attribute, shown = map(torch.from_numpy, index_labels(LABELS))
            return TrainingBatch(PICTURES, image, attribute, targets, shown=shown)
        slots, image, attribute, rows = map(torch.from_numpy, index_triplets(self.buffer.draw(6)))
        return TrainingBatch(PICTURES[slots], image, attribute, targets[slots], triplets=rows)

    def learn(self, num_steps: int) -> list[float]:
        return [self.trainer.step(self.batch())["loss"] for _ in range(num_steps)]

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.trainer.module.state_dict().items()}


@pytest.mark.parametrize("sampling", ["paper", "batch"])
@pytest.mark.parametrize("schedule", ["paper", "cosine"])
def test_resumed_run_equals_the_unbroken_one(
    sampling: Literal["paper", "batch"], schedule: Literal["paper", "cosine"]
) -> None:
    config = TrainerConfig(
        sampling=sampling,
        schedule=schedule,
        weighting="learned",
        decay_steps=2,
        warmup_steps=1,
        clip_norm=1.0,
    )
    unbroken = Run(config)
    first_losses = unbroken.learn(3)
    stored = io.BytesIO()
    torch.save({"trainer": unbroken.trainer.state_dict(), "draws": unbroken.buffer.state_dict()}, stored)
    expected = unbroken.learn(3)

    resumed = Run(config)
    resumed.learn(1)
    stored.seek(0)
    state = torch.load(stored, weights_only=True)
    resumed.trainer.load_state_dict(state["trainer"])
    resumed.buffer.load_state_dict(state["draws"])
    assert resumed.learn(3) == expected
    assert first_losses != expected
    for name, tensor in unbroken.weights().items():
        assert torch.equal(tensor, resumed.weights()[name]), name


@pytest.mark.parametrize("sampling", ["paper", "batch"])
def test_a_toy_set_is_learned(sampling: Literal["paper", "batch"]) -> None:
    run = Run(TrainerConfig(sampling=sampling, lr=1e-3))
    losses = [run.trainer.step(run.batch())["triplet"] for _ in range(15)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize(
    ("head", "multi_level"), [("agman", True), ("agman", False), ("csn", True), ("plain", True)]
)
@pytest.mark.usefixtures("_one_process_group")
def test_every_parameter_that_is_trained_is_reached(
    head: Head, multi_level: bool, classification: bool
) -> None:
    """A parameter without gradient stalls a distributed run at its second step."""
    network = ModelConfig(trunk="resnet18", embedding_dim=16, head=head, multi_level=multi_level)
    config = TrainerConfig(sampling="batch", weighting="learned", classification=classification)
    run = Run(config, network)
    module = run.trainer.module
    wrapped = Trainer(DistributedDataParallel(module), config, total_steps=20)
    start = run.weights()
    for _ in range(2):
        figures = wrapped.step(run.batch())
    assert ("type" in figures) == classification
    trained = {name for name, weights in module.named_parameters() if weights.requires_grad}
    assert {name for name, weights in module.named_parameters() if weights.grad is not None} == trained
    moved = {name for name in trained if not torch.equal(start[name], run.weights()[name])}
    assert trained - moved <= {"model.masks.weight", "model.attr_embedding.weight"}
    assert ("model.backbonenet.fc_embed.weight" in trained) == classification
    on_top = {name for name in trained if ".layer4." in name}
    assert bool(on_top) == (classification or head != "agman")


def test_mixed_precision_learns_too() -> None:
    run = Run(TrainerConfig(precision="bfloat16", lr=1e-3))
    losses = run.learn(6)
    assert np.isfinite(losses).all()
    assert losses != Run(TrainerConfig(lr=1e-3)).learn(6)
    assert all(p.dtype == torch.float32 for p in run.trainer.module.parameters())


def test_losses_are_float32_under_mixed_precision() -> None:
    run = Run(TrainerConfig(sampling="batch", precision="bfloat16"))
    step, batch = run.trainer.module, run.batch()
    _, figures = step(batch)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = step.model.embed(step.model.features(images), batch.image_index, batch.attribute).embedding
    # Each pair shows one value here, so pairs and rows are the same.
    value = batch.shown[:, 1]
    expected = batch_triplet_loss(embedded.float(), batch.attribute, value, batch.image_index).loss
    assert torch.equal(figures["triplet"], expected.detach())


def test_schedules() -> None:
    paper = TrainerConfig(lr=1.0, decay_steps=10)
    assert [learning_rate(paper, step, 99) for step in (0, 9, 10, 20)] == pytest.approx([1, 1, 0.9, 0.81])
    cosine = TrainerConfig(lr=1.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(cosine, step, 14) for step in range(15)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[9] == pytest.approx(0.5)
    assert rates[14] == pytest.approx(0.0, abs=1e-12)


def test_each_pair_is_computed_once() -> None:
    buffer = Run(TrainerConfig()).buffer
    drawn = buffer.draw(40)
    slots, image, attribute, rows = index_triplets(drawn)
    assert len(slots) <= 8
    assert len(image) <= 16
    for column, expected in enumerate((drawn.anchor, drawn.positive, drawn.negative)):
        assert (slots[image[rows[:, column]]] == expected).all()
        assert (attribute[rows[:, column]] == drawn.attribute).all()


@pytest.fixture
def _one_process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process_group")
def test_distributed_wrapper_steps_alike_and_leaves_no_prefix() -> None:
    config = TrainerConfig(sampling="batch", weighting="learned")
    plain, inner = Run(config), Run(config)
    wrapped = Trainer(DistributedDataParallel(inner.trainer.module), config, total_steps=20)
    for _ in range(2):
        found = wrapped.step(plain.batch())
        assert found["loss"] == pytest.approx(plain.learn(1)[0], rel=1e-5)
    state = wrapped.state_dict()
    assert set(state["module"]) == set(plain.weights())
    assert {name.split(".")[0] for name in state["module"]} == {"model", "weighting"}
    plain.trainer.load_state_dict(state)


def test_ranks_with_unequal_numbers_of_batches_learn_from_all_alike(tmp_path: Path) -> None:
    """Three batches, two of them on one rank: were both to talk to the others, all would wait for ever."""
    batches = [
        Run(CONFIG)
        .batch()
        ._replace(images=torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(n)))
        for n in range(3)
    ]
    spawn = torch.multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=learn_as, args=(rank, 2, batches, 2, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    alone = Trainer(make_step(), CONFIG, total_steps=20)
    for _ in range(2):
        figures = alone.step(*batches, weight=1 / 3)
    for rank in ranks:
        rank.join(240)
        assert rank.exitcode == 0
    assert figures["loss"] == pytest.approx(
        np.mean([alone.step(batch)["loss"] for batch in batches]), rel=1e-5
    )
    alone.step(*batches, weight=1 / 3)
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt")
        for tensor, expected in zip(found, gradients(alone), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-5)


def test_paper_step_equals_three_passes() -> None:
    run = Run(TrainerConfig())
    batch = run.batch()
    slots = index_triplets(Run(TrainerConfig()).buffer.draw(6))[0]
    drawn = Run(TrainerConfig()).buffer.draw(6)
    step = run.trainer.module.eval()
    anchor, positive, negative = (
        step.model(batch.images[np.searchsorted(slots, corner)], torch.from_numpy(drawn.attribute)).embedding
        for corner in (drawn.anchor, drawn.positive, drawn.negative)
    )
    _, figures = step(batch)
    expected = triplet_loss(anchor, positive, negative).detach()
    torch.testing.assert_close(figures["triplet"], expected)


def test_each_label_is_one_pair_with_its_values() -> None:
    found = index_labels([{1: [0, 2, 0]}, {}, {0: [1], 1: [1]}, {0: []}])
    expected = [[0, 2, 2], [1, 0, 1], [[0, 0], [0, 2], [1, 1], [2, 1]]]
    assert [column.tolist() for column in found] == expected
    assert [column.shape for column in index_labels([{}])] == [(0,), (0,), (0, 2)]


def test_a_picture_of_two_values_is_embedded_once_and_counts_for_both() -> None:
    """Equal to the loss over one row for each (picture, attribute, value)."""
    labels = [{0: [0, 1]}, {0: [0]}, {0: [1]}, {0: [0]}, {0: [1], 1: [0]}, {1: [1]}]
    run = Run(TrainerConfig(sampling="batch", classification=False))
    image, attribute, shown = map(torch.from_numpy, index_labels(labels))
    assert len(image) == 7
    batch = TrainingBatch(PICTURES[:6], image, attribute, torch.zeros(6, 2), shown=shown)
    step = run.trainer.module.eval()
    seen: list[int] = []
    step.model.fc2.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    loss, _ = step(batch)
    assert seen == [7]
    rows = [(i, a, v) for i, shows in enumerate(labels) for a, values in shows.items() for v in values]
    picture, attributes, values = torch.tensor(rows).T
    embedded = step.model(PICTURES[picture], attributes).embedding
    expected = batch_triplet_loss(embedded, attributes, values, picture).loss
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("weighting", ["paper", "learned"])
def test_what_a_picture_is_to_be_named(weighting: Literal["paper", "learned"]) -> None:
    """`paper`: the drawn attribute alone, the mean over triplets' pictures; `learned`: all of its labels."""
    run = Run(TrainerConfig(weighting=weighting))
    drawn = run.buffer.draw(6)
    assert set(drawn.attribute.tolist()) == {0, 1}
    slots, image, attribute, triplets = map(torch.from_numpy, index_triplets(drawn))
    targets = torch.tensor([[1.0, float(slot % 2)] for slot in slots.tolist()])
    step = run.trainer.module.eval()
    _, figures = step(TrainingBatch(PICTURES[slots], image, attribute, targets, triplets=triplets))
    if weighting == "learned":
        logits = step.model(PICTURES[slots], torch.zeros_like(slots)).logits
    else:
        of_triplets = torch.from_numpy(np.concatenate([drawn.anchor, drawn.positive, drawn.negative]))
        logits = step.model(PICTURES[of_triplets], torch.zeros_like(of_triplets)).logits
        targets = torch.eye(2)[torch.from_numpy(drawn.attribute)].repeat(3, 1)
    expected = functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(figures["type"], expected.detach())


def test_same_seed_same_weights() -> None:
    runs = [Run(TrainerConfig(sampling="batch", weighting="learned", seed=seed)) for seed in (4, 4, 5)]
    first, same, other = ([*run.learn(3)] and run.weights() for run in runs)
    assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    assert not torch.equal(first["model.w"], other["model.w"])


def test_global_random_states_are_part_of_the_state() -> None:
    trainer = Run(TrainerConfig()).trainer
    state = trainer.state_dict()
    draws = [(torch.rand(1).item(), np.random.rand(), random.random(), random.gauss()) for _ in range(2)]
    trainer.load_state_dict(state)
    assert draws[0] == (torch.rand(1).item(), np.random.rand(), random.random(), random.gauss())


def test_mistakes_are_named() -> None:
    for changes, message in [
        ({"lr": 0.0}, "lr > 0"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"clip_norm": -1.0}, "clip_norm >= 0"),
        ({"loss": "contrastive"}, "loss contrastive .* expected sampling batch, found paper"),
        ({"mining": "hard"}, "mining hard .* found paper with triplet"),
        ({"mining": "hard", "loss": "contrastive", "sampling": "batch"}, "found batch with contrastive"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            TrainerConfig(**changes)
    run = Run(TrainerConfig())
    with pytest.raises(InvalidInput, match="triplets or shown"):
        run.trainer.step(run.batch()._replace(triplets=None))
    with pytest.raises(CheckpointMismatch, match="log_variance"):
        run.trainer.load_state_dict(Run(TrainerConfig(weighting="learned")).trainer.state_dict())
    before = run.weights()["model.w"]
    batch = run.batch()
    with pytest.raises(InvalidInput, match="loss is nan at step 0"):
        run.trainer.step(batch._replace(images=batch.images * torch.nan))
    assert torch.equal(run.weights()["model.w"], before)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_is_refused(clip_norm: float) -> None:
    """As where another worker's loss is nan: this one's is a number, the gradients are of both."""
    run = Run(TrainerConfig(clip_norm=clip_norm))
    before = run.weights()
    run.trainer.module.model.w.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(
        InvalidInput, match=r"loss is 0\.\d+ at step 0, the gradient's norm (inf|nan): expected"
    ):
        run.trainer.step(run.batch())
    trained = {name for name, _ in run.trainer.module.named_parameters()}
    assert all(torch.equal(run.weights()[name], before[name]) for name in trained)


def test_clipping_alone_changes_gradients() -> None:
    unclipped, high, low = (Run(TrainerConfig(clip_norm=norm)) for norm in (0.0, 1e9, 1e-3))
    norms = [run.trainer.step(run.batch())["gradient_norm"] for run in (unclipped, high, low)]
    assert norms == [norms[0]] * 3
    gradients = [
        [p.grad for p in run.trainer.module.parameters() if p.grad is not None] for run in (high, low)
    ]
    assert torch.nn.utils.get_total_norm(gradients[0]).item() == norms[0]
    assert torch.nn.utils.get_total_norm(gradients[1]).item() == pytest.approx(1e-3, rel=1e-3)
