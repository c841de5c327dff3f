"""A model in training is judged by what a data set keeps for it: lists, undivided pictures or triplets."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_tars import Tar

from agman.errors import InvalidInput
from agman.model import ModelConfig
from agman.networks import build_network
from agman.taxonomy import Attribute, Taxonomy
from agman.transforms import Preprocess
from pipelines.dataset import Dataset, Description, ListedTriplets
from pipelines.held_out import select_held_out
from pipelines.scoring import MODEL, score_attribute
from pipelines.validation import load_validation, validate
from pipelines.vectors import PictureEmbedder

TAXONOMY = Taxonomy((Attribute("cut", ("a", "b")), Attribute("hem", ("x", "y", "z"))))
PREPROCESS = Preprocess(image_size=32)
VALUES = (("a", "x"), ("b", "y"), ("a", "z"), ("b", "x"))


def shop(tar: Tar, roles: list[str]) -> Dataset:
    uses = {
        digest: (Description(role, {"cut": [VALUES[i % 4][0]], "hem": [VALUES[i % 4][1]]}),)
        for i, (digest, role) in enumerate(zip(tar.digests, roles, strict=True))
    }
    return Dataset("shop", (tar.write(),), uses)


@pytest.fixture
def tar(tmp_path: Path, picture) -> Tar:
    return Tar(tmp_path / "shard.tar", [picture(seed) for seed in range(24)])


@pytest.fixture
def network():
    torch.manual_seed(1)
    return build_network(ModelConfig(trunk="resnet18", embedding_dim=16), len(TAXONOMY)).eval()


@pytest.mark.parametrize("roles", [["valid"], ["valid_query", "valid_candidate", "valid_candidate"]])
def test_pictures_are_judged_by_their_lists(tar: Tar, network, roles: list[str]) -> None:
    dataset = shop(tar, [(["train", *roles])[i % (1 + len(roles))] for i in range(24)])
    validation = pickle.loads(pickle.dumps(load_validation(dataset, TAXONOMY, PREPROCESS, limit=100)))
    found = validate(network, validation, PREPROCESS)

    held_out = select_held_out(dataset, TAXONOMY, "valid")
    assert held_out.pictures == validation.held_out.pictures
    vectors = PictureEmbedder(network, PREPROCESS).embed(validation.pixels)
    total = count = 0.0
    for attribute in (0, 1):
        among = {MODEL: torch.from_numpy(vectors[:, attribute])}
        row = score_attribute(held_out, attribute, validation.positions, among)
        assert row is not None
        total += row["map"] * row["num_queries"]
        count += row["num_queries"]
    assert found == pytest.approx(total / count)
    assert 0 < found < 1


def test_a_limit_takes_the_same_pictures_whatever_their_order_in_tars(tar: Tar) -> None:
    dataset = shop(tar, ["valid"] * 24)
    forward = load_validation(dataset, TAXONOMY, PREPROCESS, limit=12)
    tar.encoded.reverse()
    tar.digests.reverse()
    tar.write()
    backward = load_validation(dataset, TAXONOMY, PREPROCESS, limit=12)
    assert forward.held_out.pictures == backward.held_out.pictures == tuple(sorted(tar.digests)[:12])
    assert np.array_equal(forward.positions, backward.positions[::-1])
    assert torch.equal(forward.pixels, backward.pixels.flip(0))


def test_a_picture_that_cannot_be_read_is_left_out(tar: Tar, network) -> None:
    tar.encoded[5] = b"no picture"
    tar.digests[5] = hashlib.sha256(tar.encoded[5]).hexdigest()
    validation = load_validation(shop(tar, ["valid"] * 24), TAXONOMY, PREPROCESS, limit=100)
    assert len(validation.held_out.pictures) == 24
    assert len(validation.pixels) == len(validation.positions) == 23
    assert 0 < validate(network, validation, PREPROCESS) < 1


def test_listed_triplets_give_their_accuracy(tar: Tar, network) -> None:
    rows = np.random.default_rng(0).integers(0, 24, (40, 3))
    listed = ListedTriplets(tuple(tar.digests), np.arange(40) % 2, rows)
    dataset = Dataset("shoes", (tar.write(),), {}, TAXONOMY, {"valid": listed})
    found = validate(network, load_validation(dataset, TAXONOMY, PREPROCESS, limit=100), PREPROCESS)
    pixels = load_validation(dataset, TAXONOMY, PREPROCESS, limit=100)
    place = {pixels.held_out.pictures[p]: at for at, p in enumerate(pixels.positions)}
    vectors = torch.from_numpy(PictureEmbedder(network, PREPROCESS).embed(pixels.pixels))
    right = []
    for number, triplet in enumerate(rows):
        anchor, positive, negative = (vectors[place[tar.digests[i]], number % 2] for i in triplet)
        right.append(bool((anchor * positive).sum() > (anchor * negative).sum()))
    assert found == pytest.approx(np.mean(right))


def test_a_network_that_has_diverged_scores_nothing(tar: Tar, network) -> None:
    validation = load_validation(shop(tar, ["valid"] * 24), TAXONOMY, PREPROCESS, limit=100)
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    assert validate(network, validation, PREPROCESS) == 0.0


def test_nothing_to_validate_with_is_one_line(tar: Tar) -> None:
    for roles in (["train"] * 24, ["valid"] * 3 + ["train"] * 21):
        with pytest.raises(InvalidInput, match="dataset shop: expected at least 4 pictures of role valid"):
            load_validation(shop(tar, roles), TAXONOMY, PREPROCESS, limit=100)
