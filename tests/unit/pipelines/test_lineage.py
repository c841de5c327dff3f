"""Every file of a snapshot against its digest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_snapshots import Shop

from pipelines.lake import Lake
from pipelines.lineage import check_files, find_absent, find_damage, find_model_damage
from pipelines.models import import_model
from pipelines.storage.snapshots import Manifest

KINDS: dict[str, Callable[[Manifest], str]] = {
    "tar": lambda manifest: next(iter(manifest.shards.values()))[0].name,
    "index of a tar": lambda manifest: next(iter(manifest.shards.values()))[1].name,
    "part": lambda manifest: manifest.parts[1].files["skirt_length"].name,
    "faiss": lambda manifest: manifest.groups[1].files["collar_design"].name,
    "ids": lambda manifest: manifest.groups[0].ids.name,
    "catalog": lambda manifest: manifest.files["catalog.parquet"].name,
}


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def manifest(shop: Shop, picture: Callable[..., bytes]) -> Manifest:
    """Of a second night: two shards, two parts, two groups."""
    first = shop.night("one", {"a": picture(1), "b": picture(2)})
    return shop.night("two", {"a": picture(1), "b": picture(2), "c": picture(3)}, parent=first)


def test_a_whole_snapshot_has_no_damage(lake: Lake, manifest: Manifest) -> None:
    assert len(list(manifest.entries())) == 2 + 2 * 2 + 2 * 2 + 2 * 3
    assert find_damage(lake, manifest) == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit_is_found_and_named(shop: Shop, manifest: Manifest, kind: str) -> None:
    name = KINDS[kind](manifest)
    num_bytes = shop.lake.store.size(name)
    shop.damage(name)
    (damage,) = find_damage(shop.lake, manifest)
    assert damage.name == name
    assert damage.expected.startswith(f"{num_bytes} bytes with sha256 ")
    assert damage.found.startswith(f"{num_bytes} bytes with sha256 ")
    assert damage.expected != damage.found


def test_what_is_gone_cut_or_changed_is_told_by_name(shop: Shop, manifest: Manifest) -> None:
    gone, cut, changed = KINDS["part"](manifest), KINDS["tar"](manifest), KINDS["ids"](manifest)
    shop.lake.store.delete(gone)
    path = Path(shop.lake.url) / cut
    path.write_bytes(path.read_bytes()[:-512])
    shop.damage(changed)
    found = find_damage(shop.lake, manifest)
    assert [damage.name for damage in found] == sorted([gone, cut, changed])
    assert {damage.name: damage.found for damage in found}[gone] == "nothing"
    absent = {damage.name: damage.found for damage in find_absent(shop.lake, manifest.entries())}
    assert absent == {gone: "nothing", cut: f"{path.stat().st_size} bytes"}


def test_files_come_back_in_the_order_asked(shop: Shop, manifest: Manifest) -> None:
    shop.damage(KINDS["faiss"](manifest))
    checked = list(check_files(shop.lake, manifest.entries()))
    assert [entry for entry, _ in checked] == list(manifest.entries())
    assert [entry.name for entry, damage in checked if damage] == [KINDS["faiss"](manifest)]


@pytest.mark.parametrize("file", ["weights.safetensors", "config.json"])
def test_a_models_files_are_held_against_its_id(lake: Lake, tiny_model: Path, file: str) -> None:
    model = import_model(lake, tiny_model)
    assert find_model_damage(lake, model) == []
    path = Path(lake.url) / "models" / model / file
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    (damage,) = find_model_damage(lake, model)
    assert damage.name == f"models/{model}"
    path.unlink()
    assert [damage.name for damage in find_model_damage(lake, model)] == [f"models/{model}/{file}"]


def test_another_model_under_this_ones_name_is_damage(
    lake: Lake, tiny_model: Path, other_taxonomy_model: Path
) -> None:
    model, other = import_model(lake, tiny_model), import_model(lake, other_taxonomy_model)
    folder = Path(lake.url) / "models"
    shutil.rmtree(folder / model)
    shutil.copytree(folder / other, folder / model)
    (damage,) = find_model_damage(lake, model)
    assert f"found {other}" in damage.found
