"""An attribute added to a published lake: learned, promoted, embedded alone, and then searched."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from called_jobs import call
from conftest import make_model
from inline_ray import inline_ray
from narrow_trunk import narrow
from served import Served, catalog_rows, served
from stored_bytes import copy_lake, flip

from agman.checkpoint import load_model
from agman.extension import why_no_extension
from agman.taxonomy import FASHIONAI, Taxonomy
from pipelines import retention
from pipelines.differences import compare
from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.lineage import find_damage
from pipelines.models import fetch_model, import_model, read_metrics
from pipelines.night import NightConfig
from pipelines.nightly import build_shards, run_night
from pipelines.origin import Origin, trace
from pipelines.scoring import RANDOM
from pipelines.search import Searcher
from pipelines.shards.plan import ShardOptions
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Manifest, Part, current_manifest
from pipelines.telemetry import Run
from pipelines.values import with_prototypes

pytestmark = pytest.mark.integration

ADDED = "sleeve_length"
KNOWN = Taxonomy(tuple(attribute for attribute in FASHIONAI if attribute.name != ADDED))
NUM_IMAGES = 60


def source(number: int) -> str:
    return f"generated:num_images={NUM_IMAGES},seed=0,night={number},size=48,change=0.15"


class Shop:
    """A lake on its nights."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.run = Run("nightly", self.config(1), lake)

    def config(self, number: int, **options: Any) -> NightConfig:
        return NightConfig(
            lake=self.lake.url,
            source=source(number),
            shards=ShardOptions(images_per_shard=20),
            embed=EmbedOptions(num_workers=1),
            **options,
        )

    def night(self, number: int, **options: Any) -> Manifest:
        manifest = run_night(self.config(number, **options), self.run)
        assert manifest is not None
        return manifest

    def job(self, name: str, *arguments: str, cwd: Path) -> str:
        ended = call(name, *arguments, "--lake", self.lake.url, cwd=cwd)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module", autouse=True)
