"""Nights of pictures that are packed smaller than they came, and every pair of them that does not fit."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from inline_ray import inline_ray
from PIL import Image
from stored_bytes import overwrite

from agman.checkpoint import load_model, save_model
from agman.embedder import Embedder
from agman.errors import InvalidInput
from agman.images import shrink
from agman.transforms import normalise, read_pixels
from pipelines.dataset import Dataset
from pipelines.embedding import EmbedOptions
from pipelines.evaluation import evaluate
from pipelines.lake import DIGEST_LETTERS, Lake
from pipelines.models import import_model
from pipelines.night import NightConfig
from pipelines.nightly import build_shards, run_night
from pipelines.promotion import load_candidate
from pipelines.search import open_searcher
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest, current_manifest
from pipelines.telemetry import Run
from pipelines.values import with_prototypes

pytestmark = pytest.mark.integration

SIDE = 80
SIZES = {"wide": (160, 120), "tall": (100, 300), "small": (70, 90), "just": (80, 110)}


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Give the same network as a model of pictures as they came (0) and of packed ones."""
    loaded, folder = load_model(tiny_model), tmp_path_factory.mktemp("model")
    save_model(loaded.model, loaded.taxonomy, replace(loaded.preprocess, packed_side=SIDE), folder)
    return {0: tiny_model, SIDE: folder}


def draw(path: Path, size: tuple[int, int], seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        draw(folder / f"{name}.jpg", size, seed)
    return folder


def configured(lake: Lake, source: Path, model: Path, resize: int = SIDE) -> NightConfig:
    shards = ShardOptions(images_per_shard=2, resize=resize)
    embed = EmbedOptions(num_workers=1, precision="float32")
    return NightConfig(lake=lake.url, source=str(source), model=str(model), shards=shards, embed=embed)


def night(config: NightConfig) -> Manifest | None:
    with inline_ray():
        return run_night(config, Run("nightly", config, Lake(config.lake)))


def index_rows(lake: Lake, manifest: Manifest) -> dict[str, dict]:
    rows = []
    for _, index in manifest.shards.values():
        with lake.checked(index) as path:
            rows += pq.read_table(path).to_pylist()
    return {row["key"].removesuffix(".jpg"): row for row in rows if row["member"]}


def test_a_query_finds_its_picture_although_that_was_packed_smaller(
    lake: Lake, source: Path, models: dict[int, Path]
) -> None:
    manifest = night(configured(lake, source, models[SIDE]))
    rows = index_rows(lake, manifest)
    assert {key: (row["width"], row["height"]) for key, row in rows.items()} == {
        "wide": (107, 80), "tall": (80, 240), "small": (70, 90), "just": (80, 110),
    }  # fmt: skip
    assert {key for key, row in rows.items() if row["packed_sha256"]} == {"wide", "tall"}
    loaded = load_model(models[SIDE])
    embedder = Embedder(loaded.model, dtype=torch.float32)
    with open_searcher(lake) as searcher:
        for name in SIZES:
            encoded = (source / f"{name}.jpg").read_bytes()
            assert rows[name]["sha256"] == hashlib.sha256(encoded).hexdigest()
            pixels = read_pixels(encoded, loaded.preprocess)
            found = embedder.embed(normalise(pixels[None], loaded.preprocess))[0].numpy()
            stored = searcher.embedding_of(f"{name}.jpg")
            for index, attribute in enumerate(manifest.attributes):
                assert found[index] @ stored[attribute] == pytest.approx(1, abs=1e-3)


def test_only_what_changed_is_packed_and_a_damaged_tar_is_packed_anew(
    lake: Lake, source: Path, models: dict[int, Path]
) -> None:
    config = configured(lake, source, models[SIDE])
    first = night(config)
    before = index_rows(lake, first)
    draw(source / "tall.jpg", SIZES["tall"], 99)
    second = night(config)
    assert second.counts["images_embedded"] == 1
    for name, (tar, index) in second.shards.items():
        with lake.checked(index) as path:
            keys = pq.read_table(path)["key"].to_pylist()
        if "wide.jpg" in keys:
            damaged, other = name, next(key for key in keys if key != "wide.jpg").removesuffix(".jpg")
            place = before[other]
            flip_at(lake, tar.name, place["offset"] + place["num_bytes"] // 2)
    third = night(replace(config, verify_lake=True))
    assert damaged not in third.shards
    after = index_rows(lake, third)["wide"]
    assert (after["sha256"], after["packed_sha256"]) == (
        before["wide"]["sha256"],
        before["wide"]["packed_sha256"],
    )


def flip_at(lake: Lake, name: str, place: int) -> None:
    body = bytearray(lake.store.read(name).body)
    body[place] ^= 1
    overwrite(lake, name, bytes(body))


def test_a_night_packs_as_its_model_was_trained(lake: Lake, source: Path, models: dict[int, Path]) -> None:
    with pytest.raises(InvalidInput, match=r"expected pictures packed with --shards.resize 80, as it was"):
        night(configured(lake, source, models[SIDE], resize=0))
    with pytest.raises(InvalidInput, match=r"expected pictures packed as they came .*, found this night's"):
        night(configured(lake, source, models[0]))
    assert list(lake.store.list_names("shards")) == []


def test_a_lake_keeps_the_way_its_pictures_are_packed(
    lake: Lake, source: Path, models: dict[int, Path]
) -> None:
    first = night(configured(lake, source, models[SIDE]))
    with pytest.raises(InvalidInput, match=rf"--shards.resize: expected 80, .*{first.id}.*another --lake"):
        night(configured(lake, source, models[0], resize=0))
    config = configured(lake, source, models[0], resize=0)
    with pytest.raises(InvalidInput, match=r"resize: expected 80"):  # as training and evaluation begin
        build_shards(config, Run("train", config, lake))
    assert current_manifest(lake) == first


def test_no_model_is_judged_or_promoted_with_pictures_packed_another_way(
    lake: Lake, source: Path, models: dict[int, Path]
) -> None:
    first = night(configured(lake, source, models[SIDE]))
    plain = import_model(lake, models[0])
    run = Run("evaluate", configured(lake, source, models[0]), lake)
    packed = Dataset("shop", ("a.tar",), {}, packed_side=SIDE)
    with pytest.raises(InvalidInput, match=rf"model {plain}: .*found dataset shop packed with"):
        evaluate(lake, plain, packed, run)
    with pytest.raises(InvalidInput, match=rf"model {plain}: .*found those of snapshot {first.id}"):
        load_candidate(lake, plain, first, allow_new_taxonomy=False)
    digest = load_model(models[0]).digest[:DIGEST_LETTERS]
    with pytest.raises(InvalidInput, match=digest), with_prototypes(models[0], packed, run):
        pass


def test_the_packed_picture_is_what_the_shared_rule_gives(
    lake: Lake, source: Path, models: dict[int, Path]
) -> None:
    manifest = night(configured(lake, source, models[SIDE]))
    row = index_rows(lake, manifest)["wide"]
    smaller = shrink((source / "wide.jpg").read_bytes(), SIDE)
    assert row["packed_sha256"] == hashlib.sha256(smaller).hexdigest()


@pytest.fixture
def lake(new_lake: Callable[[], Lake]) -> Lake:
    return new_lake()
