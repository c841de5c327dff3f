"""A training's learner and pools without Ray: what is drawn, what is resumed, what is refused."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agman.errors import CheckpointMismatch, InvalidInput
from agman.model import ModelConfig
from agman.taxonomy import Attribute, Taxonomy
from agman.trainer import TrainerConfig
from agman.transforms import Augmentation, Preprocess, read_pixels
from pipelines.dataset import Dataset, Description, ListedTriplets
from pipelines.training.config import TrainConfig
from pipelines.training.learner import Clock, Learner, Patience
from pipelines.training.listed import ListedPool, listed_places
from pipelines.training.samples import SamplePool, training_tars

TAXONOMY = Taxonomy((Attribute("hue", ("red", "blue")), Attribute("tone", ("dark", "light", "grey"))))
PREPROCESS = Preprocess(image_size=32)
NUM_TARS = 3
PER_TAR = 6
BOTH = {"hue": ["blue"], "tone": ["dark"]}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pack(path: Path, encoded: list[bytes]) -> list[str]:
    """Write pictures as a shard has them; returns their digests."""
    digests = [hashlib.sha256(body).hexdigest() for body in encoded]
    with tarfile.open(path, "w") as tar:
        for digest, body in zip(digests, encoded, strict=True):
            for name, content in ((f"{digest}.jpg", body), (f"{digest}.json", b'{"role": "", "labels": {}}')):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return digests


def labels_of(number: int) -> dict[str, list[str]]:
    """Every picture has a hue; two of three have a tone, every fifth two of them."""
    tones = [("dark", "light", "grey")[number % 4 % 3], *(["dark"] if number % 5 == 0 else [])]
    shown = {"hue": [("red", "blue")[number % 2]]}
    return {**shown, "tone": list(dict.fromkeys(tones))} if number % 3 else shown


@pytest.fixture
def dataset(tmp_path: Path, picture: Callable[..., bytes]) -> Dataset:
    """Three tars of six pictures; one picture is for validation, one has unknown labels, one two uses."""
    urls, described = [], {}
    for tar in range(NUM_TARS):
        numbers = range(tar * PER_TAR, (tar + 1) * PER_TAR)
        urls.append(str(tmp_path / f"{tar}.tar"))
        digests = pack(Path(urls[-1]), [picture(number) for number in numbers])
        for number, digest in zip(numbers, digests, strict=True):
            described[digest] = (Description("valid" if number == 7 else "train", labels_of(number)),)
            if number == 8:
                described[digest] = (Description("train", {"hue": ["red", "pink"], "shape": ["round"]}),)
            if number == 9:  # listed under each of its attributes
                described[digest] = tuple(Description("train", {a: v}) for a, v in BOTH.items())
    return Dataset("shop", tuple(urls), described)


def config(**changes: Any) -> TrainConfig:
    optimisation = TrainerConfig(weighting="learned", schedule="cosine", warmup_steps=1, clip_norm=1.0)
    base = TrainConfig(
        lake="", source="", network=ModelConfig(trunk="resnet18", embedding_dim=16), preprocess=PREPROCESS,
        augmentation=Augmentation(max_shift=0.1), optimisation=optimisation, triplets_per_step=2, steps=8,
    )  # fmt: skip
    sampling = changes.pop("sampling", "paper")
    return replace(base, optimisation=replace(base.optimisation, sampling=sampling), **changes)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.trainer.module.state_dict().items()}


@pytest.mark.parametrize(("sampling", "capacity"), [("paper", 100), ("batch", 5)])
def test_a_resumed_learner_equals_the_unbroken_one_bitwise(
    dataset: Dataset, sampling: str, capacity: int
) -> None:
    """With a pool that holds everything, and with one that pictures flow through, over several epochs."""
    asked = config(sampling=sampling, buffer_samples=capacity, triplets_per_step=6)
    unbroken = Learner(asked, TAXONOMY, dataset)
    for _ in range(4):
        unbroken.learn()
    state = through_a_file(unbroken.state_dict())
    expected = [unbroken.learn()["loss"] for _ in range(2)]
    resumed = Learner(asked, TAXONOMY, dataset)
    resumed.learn()
    resumed.load_state_dict(state)
    assert [resumed.learn()["loss"] for _ in range(2)] == expected
    again = weights(resumed)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(unbroken).items())


def test_a_pool_flows_through_every_picture(dataset: Dataset) -> None:
    pool = SamplePool(dataset, TAXONOMY, PREPROCESS, capacity=5, seed=0)
    num_pictures = NUM_TARS * PER_TAR - 1
    held_in: list[set[str]] = [set() for _ in range(4)]
    while (flow := pool.state_dict()["flow"])["epoch"] < 4:
        held_in[flow["epoch"]].update(flow["digests"])
        pool.refresh(1)
    assert [len(digests) for digests in held_in] == [num_pictures] * 4
    assert len(pool) == 5


@pytest.mark.parametrize("capacity", [2, 5, 12, NUM_TARS * PER_TAR - 2, NUM_TARS * PER_TAR - 1, 100])
def test_a_pool_holds_every_picture_once_with_all_that_it_shows(dataset: Dataset, capacity: int) -> None:
    """Two slots of one picture would make it its own positive; resumed anywhere it flows on alike."""
    (twice,) = (digest for digest, uses in dataset.described.items() if len(uses) == 2)
    again = replace(dataset, urls=(*dataset.urls, dataset.urls[0]))  # and one tar's pictures lie in two
    pools = [SamplePool(again, TAXONOMY, PREPROCESS, capacity=capacity, seed=1) for _ in range(2)]
    whole, resumed = pools
    for _ in range(8):
        digests = whole.state_dict()["flow"]["digests"]
        assert len(digests) == len(set(digests)) == min(capacity, NUM_TARS * PER_TAR - 1)
        if twice in digests:
            assert whole.labels(np.array([digests.index(twice)])) == [{0: [1], 1: [0]}]
        resumed.load_state_dict(through_a_file(whole.state_dict()))
        for pool in pools:
            pool.refresh(7)
        assert resumed.state_dict()["flow"] == whole.state_dict()["flow"]


def test_a_flowing_pool_goes_on_without_reading_what_flowed_by(dataset: Dataset) -> None:
    whole = SamplePool(dataset, TAXONOMY, PREPROCESS, capacity=5, seed=0)
    whole.refresh(200)
    state = through_a_file(whole.state_dict())
    state["flow"]["num_replaced"] += 5 * 10**9  # whole rounds: who replays them all never ends
    resumed = SamplePool(dataset, TAXONOMY, PREPROCESS, capacity=5, seed=0)
    resumed.load_state_dict(state)
    for pool in (whole, resumed):
        pool.refresh(23)
    slots = np.arange(5)
    assert torch.equal(whole.pixels(slots), resumed.pixels(slots))
    assert whole.labels(slots) == resumed.labels(slots)
    assert whole.draw(40).negative.tolist() == resumed.draw(40).negative.tolist()
    with pytest.raises(CheckpointMismatch, match="the tars have"):
        SamplePool(dataset.share(dataset.urls[:1]), TAXONOMY, PREPROCESS, capacity=5, seed=0).load_state_dict(
            state
        )


def test_what_is_left_out_is_told(dataset: Dataset) -> None:
    broken = Path(dataset.urls[0]).parent / "broken.tar"
    (digest,) = pack(broken, [b"no picture"])
    described = {**dataset.described, digest: (Description("train", {"hue": ["red"]}),)}
    more = replace(dataset, urls=(*dataset.urls, str(broken)), described=described)
    taxonomy = Taxonomy((*TAXONOMY.attributes, Attribute("shape", ("square", "round"))))
    said = SamplePool(more, taxonomy, PREPROCESS, capacity=100, seed=0).notes()
    assert said == [
        "left out of the draws: shape=round: only one picture shows it, so it has no positive (1 pictures)",
        "labels that the taxonomy does not know, left out: hue=pink (1)",
        "pictures that cannot be decoded, left out: 1",
    ]
    with pytest.raises(InvalidInput, match="expected pictures of role train labelled with shape, found none"):
        SamplePool(
            dataset.share([str(broken)]), Taxonomy(taxonomy.attributes[2:]), PREPROCESS, capacity=9, seed=0
        )


def test_each_picture_is_embedded_once_under_each_of_its_attributes(dataset: Dataset) -> None:
    learner = Learner(config(sampling="batch"), TAXONOMY, dataset)
    batch = learner.batch()
    slots = [learner.pool.labels(np.arange(len(learner.pool)))]  # all pictures, in slot order
    pairs = list(zip(batch.image_index.tolist(), batch.attribute.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert batch.triplets is None
    assert batch.targets.sum() == len(pairs)
    assert all(batch.targets[image, attribute] == 1 for image, attribute in pairs)
    shown = {(*pairs[pair], value) for pair, value in batch.shown.tolist()}
    every = [{(a, v) for a, values in labels.items() for v in values} for labels in slots[0]]
    for image in range(len(batch.images)):
        assert {(a, v) for i, a, v in shown if i == image} in every


def test_ranks_start_alike_and_draw_apart(dataset: Dataset) -> None:
    first, second = (Learner(config(), TAXONOMY, dataset, rank=rank, num_ranks=2) for rank in (0, 1))
    other = weights(second)
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(first).items())
    assert len(first.pool) + len(second.pool) == NUM_TARS * PER_TAR - 1
    state = first.state_dict()
    drawn = second.pool.state_dict()
    second.load_state_dict(state, is_own=False)
    assert second.pool.state_dict()["flow"] == drawn["flow"]


def test_ranks_share_the_tars_to_learn_from(dataset: Dataset) -> None:
    homes = {sample.sha256: url for url in dataset.urls for sample in dataset.share([url]).samples()}
    described = {
        digest: (replace(uses[0], role="query"),) if homes[digest] == dataset.urls[1] else uses
        for digest, uses in dataset.described.items()
    }
    by_role = replace(dataset, described=described, homes=homes)
    assert training_tars(by_role) == (dataset.urls[0], dataset.urls[2])
    assert training_tars(dataset) == dataset.urls
    pools = [Learner(config(), TAXONOMY, by_role, rank=rank, num_ranks=2).pool for rank in (0, 1)]
    assert [len(pool) for pool in pools] == [PER_TAR, PER_TAR]


@settings(deadline=None)
@given(
    num_listed=st.integers(1, 30),
    num_ranks=st.integers(1, 5),
    per_step=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_ranks_take_every_listed_triplet_once_an_epoch(
    num_listed: int, num_ranks: int, per_step: int, seed: int
) -> None:
    epochs = 3
    num_steps = -(-epochs * num_listed // (per_step * num_ranks))
    drawn = np.stack(
        [
            np.concatenate(
                [
                    listed_places(
                        num_listed, step * per_step, per_step, rank=rank, num_ranks=num_ranks, seed=seed
                    )
                    for step in range(num_steps)
                ]
            )
            for rank in range(num_ranks)
        ],
        axis=1,
    ).reshape(-1)
    for epoch in range(epochs):
        part = drawn[epoch * num_listed : (epoch + 1) * num_listed]
        assert sorted(part.tolist()) == list(range(num_listed))
    if num_listed >= 20:
        assert drawn[:num_listed].tolist() != drawn[num_listed : 2 * num_listed].tolist()


@pytest.fixture
def listed(dataset: Dataset) -> Dataset:
    """The last of its pictures is in no tar."""
    pictures = (*sorted(dataset.described), "f" * 64)
    random = np.random.default_rng(0)
    rows = np.stack([random.permutation(len(pictures) - 1)[:3] for _ in range(20)])
    rows = np.concatenate([rows, [[0, 1, len(pictures) - 1]]])
    triplets = ListedTriplets(pictures, random.integers(2, size=len(rows)), rows)
    return replace(dataset, taxonomy=TAXONOMY, triplets={"train": triplets})


def test_listed_triplets_are_learned_as_they_are(listed: Dataset) -> None:
    triplets = listed.triplets["train"]
    pools = [
        ListedPool(listed, triplets, PREPROCESS, rank=rank, num_ranks=2, capacity=50, seed=3)
        for rank in (0, 1)
    ]
    assert pools[0].notes() == [
        "listed pictures that are in no shard: 1",
        "listed triplets that name such pictures, left out: 1",
    ]
    drawn = [pool.draw(10) for pool in pools]
    found = [
        (a, (i, j, k))
        for each in drawn
        for a, i, j, k in zip(*(getattr(each, name).tolist() for name in
                                ("attribute", "anchor", "positive", "negative")), strict=True)
    ]  # fmt: skip
    expected = list(zip(triplets.attribute.tolist(), map(tuple, triplets.rows.tolist()), strict=True))[:-1]
    assert sorted(found) == sorted(expected)
    sample = next(each for each in listed.samples() if each.sha256 == triplets.pictures[4])
    assert torch.equal(pools[1].pixels(np.array([4]))[0], read_pixels(sample.encoded, PREPROCESS))


def test_broken_listed_pictures_are_told_apart_from_missing_ones(listed: Dataset) -> None:
    broken = Path(listed.urls[0]).parent / "broken.tar"
    (digest,) = pack(broken, [b"no picture"])
    triplets = listed.triplets["train"]
    rows = np.append(triplets.rows, [[0, 1, len(triplets.pictures)]], axis=0)
    more = ListedTriplets((*triplets.pictures, digest), np.append(triplets.attribute, 0), rows)
    dataset = replace(
        listed,
        urls=(*listed.urls, str(broken)),
        described={**listed.described, digest: (Description("train", {}),)},
    )
    assert ListedPool(dataset, more, PREPROCESS, rank=0, num_ranks=1, capacity=50, seed=3).notes() == [
        "pictures that cannot be decoded, left out: 1",
        "listed pictures that are in no shard: 1",
        "listed triplets that name such pictures, left out: 2",
    ]


def test_a_resumed_way_through_the_list_is_the_same(listed: Dataset) -> None:
    asked = config(triplets_per_step=3)
    asked = replace(asked, optimisation=replace(asked.optimisation, classification=False))
    unbroken = Learner(asked, TAXONOMY, listed)
    unbroken.learn()
    state = through_a_file(unbroken.state_dict())
    expected = unbroken.learn()
    assert "type" not in expected
    resumed = Learner(asked, TAXONOMY, listed)
    resumed.load_state_dict(state)
    assert resumed.learn() == expected


def test_listed_pictures_must_fit(listed: Dataset) -> None:
    with pytest.raises(InvalidInput, match="19 pictures: expected at most --buffer-samples 18"):
        Learner(config(buffer_samples=18), TAXONOMY, listed)
    with pytest.raises(InvalidInput, match="found 0 of 19"):
        Learner(config(), TAXONOMY, listed.share(()))


def test_patience_counts_validations_without_improvement() -> None:
    patience = Patience(2)
    for score, spent in ((0.2, False), (0.2, False), (0.3, False), (0.1, False), (0.3, True)):
        patience.record(score)
        assert patience.is_spent == spent
    resumed = Patience(3)
    resumed.load_state_dict(through_a_file(patience.state_dict()))
    assert not resumed.is_spent
    resumed.record(0.25)
    assert resumed.is_spent
    assert resumed.best == 0.3
    endless = Patience(0)
    for _ in range(9):
        endless.record(0.1)
    assert not endless.is_spent


def test_the_time_of_earlier_attempts_counts() -> None:
    first = Clock(60, started=1000.0)
    assert first.share(1015.0) == 0.25
    state = through_a_file(first.state_dict(1030.0))
    rerun, restarted, unlimited = Clock(60, started=9000.0), Clock(60, started=1000.0), Clock(0, started=9.0)
    for clock in (rerun, restarted, unlimited):
        clock.load_state_dict(state)
    assert (rerun.share(9000.0), rerun.share(9030.0)) == (0.5, 1.0)
    assert restarted.share(1045.0) == 0.75, "workers that start again within an attempt count no time twice"
    assert unlimited.share(1e9) == 0
    third = Clock(120, started=20000.0)
    third.load_state_dict(through_a_file(rerun.state_dict(9015.0)))
    assert third.share(20015.0) == 0.5


def test_waiting_is_part_of_working(dataset: Dataset) -> None:
    learner = Learner(config(), TAXONOMY, dataset)
    learner.learn()
    assert 0 < learner.waited_s < learner.worked_s
    assert 3 <= learner.num_images <= 6
