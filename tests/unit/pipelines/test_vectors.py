"""What a shard's held-out pictures become, for AG-MAN and the baselines, and how shards are put together."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_tars import Tar

from agman.checkpoint import load_model, save_model
from agman.model import ModelConfig
from agman.networks import build_network
from agman.taxonomy import Attribute, Taxonomy
from agman.transforms import Preprocess, read_pixels
from pipelines.dataset import Dataset
from pipelines.evaluation import left_out, score_blocks
from pipelines.held_out import HeldOut, Lines, by_tar, read_held_out
from pipelines.lake import Lake
from pipelines.models import fetch_model, import_model
from pipelines.scoring import MODEL, score_attribute
from pipelines.vectors import (
    PIXELS,
    UNTRAINED,
    PictureEmbedder,
    embed_shard,
    pixel_vectors,
    thumbnails,
    untrained,
)

TAXONOMY = Taxonomy((Attribute("cut", ("a", "b")), Attribute("hem", ("x", "y", "z"))))
PREPROCESS = Preprocess(image_size=32)


@pytest.fixture(params=["agman", "csn", "plain"])
def model(request, lake: Lake, tmp_path: Path) -> str:
    torch.manual_seed(7)
    config = ModelConfig(trunk="resnet18", embedding_dim=16, head=request.param)
    save_model(build_network(config, len(TAXONOMY)).eval(), TAXONOMY, PREPROCESS, tmp_path / "model")
    return import_model(lake, tmp_path / "model")


def test_shards_are_embedded_and_scored_as_one(lake: Lake, model: str, tmp_path: Path, picture) -> None:
    tars = [Tar(tmp_path / f"{i}.tar", [picture(10 * i + seed) for seed in range(8)]) for i in range(2)]
    tars[0].encoded[3] = b"no picture"
    tars[0].digests[3] = hashlib.sha256(b"no picture").hexdigest()
    digests = [digest for tar in tars for digest in tar.digests]
    rng = np.random.default_rng(0)
    lines = [Lines(rng.permutation(16)[:7], rng.integers(0, 2, 7)) for _ in range(4)]
    held_out = HeldOut(tuple(digests), {0: (lines[0], lines[1]), 1: (lines[2], lines[3])})
    with fetch_model(lake, model) as folder:
        loaded = load_model(folder)
    fresh = untrained(loaded)
    home = np.array_split(np.arange(16), 2)
    shards = [
        embed_shard(loaded, fresh, tar.write(), wanted, held_out)
        for tar, wanted in zip(tars, home, strict=True)
    ]

    assert [list(header.positions) for header, *_ in shards] == [[0, 1, 2, 4, 5, 6, 7], [*range(8, 16)]]
    assert [dict(header.unreadable) for header, *_ in shards] == [{"not_an_image": 1}, {}]
    readable = [body for tar in tars for body in tar.encoded if body != b"no picture"]
    pixels = torch.stack([read_pixels(body, PREPROCESS) for body in readable])
    embedded = {
        MODEL: PictureEmbedder(loaded.model, PREPROCESS).embed(pixels),
        UNTRAINED: PictureEmbedder(fresh, PREPROCESS).embed(pixels),
    }
    positions = np.concatenate([header.positions for header, *_ in shards])
    for number, attribute in enumerate(held_out.attributes):
        blocks = [shard[2 + number] for shard in shards]
        under = held_out.under(attribute)[positions]
        for name, vectors in embedded.items():
            found = np.concatenate([block.vectors[name] for block in blocks])
            np.testing.assert_allclose(
                found, vectors[under, attribute], atol=0.02
            )  # batches round differently
        row = score_blocks(held_out, attribute, [(shard[0], shard[1], shard[2 + number]) for shard in shards])
        whole = {PIXELS: pixel_vectors(thumbnails(pixels)), MODEL: pixel_vectors(thumbnails(pixels))}
        expected = score_attribute(held_out, attribute, positions, whole)
        assert row is not None
        assert expected is not None
        assert row[PIXELS] == pytest.approx(expected[PIXELS])
        for name, vectors in embedded.items():
            under_name = {MODEL: torch.from_numpy(vectors[:, attribute])}
            judged = score_attribute(held_out, attribute, positions, under_name)
            assert judged is not None
            assert row["map" if name == MODEL else name] == pytest.approx(judged["map"], abs=0.02)
        assert row["num_queries"] == expected["num_queries"] < 8


def test_a_picture_in_two_tars_is_judged_from_its_home_alone(lake: Lake, tmp_path: Path, picture) -> None:
    encoded = [picture(seed) for seed in range(4)]
    encoded.append(b"no picture")
    tars = [Tar(tmp_path / "a.tar", encoded), Tar(tmp_path / "b.tar", encoded[2:])]
    digests, urls = tuple(tars[0].digests), tuple(tar.write() for tar in tars)
    homes = dict(zip(digests, [urls[0], urls[0], urls[1], urls[0], urls[1]], strict=True))
    dataset = Dataset("shop", urls, {}, homes=homes)
    unreadable: Counter[str] = Counter()
    read = [
        (url, position)
        for url, wanted in by_tar(dataset, digests).items()
        for position, _ in read_held_out(url, digests, wanted, PREPROCESS, unreadable)
    ]
    assert read == [(urls[0], 0), (urls[0], 1), (urls[0], 3), (urls[1], 2)]
    assert unreadable == {"not_an_image": 1}


def test_untrained_is_the_same_network_with_other_weights(lake: Lake, model: str) -> None:
    with fetch_model(lake, model) as folder:
        loaded = load_model(folder)
    fresh = untrained(loaded)
    assert type(fresh) is type(loaded.model)
    trained, first = loaded.model.state_dict(), fresh.state_dict()
    assert trained.keys() == first.keys()
    assert not torch.equal(trained["backbonenet.conv1.weight"], first["backbonenet.conv1.weight"])


def test_pixel_vectors_are_units_about_the_mean_and_nothing_for_a_flat_picture() -> None:
    noise = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    vectors = pixel_vectors(thumbnails(torch.cat([noise, torch.full_like(noise, 90)])))
    torch.testing.assert_close(vectors.norm(dim=1), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(vectors[0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_what_model_and_data_set_do_not_share_is_said() -> None:
    named = Taxonomy(
        (Attribute("hem", ("x", "y")), Attribute("heel", ("flat",)), Attribute("cut", ("a", "b")))
    )
    held_out = HeldOut(())
    held_out.unknown.update({"heel=flat": 3})
    assert left_out(named, TAXONOMY, held_out) == [
        "data set and model differ in their attributes; unknown to the model: heel; with other values: hem",
        "3 labels that the model does not know, left out: heel=flat (3)",
    ]
    assert left_out(TAXONOMY, TAXONOMY, HeldOut(())) == left_out(None, TAXONOMY, HeldOut(())) == []
    (order,) = left_out(Taxonomy(TAXONOMY.attributes[::-1]), TAXONOMY, HeldOut(()))
    assert order.endswith("the order alone")
