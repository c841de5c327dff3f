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
from pipelines.training.learner import Clock, Learner, Patience, rank_shares
from pipelines.training.listed import listed_places
from pipelines.training.pictures import share_rows, training_pictures
from pipelines.training.samples import SamplePool

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
    urls, described, homes = [], {}, {}
    for tar in range(NUM_TARS):
        numbers = range(tar * PER_TAR, (tar + 1) * PER_TAR)
        urls.append(str(tmp_path / f"{tar}.tar"))
        digests = pack(Path(urls[-1]), [picture(number) for number in numbers])
        for number, digest in zip(numbers, digests, strict=True):
            homes[digest] = urls[-1]
            described[digest] = (Description("valid" if number == 7 else "train", labels_of(number)),)
            if number == 8:
                described[digest] = (Description("train", {"hue": ["red", "pink"], "shape": ["round"]}),)
            if number == 9:  # listed under each of its attributes
                described[digest] = tuple(Description("train", {a: v}) for a, v in BOTH.items())
    return Dataset("shop", tuple(urls), described, homes=homes)


def open_learner(asked: TrainConfig, dataset: Dataset, *, rank: int = 0, num_ranks: int = 1) -> Learner:
    listed = dataset.triplets.get("train")
    return Learner(
        asked, TAXONOMY, training_pictures(dataset, TAXONOMY), listed, rank=rank, num_ranks=num_ranks
    )


def sample_pool(
    dataset: Dataset, taxonomy: Taxonomy = TAXONOMY, *, capacity: int, seed: int = 0, threads: int = 1
) -> SamplePool:
    share = training_pictures(dataset, taxonomy).share(0, 1)
    return SamplePool(share, taxonomy, PREPROCESS, capacity=capacity, seed=seed, threads=threads)


def config(**changes: Any) -> TrainConfig:
    optimisation = TrainerConfig(weighting="learned", schedule="cosine", warmup_steps=1, clip_norm=1.0)
    base = TrainConfig(
        lake="", source="", network=ModelConfig(trunk="resnet18", embedding_dim=16), preprocess=PREPROCESS,
        augmentation=Augmentation(max_shift=0.1), optimisation=optimisation, triplets_per_step=2, steps=8,
        num_workers=1,
    )  # fmt: skip
    sampling = changes.pop("sampling", "paper")
    return replace(base, optimisation=replace(base.optimisation, sampling=sampling), **changes)


def listed_config(seed: int = 0, **changes: Any) -> TrainConfig:
    asked = config(**changes)
    return replace(asked, optimisation=replace(asked.optimisation, classification=False, seed=seed))


def in_tars(dataset: Dataset, number: int) -> Dataset:
    """Return what lies in the first of its tars."""
    urls = dataset.urls[:number]
    described = {digest: uses for digest, uses in dataset.described.items() if dataset.homes[digest] in urls}
    return replace(dataset, urls=urls, described=described)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def state_of(learner: Learner) -> dict[str, Any]:
    shares = {number: share.state_dict() for number, share in learner.shares.items()}
    return {"trainer": learner.trainer.state_dict(), "shares": shares}


def go_on(learner: Learner, state: dict[str, Any]) -> None:
    learner.trainer.load_state_dict(state["trainer"])
    for number, share in learner.shares.items():
        share.load_state_dict(state["shares"][number])


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.trainer.module.state_dict().items()}


@pytest.mark.parametrize(("sampling", "capacity"), [("paper", 100), ("batch", 5)])
def test_a_resumed_learner_equals_the_unbroken_one_bitwise(
    dataset: Dataset, sampling: str, capacity: int
) -> None:
    """With a pool that holds everything, and with one that pictures flow through, over several epochs."""
    asked = config(sampling=sampling, buffer_samples=capacity, triplets_per_step=6)
    unbroken = open_learner(asked, dataset)
    for _ in range(4):
        unbroken.learn()
    state = through_a_file(state_of(unbroken))
    expected = [unbroken.learn()["loss"] for _ in range(2)]
    resumed = open_learner(asked, dataset)
    resumed.learn()
    go_on(resumed, state)
    assert [resumed.learn()["loss"] for _ in range(2)] == expected
    again = weights(resumed)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(unbroken).items())


