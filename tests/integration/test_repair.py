"""One flipped bit in any file of a lake: found before it is used, named, and made again by a rerun."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from inline_ray import inline_ray
from PIL import Image
from stored_bytes import copy_lake, flip, overwrite

from pipelines.embedding import EmbedOptions
from pipelines.errors import CorruptShard
from pipelines.lake import CURRENT, Lake, snapshot_file
from pipelines.lineage import find_damage
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.parts import read_embeddings
from pipelines.search import open_searcher
from pipelines.shards.plan import ShardOptions
from pipelines.shards.read import read_picture
from pipelines.storage.snapshots import Manifest, current_manifest, read_pointer
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

NUM_IMAGES = 8


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(noise).resize((40, 40)).save(path, "PNG")


def night(lake: Lake, source: Path, model: Path, **options: bool) -> tuple[Manifest | None, Run]:
    config = NightConfig(
        lake=lake.url,
        source=str(source),
        model=str(model),
        shards=ShardOptions(images_per_shard=4),
        embed=EmbedOptions(num_workers=1),
        **options,
    )
    run = Run("nightly", config, lake)
    with inline_ray():
        return run_night(config, run), run


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, new_lake: Callable[[], Lake], other_taxonomy_model: Path
) -> tuple[Lake, Path]:
    """A lake after its first night, and its source; tests take copies."""
    folder, lake = tmp_path_factory.mktemp("published"), new_lake()
    for number in range(NUM_IMAGES):
        draw(folder / "pictures" / f"{number}.png", number)
    night(lake, folder / "pictures", other_taxonomy_model)
    return lake, folder / "pictures"


@pytest.fixture
def lake(published: tuple[Lake, Path], new_lake: Callable[[], Lake]) -> Lake:
    copy = new_lake()
    copy_lake(published[0], copy)
    return copy


def served(lake: Lake) -> dict[str, tuple[str, dict[str, bytes]]]:
    """Return key -> digest and embeddings of what is published, through checked files alone."""
    manifest = current_manifest(lake)
    with lake.checked(manifest.files["catalog.parquet"]) as path:
        rows = pq.read_table(path).to_pylist()
    vectors = {}
    for part in manifest.parts:
        for attribute, entry in part.files.items():
            with lake.checked(entry) as path:
                vectors[part.name, attribute] = read_embeddings(path)[1]
    return {
        row["key"]: (
            row["sha256"],
            {name: vectors[row["part"], name][row["row"]].tobytes() for name in manifest.attributes},
        )
        for row in rows
    }


def damaged_name(manifest: Manifest, kind: str) -> str:
    attribute = manifest.attributes[1]
    return {
        "tar": lambda: next(iter(manifest.shards.values()))[0].name,
        "index of a tar": lambda: next(iter(manifest.shards.values()))[1].name,
        "part": lambda: manifest.parts[0].files[attribute].name,
        "faiss": lambda: manifest.groups[0].files[attribute].name,
        "ids": lambda: manifest.groups[0].ids.name,
        "manifest": lambda: snapshot_file(manifest.id, "manifest.json"),
        "catalog": lambda: manifest.files["catalog.parquet"].name,
        "report": lambda: manifest.files["report.html"].name,
    }[kind]()


def use(lake: Lake, manifest: Manifest, kind: str) -> object:
    """Use the damaged file as a reader would."""
    if kind in ("tar", "index of a tar"):
        files = next(iter(manifest.shards.values()))
        with lake.store.local_copy(manifest.files["catalog.parquet"].name) as path:
            rows = pq.read_table(path).to_pylist()
        return [
            read_picture(lake, files, row["sha256"]) for row in rows if f"{row['shard']}.tar" in files[0].name
        ]
    if kind == "part":
        return served(lake)
    if kind == "report":
        with lake.checked(manifest.files["report.html"]) as path:
            return path
    with open_searcher(lake) as searcher:
        query = searcher.embedding_of("1.png")
        return searcher.search(query, dict.fromkeys(manifest.attributes, 1.0), 3)


KINDS = ["tar", "index of a tar", "part", "faiss", "ids", "manifest", "catalog", "report"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_named_and_made_again(
    lake: Lake, published: tuple[Lake, Path], other_taxonomy_model: Path, kind: str
) -> None:
    before = served(lake)
    manifest = current_manifest(lake)
    name = damaged_name(manifest, kind)
    flip(lake, name)
    with pytest.raises(CorruptShard) as caught:
        use(lake, manifest, kind)
    assert caught.value.name == name
    assert name in str(caught.value)

    repaired, run = night(lake, published[1], other_taxonomy_model, verify_lake=True)
    assert repaired is not None
    assert run.results["damaged"] == [name]
    assert find_damage(lake, repaired) == []
    assert name not in {entry.name for entry in repaired.entries()}
    assert served(lake) == before
    assert use(lake, repaired, kind)
    assert read_pointer(lake).snapshot == repaired.id
    assert repaired.counts["unchanged"] == (0 if kind in ("manifest", "catalog") else NUM_IMAGES)


@pytest.mark.parametrize("kind", ["part", "faiss", "ids"])
def test_a_night_that_meets_damage_makes_it_again_by_itself(
    lake: Lake, published: tuple[Lake, Path], other_taxonomy_model: Path, tmp_path: Path, kind: str
) -> None:
    before = served(lake)
    name = damaged_name(current_manifest(lake), kind)
    flip(lake, name)
    source = tmp_path / "pictures"
    shutil.copytree(published[1], source)
    draw(source / "new.png", 99)
    repaired, run = night(lake, source, other_taxonomy_model)
    assert run.results["damaged"] == [name]
    assert find_damage(lake, repaired) == []
    assert {key: value for key, value in served(lake).items() if key != "new.png"} == before


def test_a_new_model_meets_a_damaged_tar_and_embeds_every_picture(
    lake: Lake, published: tuple[Lake, Path], tiny_model: Path
) -> None:
    before = {key: digest for key, (digest, _) in served(lake).items()}
    name = damaged_name(current_manifest(lake), "tar")
    flip(lake, name)
    repaired, run = night(lake, published[1], tiny_model, allow_new_taxonomy=True)
    assert run.results["damaged"] == [name]
    assert find_damage(lake, repaired) == []
    assert {key: digest for key, (digest, _) in served(lake).items()} == before
    assert (repaired.counts["images_embedded"], repaired.counts["unchanged"]) == (NUM_IMAGES, NUM_IMAGES)


def test_a_pointer_that_is_no_pointer_is_named_and_left(
    lake: Lake, published: tuple[Lake, Path], other_taxonomy_model: Path
) -> None:
    overwrite(lake, CURRENT, b"{not json")
    with pytest.raises(CorruptShard, match=r"CURRENT\.json.*rollback") as caught:
        night(lake, published[1], other_taxonomy_model)
    assert caught.value.name == CURRENT
    assert lake.store.read(CURRENT).body == b"{not json"