def _small_and_at_once() -> Iterator[None]:
    """Tasks run in this process, on a narrow trunk: this is a test of what is kept, not of Ray."""
    with inline_ray(), patch("agman.backbone.get_model", narrow):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Two published nights of a model that does not know the attribute; the second one has dead rows."""
    shop = Shop(Lake(str(tmp_path_factory.mktemp("shop") / "lake")))
    untaught = make_model(tmp_path_factory.mktemp("untaught"), KNOWN)
    dataset = build_shards(shop.config(1), shop.run)
    with with_prototypes(untaught, dataset, shop.run) as complete:
        model = import_model(shop.lake, complete)
    shop.night(1, model=model)
    shop.night(2)
    return shop


@dataclass(frozen=True)
class Grown:
    """The night of the extended model, and what was before it."""

    before: Manifest
    served_before: Served
    said: str
    promoted: str
    model: str
    after: Manifest
    served_after: Served


@pytest.fixture(scope="module")
def grown(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """Add the attribute, promote the model and run the next night."""
    before, served_before = current_manifest(shop.lake), served(shop.lake)
    folder = tmp_path_factory.mktemp("jobs")
    said = shop.job(
        "add_attribute.py", ADDED, "--source", source(1), "--shards.images-per-shard", "20",
        "--rows.steps", "60", "--rows.judge-every", "20", cwd=folder,
    )  # fmt: skip
    model = next(word.rstrip(":") for word in said.split("model ")[1].split())
    # A random trunk need not beat chance: --force lets it pass, which a person would have to explain.
    promoted = shop.job("promote.py", model[:8], "--force", "--why", "a test", cwd=folder)
    after = shop.night(2)
    return Grown(before, served_before, said, promoted, model, after, served(shop.lake))


@pytest.fixture(scope="module")
def later(shop: Shop, grown: Grown) -> Manifest:
    """The night after that, with new pictures."""
    return shop.night(3)


def embedding_files(manifest: Manifest) -> dict[tuple[str, str], FileEntry]:
    return {(part.name, name): entry for part in manifest.parts for name, entry in part.files.items()}


def index_files(manifest: Manifest) -> dict[str, FileEntry]:
    return {entry.name: entry for group in manifest.groups for entry in group.files.values()}


def test_the_model_is_the_old_one_with_an_attribute(shop: Shop, grown: Grown) -> None:
    with fetch_model(shop.lake, grown.model) as one, fetch_model(shop.lake, grown.before.model) as other:
        assert why_no_extension(load_model(one), load_model(other)) == ""
        extra = json.loads((one / "config.json").read_text())["extra"]
    assert (extra["extends"], extra["added"]) == (grown.before.model, ADDED)
    scores = read_metrics(shop.lake, grown.model, "catalog")
    row = scores["attributes"][ADDED]
    assert f"{ADDED}: MAP {row['map']:.4f}" in grown.said
    assert f"random ranking, {row[RANDOM]:.4f}" in grown.said
    assert f"embeds all {NUM_IMAGES} live pictures under {ADDED} alone" in grown.promoted


def test_the_next_night_embeds_the_attribute_alone(shop: Shop, grown: Grown) -> None:
    lake, before, after = shop.lake, grown.before, grown.after
    assert after.model == grown.model
    assert after.attributes == (*before.attributes, ADDED)
    assert (after.counts["embedded"], after.counts["reused"]) == (0, NUM_IMAGES)
    kept, now = embedding_files(before), embedding_files(after)
    assert any(part.num_rows > len(rows) for part, rows in rows_by_part(lake, before))
    assert kept.items() <= now.items()  # the same names, sizes and digests
    assert now.keys() - kept.keys() == {(part.name, ADDED) for part in before.parts}
    assert index_files(before).items() <= index_files(after).items()
    assert len(index_files(after)) == len(index_files(before)) + len(before.groups)
    assert not find_damage(lake, after)
    assert catalog_rows(lake, after) == catalog_rows(lake, before)
    assert compare(lake, before, after).num_embedded_anew == 0
    for key, (digest, vectors) in grown.served_before.items():
        assert grown.served_after[key][0] == digest
        assert vectors.items() <= grown.served_after[key][1].items()


def rows_by_part(lake: Lake, manifest: Manifest) -> list[tuple[Part, list[dict]]]:
    rows = catalog_rows(lake, manifest)
    return [(part, [row for row in rows if row["part"] == part.name]) for part in manifest.parts]


def test_a_later_night_embeds_new_pictures_under_all(shop: Shop, grown: Grown, later: Manifest) -> None:
    assert later.model == grown.model
    assert later.counts["images_embedded"] == later.counts["embedded"] > 0
    assert all(part.files.keys() == set(later.attributes) for part in later.parts)
    known, now = embedding_files(grown.after), embedding_files(later)
    assert {entry.name.split("/")[1] for key, entry in now.items() if key not in known} == {
        f"model={grown.model}"
    }
    assert all(known[key] == entry for key, entry in now.items() if key in known)


def test_a_search_by_the_added_attribute_answers_with_values(shop: Shop, later: Manifest) -> None:
    with Searcher(shop.lake, later) as searcher:
        row = searcher.example_rows(ADDED, 1)[0]
        query = searcher.embed_image(searcher.picture_of(row))
        hits = searcher.search(query, {ADDED: 0.5, "skirt_length": 0.5}, 5)
        assert hits[0].sha256 == row["sha256"]
        assert any(hit.shows[ADDED].value for hit in hits)
    origin = trace(shop.lake, later, row["key"])
    assert isinstance(origin, Origin)
    assert all(proof.seconds is not None for proof in origin.proofs)
    # Of the attributes of before, the embedding is as old as the picture.
    assert origin.embedded_in.id == origin.since.id


def test_what_the_first_model_made_is_needed(shop: Shop, grown: Grown, later: Manifest) -> None:
    much_later = datetime.now(UTC) + timedelta(days=100)
    found = retention.plan(shop.lake, keep_last=1, grace=timedelta(0), now=much_later)
    assert grown.before.id not in found.kept
    assert not {entry.name for entry in later.entries()} & set(found.seen)
    makers = {entry.name.split("/")[1] for entry in embedding_files(later).values()}
    assert makers == {f"model={grown.before.model}", f"model={grown.model}"}
    for entry in embedding_files(later).values():
        made_by, unit = entry.name.split("/")[1].removeprefix("model="), PurePosixPath(entry.name).stem
        assert f"receipts/embeddings/{made_by}/{unit}.json" not in found.seen


def test_damage_in_a_file_of_either_model_is_made_good(
    shop: Shop, grown: Grown, later: Manifest, tmp_path: Path
) -> None:
    copy = Shop(Lake(str(tmp_path / "lake")))
    copy_lake(shop.lake, copy.lake)
    part, other = [part for part in later.parts if part.files[ADDED].name.count("-")][:2]
    damaged = {part.files[ADDED].name, other.files["skirt_length"].name}
    for name in damaged:
        flip(copy.lake, name)
    mended = copy.night(3, verify_lake=True)
    assert not {entry.name for entry in mended.entries()} & damaged
    assert mended.counts["images_embedded"] > 0
    assert not find_damage(copy.lake, mended)
    found, expected = served(copy.lake), served(shop.lake)
    for key, (digest, vectors) in expected.items():
        assert found[key][0] == digest
        for name, vector in vectors.items():
            near = np.frombuffer(vector, np.float32) @ np.frombuffer(found[key][1][name], np.float32)
            assert near > 0.999
