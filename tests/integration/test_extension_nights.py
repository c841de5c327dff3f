"""The night that adds an attribute to a lake with a past: merged parts, trained lists, parts that died."""

from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from unittest.mock import patch

import numpy as np
import pytest
from conftest import make_model
from extended_model import extended_model
from inline_ray import inline_ray
from narrow_trunk import narrow
from PIL import Image
from served import Served, catalog_rows, served

from agman.taxonomy import FASHIONAI, Taxonomy
from pipelines import retention
from pipelines.embedding import EmbedOptions
from pipelines.index import IndexOptions
from pipelines.lake import Lake
from pipelines.lineage import find_damage
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.shards.plan import ShardOptions
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

KNOWN = Taxonomy(FASHIONAI.attributes[:2])
ADDED = FASHIONAI.attributes[2]


class Shop:
    """A folder of pictures, a lake, and nights of both under a model and under the one that extends it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.lake = folder / "pictures", Lake(str(folder / "lake"))
        self.model = make_model(folder / "model", KNOWN)
        self.extended = extended_model(self.model, folder / "extended", ADDED)
        self.source.mkdir()

    def draw(self, *names: int) -> None:
        for name in names:
            noise = np.random.default_rng(name).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(self.source / f"{name}.png")

    def night(self, model: Path, index: IndexOptions, lake: Lake | None = None) -> Manifest | None:
        lake = lake or self.lake
        config = NightConfig(
            lake=lake.url,
            source=str(self.source),
            model=str(model),
            shards=ShardOptions(images_per_shard=16),
            embed=EmbedOptions(num_workers=1, precision="float32"),
            index=index,
        )
        with inline_ray(), patch("builtins.print"):
            return run_night(config, Run("nightly", config, lake))

    def check_extended(self, before: Served, manifest: Manifest) -> None:
        """Check that the night changed no embedding, and that those it added are the model's own."""
        assert (manifest.counts["embedded"], manifest.counts["reused"]) == (0, len(before))
        assert manifest.attributes == (*KNOWN.names, ADDED.name)
        assert find_damage(self.lake, manifest) == []
        after = served(self.lake)
        for key, (digest, vectors) in before.items():
            assert after[key][0] == digest
            assert vectors.items() <= after[key][1].items()
        fresh = Lake(f"{self.lake.url}-fresh")
        self.night(self.extended, IndexOptions(), fresh)
        expected = served(fresh)
        assert after.keys() == expected.keys()
        for key, (_, vectors) in expected.items():
            one, other = (np.frombuffer(of[ADDED.name], np.float32) for of in (vectors, after[key][1]))
            np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    return Shop(tmp_path)


def kept(manifest: Manifest) -> dict[str, FileEntry]:
    """Files of embeddings and indexes, without the tables of ids, by name."""
    made = [*manifest.parts, *manifest.groups, *([manifest.template] if manifest.template else [])]
    return {entry.name: entry for each in made for entry in each.files.values()}


def test_a_merged_part_is_copied_without_its_dead_rows(shop: Shop) -> None:
    merging = IndexOptions(max_small_parts=3)
    for night in range(4):
        shop.draw(2 * night, 2 * night + 1)
        before = shop.night(shop.model, merging)
    assert [(part.shard, part.num_rows) for part in before.parts] == [("", 8)]
    (shop.source / "0.png").unlink()
    old = {key: row for key, row in served(shop.lake).items() if key != "0.png"}

    extended = shop.night(shop.extended, merging)
    assert extended.upkeep == (
        "1 parts copied without what is gone, to be embedded under more",
        "1 groups built anew: dead parts of theirs lack an added attribute",
    )
    (part,) = extended.parts
    assert (part.shard, part.num_rows, set(part.files)) == ("", 7, set(extended.attributes))
    assert extended.counts["images_embedded"] == 7
    shop.check_extended(old, extended)

    shop.draw(8)
    later = shop.night(shop.extended, merging)
    assert later.counts["images_embedded"] == 1
    assert kept(extended).items() <= kept(later).items()


def test_a_merged_part_that_lives_whole_keeps_its_files(shop: Shop) -> None:
    merging = IndexOptions(max_small_parts=1)
    for name in range(2):
        shop.draw(name)
        before = shop.night(shop.model, merging)
    (part,) = before.parts
    assert part.shard == ""
    old = served(shop.lake)
    extended = shop.night(shop.extended, merging)
    assert extended.upkeep == ()
    assert kept(before).items() <= kept(extended).items()
    assert [each.name for each in extended.parts] == [part.name]
    shop.check_extended(old, extended)


def test_inverted_lists_get_a_training_under_the_added_attribute(shop: Shop) -> None:
    lists = IndexOptions(exact_rows=8)
    shop.draw(*range(12))
    first = shop.night(shop.model, lists)
    shop.draw(12, 13)
    before = shop.night(shop.model, lists)
    assert before.template is not None
    assert len(before.groups) == 2
    old = served(shop.lake)

    extended = shop.night(shop.extended, lists)
    assert extended.upkeep == ()
    assert kept(before).items() <= kept(extended).items()
    assert extended.template.name == before.template.name
    assert set(extended.template.files) == set(extended.attributes)
    assert {group.template for group in extended.groups} == {before.template.name}
    assert all(set(group.files) == set(extended.attributes) for group in extended.groups)
    shop.check_extended(old, extended)

    shop.draw(14)
    later = shop.night(shop.extended, lists)
    assert (later.template, later.upkeep) == (extended.template, ())
    assert kept(extended).items() <= kept(later).items()
    much_later = datetime.now(UTC) + timedelta(days=100)
    found = retention.plan(shop.lake, keep_last=1, grace=timedelta(0), now=much_later)
    assert first.id not in found.kept
    assert not {entry.name for entry in later.entries()} & set(found.seen)
    trained = {PurePosixPath(entry.name).stem for entry in later.template.files.values()}
    assert not trained & {PurePosixPath(name).stem for name in found.seen}  # nor their receipts


def test_a_dead_part_is_left_and_its_group_is_built_anew(shop: Shop) -> None:
    shop.draw(*range(20))
    first = shop.night(shop.model, IndexOptions())
    (group,) = first.groups
    dying = min(first.parts, key=lambda part: part.num_rows)
    for row in catalog_rows(shop.lake, first):
        if row["part"] == dying.name:
            (shop.source / row["key"]).unlink()
    before = shop.night(shop.model, IndexOptions())
    assert [each.name for each in before.groups] == [group.name]  # it stays, dead rows and all
    old = served(shop.lake)
    assert len(old) == 20 - dying.num_rows

    extended = shop.night(shop.extended, IndexOptions())
    assert extended.upkeep == ("1 groups built anew: dead parts of theirs lack an added attribute",)
    (part,), (built,) = extended.parts, extended.groups
    assert part.name != dying.name
    assert built.parts == (part.name,)
    assert extended.counts["images_embedded"] == part.num_rows
    living = next(each for each in before.parts if each.name == part.name)
    assert living.files.items() <= part.files.items()
    shop.check_extended(old, extended)
