"""Nights that merge parts, join groups and train lists: what is served stays the same, bit for bit."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from conftest import make_model
from inline_ray import inline_ray
from narrow_trunk import narrow
from PIL import Image
from served import served
from stored_bytes import flip

from agman.taxonomy import FASHIONAI, Taxonomy
from pipelines.embedding import EmbedOptions
from pipelines.index import IndexOptions
from pipelines.lake import Lake
from pipelines.lineage import find_damage
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.quality import GateOptions
from pipelines.shards.plan import ShardOptions
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

MERGING = IndexOptions(max_small_parts=3)


class Shop:
    """A folder of pictures, a lake, and nights of both."""

    def __init__(self, folder: Path, model: Path, lake: Lake) -> None:
        self.source, self.model, self.lake = folder / "pictures", model, lake
        self.source.mkdir()

    def draw(self, *names: int, seed: int = 0) -> None:
        for name in names:
            noise = np.random.default_rng([name, seed]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(self.source / f"{name}.png")

    def night(self, index: IndexOptions, **options: Any) -> Manifest | None:
        config = NightConfig(
            lake=self.lake.url,
            source=str(self.source),
            model=str(self.model),
            shards=ShardOptions(images_per_shard=16),
            embed=EmbedOptions(num_workers=1, precision="float32"),
            index=index,
            **options,
        )
        with inline_ray(), patch("builtins.print"):
            return run_night(config, Run("nightly", config, self.lake))


@pytest.fixture
def shop(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    return Shop(tmp_path, make_model(tmp_path / "model", Taxonomy(FASHIONAI.attributes[:2])), lake)


def test_small_parts_are_merged_and_answer_as_before(shop: Shop) -> None:
    for night in range(3):
        shop.draw(2 * night, 2 * night + 1)
        before = shop.night(MERGING)
    assert (len(before.parts), before.upkeep) == (3, ())
    old = served(shop.lake)

    shop.draw(6, 7)
    (shop.source / "0.png").unlink()
    shop.draw(2, seed=9)
    merged = shop.night(MERGING)
    assert merged.upkeep == (
        "4 small parts merged into 1 of 7 live pictures: each was a file of every attribute, bound 3",
    )
    assert [(part.shard, part.num_rows) for part in merged.parts] == [("", 7)]
    assert (merged.counts["embedded"], merged.counts["reused"], merged.counts["images_embedded"]) == (3, 4, 3)
    new = served(shop.lake)
    assert set(new) == {f"{name}.png" for name in range(1, 8)}
    kept = [f"{name}.png" for name in (1, 3, 4, 5)]
    assert [new[key] for key in kept] == [old[key] for key in kept]
    assert new["2.png"] != old["2.png"]
    assert shop.night(MERGING) is None


def test_a_later_night_reads_no_embedding_or_index_that_stays(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.morning.newest.SHOWN_ROWS", 1)
    gates = GateOptions(probe_images=0)
    shop.draw(*range(5))
    first = shop.night(IndexOptions(), gates=gates)
    staying = {entry.name for part in first.parts for entry in part.files.values()}
    staying |= {entry.name for group in first.groups for entry in (group.ids, *group.files.values())}
    read: set[str] = set()
    checked = Lake.checked

    def noting(lake: Lake, entry: FileEntry) -> Any:
        read.add(entry.name)
        return checked(lake, entry)

    monkeypatch.setattr(Lake, "checked", noting)
    shop.draw(5)
    second = shop.night(IndexOptions(), gates=gates)
    assert staying <= {entry.name for entry in second.entries()}
    assert not staying & read
    assert second.groups[0].judged == first.groups[0].judged
    recalls = [gate for gate in second.gates if gate["name"].startswith("recall@10")]
    assert [(gate["found"], gate["detail"]) for gate in recalls] == [(1.0, "flat")] * 2

    name = next(iter(first.groups[0].files.values())).name
    flip(shop.lake, name)
    shop.draw(6)
    third = shop.night(IndexOptions(), gates=gates)
    assert name in read
    assert name not in {entry.name for entry in third.entries()}
    assert find_damage(shop.lake, third) == []


def test_a_damaged_merged_part_is_embedded_anew(shop: Shop) -> None:
    for name in range(4):
        shop.draw(name)
        merged = shop.night(MERGING)
    (part,) = merged.parts
    assert part.shard == ""
    before = served(shop.lake)
    flip(shop.lake, next(iter(part.files.values())).name)
    repaired = shop.night(MERGING, verify_lake=True)
    assert part.name not in {each.name for each in repaired.parts}
    assert find_damage(shop.lake, repaired) == []
    assert served(shop.lake) == before


def test_trained_lists_are_shared_by_nights_and_made_again_when_damaged(shop: Shop) -> None:
    options = IndexOptions(exact_rows=8)
    shop.draw(*range(8))
    first = shop.night(options)
    assert (first.template, {group.kind for group in first.groups}) == (None, {"flat"})
    shop.draw(*range(8, 14))
    second = shop.night(options)
    assert second.upkeep == ("inverted lists trained: 14 rows, exact search up to 8",)
    assert second.template.num_rows == 14
    shop.draw(14)
    third = shop.night(options)
    assert (third.template, third.upkeep) == (second.template, ())
    assert {group.template for group in third.groups} == {second.template.name}
    assert [group.name for group in third.groups][: len(second.groups)] == [g.name for g in second.groups]

    before = served(shop.lake)
    flip(shop.lake, next(iter(third.template.files.values())).name)
    repaired = shop.night(options, verify_lake=True)
    assert repaired.upkeep == (f"inverted lists trained anew: a file of {third.template.name} is damaged",)
    assert find_damage(shop.lake, repaired) == []
    assert served(shop.lake) == before
    shop.draw(15)
    assert shop.night(options).template == repaired.template