def test_a_pool_flows_through_every_picture(dataset: Dataset) -> None:
    pool = sample_pool(dataset, capacity=5)
    num_pictures = NUM_TARS * PER_TAR - 1
    held_in: list[set[str]] = [set() for _ in range(4)]
    while (flow := pool.state_dict()["flow"])["epoch"] < 4:
        held_in[flow["epoch"]].update(flow["digests"])
        pool.refresh(1)
    assert [len(digests) for digests in held_in] == [num_pictures] * 4
    assert len(pool) == 5


@pytest.mark.parametrize("capacity", [2, 5, 12, NUM_TARS * PER_TAR - 2, NUM_TARS * PER_TAR - 1, 100])
def test_a_pool_holds_every_picture_once_with_all_that_it_shows(
    dataset: Dataset, picture: Callable[..., bytes], capacity: int
) -> None:
    """Two slots of one picture would make it its own positive; resumed anywhere it flows on alike."""
    (twice,) = (digest for digest, uses in dataset.described.items() if len(uses) == 2)
    pack(Path(dataset.urls[0]), [picture(number) for number in (*range(PER_TAR), 0)])  # and one lies twice
    pools = [sample_pool(dataset, capacity=capacity, seed=1) for _ in range(2)]
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


@pytest.mark.parametrize("ahead", [1, 4])
def test_decoding_ahead_changes_nothing(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    one = sample_pool(dataset, capacity=5)
    monkeypatch.setattr("pipelines.training.samples.DECODED_AHEAD", ahead)
    several = sample_pool(dataset, capacity=5, threads=3)
    for _ in range(12):
        for pool in (one, several):
            pool.refresh(5)
        assert several.state_dict()["flow"] == one.state_dict()["flow"]
        assert torch.equal(several.pixels(np.arange(5)), one.pixels(np.arange(5)))


def test_a_flowing_pool_goes_on_without_reading_what_flowed_by(dataset: Dataset) -> None:
    whole = sample_pool(dataset, capacity=5)
    whole.refresh(200)
    state = through_a_file(whole.state_dict())
    state["flow"]["num_replaced"] += 5 * 10**9  # whole rounds: who replays them all never ends
    resumed = sample_pool(dataset, capacity=5)
    resumed.load_state_dict(state)
    for pool in (whole, resumed):
        pool.refresh(23)
    slots = np.arange(5)
    assert torch.equal(whole.pixels(slots), resumed.pixels(slots))
    assert whole.labels(slots) == resumed.labels(slots)
    assert whole.draw(40).negative.tolist() == resumed.draw(40).negative.tolist()
    with pytest.raises(CheckpointMismatch, match="the tars have"):
        sample_pool(in_tars(dataset, 1), capacity=5).load_state_dict(state)


def test_what_is_left_out_is_told(dataset: Dataset) -> None:
    broken = Path(dataset.urls[0]).parent / "broken.tar"
    (digest,) = pack(broken, [b"no picture"])
    described = {**dataset.described, digest: (Description("train", {"hue": ["red"]}),)}
    homes = {**dataset.homes, digest: str(broken)}
    more = replace(dataset, urls=(*dataset.urls, str(broken)), described=described, homes=homes)
    taxonomy = Taxonomy((*TAXONOMY.attributes, Attribute("shape", ("square", "round"))))
    assert training_pictures(more, taxonomy).unknown == {"hue=pink": 1}
    assert sample_pool(more, taxonomy, capacity=100).notes() == [
        "left out of the draws: shape=round: only one picture shows it, so it has no positive (1 pictures)",
        "pictures that cannot be decoded, left out: 1",
    ]
    alone = replace(more, described={digest: described[digest]})
    with pytest.raises(InvalidInput, match="1 pictures of a worker in 1 shards: expected one that can be"):
        sample_pool(alone, capacity=9)
    assert len(training_pictures(dataset, Taxonomy((Attribute("sleeve", ("long", "short")),)))) == 0


def test_each_picture_is_embedded_once_under_each_of_its_attributes(dataset: Dataset) -> None:
    (share,) = open_learner(config(sampling="batch"), dataset).shares.values()
    batch = share.batch()
    slots = [share.pool.labels(np.arange(len(share.pool)))]  # all pictures, in slot order
    pairs = list(zip(batch.image_index.tolist(), batch.attribute.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert batch.triplets is None
    assert batch.targets.sum() == len(pairs)
    assert all(batch.targets[image, attribute] == 1 for image, attribute in pairs)
    shown = {(*pairs[pair], value) for pair, value in batch.shown.tolist()}
    every = [{(a, v) for a, values in labels.items() for v in values} for labels in slots[0]]
    for image in range(len(batch.images)):
        assert {(a, v) for i, a, v in shown if i == image} in every


@settings(deadline=None)
@given(num_pictures=st.integers(0, 99), num_shares=st.integers(1, 12), num_ranks=st.integers(1, 12))
def test_ranks_have_every_picture_once(num_pictures: int, num_shares: int, num_ranks: int) -> None:
    num_ranks = min(num_ranks, num_shares)
    ranks = [list(rank_shares(rank, num_ranks, num_shares)) for rank in range(num_ranks)]
    rows = [list(share_rows(num_pictures, share, num_shares)) for shares in ranks for share in shares]
    assert sorted(row for share in rows for row in share) == list(range(num_pictures))
    sizes = [len(share) for share in rows]
    assert max(sizes) - min(sizes) <= 1
    counts = [len(shares) for shares in ranks]
    assert counts[0] == max(counts) <= min(counts) + 1


@pytest.mark.parametrize("num_shares", [1, 2, 3, 7, 17])
def test_shares_of_uneven_tars_stream_every_picture_once(dataset: Dataset, num_shares: int) -> None:
    """Also where there are more shares than tars, or as many as pictures."""
    pictures = training_pictures(dataset, TAXONOMY)
    taught = {digest for digest, uses in dataset.described.items() if uses[0].role == "train"}
    shares = [pictures.share(number, num_shares) for number in range(num_shares)]
    streamed = [[(sample.sha256, labels) for sample, labels in share.stream()] for share in shares]
    assert [len(found) for found in streamed] == [len(share) for share in shares]
    assert sorted(digest for found in streamed for digest, _ in found) == sorted(taught)
    assert sum(len(share.urls) for share in shares) <= NUM_TARS + num_shares
    (twice,) = (digest for digest, uses in dataset.described.items() if len(uses) == 2)
    assert dict(pair for found in streamed for pair in found)[twice] == {0: [1], 1: [0]}


def test_a_share_does_not_depend_on_where_the_lake_is(dataset: Dataset, tmp_path: Path) -> None:
    elsewhere = {url: str(tmp_path / "elsewhere" / Path(url).name) for url in dataset.urls}
    moved = replace(
        dataset,
        urls=tuple(sorted(elsewhere.values(), reverse=True)),
        homes={digest: elsewhere[url] for digest, url in dataset.homes.items()},
    )
    assert training_pictures(moved, TAXONOMY).table.equals(training_pictures(dataset, TAXONOMY).table)


def test_a_picture_of_two_tars_is_read_from_its_home(dataset: Dataset, picture: Callable[..., bytes]) -> None:
    pack(Path(dataset.urls[0]), [picture(number) for number in (*range(PER_TAR), PER_TAR)])
    found = [sample for sample, _ in training_pictures(dataset, TAXONOMY).share(0, 1).stream()]
    assert len({sample.sha256 for sample in found}) == len(found) == NUM_TARS * PER_TAR - 1
    assert all(sample.url == dataset.homes[sample.sha256] for sample in found)


def test_shares_start_alike_and_draw_apart(dataset: Dataset) -> None:
    first, second = (open_learner(config(num_workers=2), dataset, rank=rank, num_ranks=2) for rank in (0, 1))
    other = weights(second)
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(first).items())
    assert [list(learner.shares) for learner in (first, second)] == [[0], [1]]
    assert len(first.shares[0].pool) + len(second.shares[1].pool) == NUM_TARS * PER_TAR - 1
    drawn = [learner.shares[share].state_dict()["generator"] for share, learner in enumerate((first, second))]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("sampling", ["paper", "batch"])
def test_fewer_workers_learn_the_same(dataset: Dataset, sampling: str) -> None:
    """Three shares on one rank: the gradient is the mean of what three ranks would have."""
    asked = config(num_workers=3, sampling=sampling)
    asked = replace(asked, optimisation=replace(asked.optimisation, clip_norm=0))
    one = open_learner(asked, dataset)
    ranks = [open_learner(asked, dataset, rank=rank, num_ranks=3) for rank in range(3)]
    for learner, share in zip(ranks, one.shares, strict=True):
        go_on(learner, through_a_file(state_of(one)))
        assert list(learner.shares) == [share]
    for learner in (one, *ranks):  # so that the step leaves its gradients to look at
        learner.trainer.optimizer.step = lambda: None  # type: ignore[method-assign]
    figures = [learner.learn() for learner in (one, *ranks)]
    assert figures[0]["loss"] == pytest.approx(np.mean([each["loss"] for each in figures[1:]]), rel=1e-5)
    gradients = [[p.grad for p in learner.trainer.module.parameters()] for learner in (one, *ranks)]
    assert one.num_images == sum(learner.num_images for learner in ranks)
    for together, *apart in zip(*gradients, strict=True):
        if together is not None:
            torch.testing.assert_close(together, torch.stack(apart).mean(0), rtol=1e-3, atol=1e-5)


@settings(deadline=None)
@given(
    num_listed=st.integers(1, 30),
    num_shares=st.integers(1, 5),
    per_step=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_shares_take_every_listed_triplet_once_an_epoch(
    num_listed: int, num_shares: int, per_step: int, seed: int
) -> None:
    epochs = 3
    num_steps = -(-epochs * num_listed // (per_step * num_shares))
    drawn = np.stack(
        [
            np.concatenate(
                [
                    listed_places(
                        num_listed, step * per_step, per_step, share=share, num_shares=num_shares, seed=seed
                    )
                    for step in range(num_steps)
                ]
            )
            for share in range(num_shares)
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
    learner = open_learner(listed_config(num_workers=2, seed=3), listed)
    pools = [share.pool for share in learner.shares.values()]
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
    stream = training_pictures(listed, TAXONOMY).share(0, 1).stream()
    sample = next(sample for sample, _ in stream if sample.sha256 == triplets.pictures[4])
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
        homes={**listed.homes, digest: str(broken)},
        triplets={"train": more},
    )
    (share,) = open_learner(listed_config(), dataset).shares.values()
    assert share.pool.notes() == [
        "pictures that cannot be decoded, left out: 1",
        "listed pictures that are in no shard: 1",
        "listed triplets that name such pictures, left out: 2",
    ]


def test_a_resumed_way_through_the_list_is_the_same(listed: Dataset) -> None:
    asked = listed_config(triplets_per_step=3)
    unbroken = open_learner(asked, listed)
    unbroken.learn()
    state = through_a_file(state_of(unbroken))
    expected = unbroken.learn()
    assert "type" not in expected
    resumed = open_learner(asked, listed)
    go_on(resumed, state)
    assert resumed.learn() == expected


def test_listed_pictures_must_fit(listed: Dataset) -> None:
    with pytest.raises(InvalidInput, match="19 pictures: expected at most --buffer-samples 18"):
        open_learner(config(buffer_samples=18), listed)
    with pytest.raises(InvalidInput, match="found 0 of 19"):
        open_learner(listed_config(), replace(listed, homes={}))


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
    learner = open_learner(config(), dataset)
    learner.learn()
    assert 0 < learner.waited_s < learner.worked_s
    assert 3 <= learner.num_images <= 6
