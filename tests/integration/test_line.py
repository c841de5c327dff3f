"""The whole line on a drawn catalog: two nights and an identical third, on disk and on S3."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from documented_schemas import documented, documented_fields
from documented_schemas import found as found_columns

from agman.errors import InvalidInput
from agman.taxonomy import FASHIONAI
from pipelines.embedding import EmbedOptions
from pipelines.errors import GateFailed
from pipelines.lake import CURRENT, Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.quality import GateOptions
from pipelines.search import open_searcher
from pipelines.shards.plan import ShardOptions
from pipelines.sources import GeneratedSource
from pipelines.storage.snapshots import Manifest, read_manifest, read_pointer
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

NUM_IMAGES = 60
SHARDS = ShardOptions(images_per_shard=16)


def source(night: int) -> str:
    return f"generated:num_images={NUM_IMAGES},seed=0,night={night},size=96,change=0.1"


@pytest.fixture
def run(lake_url: str, tiny_model: Path) -> Callable[..., Manifest | None]:
    def run_one(night: int = 1, **changes: Any) -> Manifest | None:
        defaults = {"source": source(night), "model": str(tiny_model)}
        config = NightConfig(
            lake=lake_url, shards=SHARDS, embed=EmbedOptions(num_workers=1), **(defaults | changes)
        )
        return run_night(config, Run("nightly", config, Lake(lake_url)))

    return run_one


def names(lake: Lake) -> set[str]:
    return set(lake.store.list_names(""))


def rows(lake: Lake, manifest: Manifest, file: str) -> list[dict]:
    with lake.checked(manifest.files[file]) as path:
        return pq.read_table(path).to_pylist()


def counted(lake: Lake) -> dict[str, int]:
    """Count embeddings by attribute as an analyst would."""
    db = duckdb.connect()
    if lake.url.startswith("s3://"):
        import s3fs

        db.register_filesystem(s3fs.S3FileSystem(use_listings_cache=False))
    query = f"""select attribute, count(*) from
                read_parquet('{lake.url}/embeddings/**/*.parquet', hive_partitioning=true) group by 1"""
    return dict(db.execute(query).fetchall())


@pytest.mark.usefixtures("local_ray")
def test_two_nights_and_an_identical_third(lake_url: str, run: Callable[..., Manifest | None]) -> None:
    lake = Lake(lake_url)
    first = run(1)
    assert first is not None
    after_first = {name: lake.store.read(name).body for name in names(lake)}
    assert first.counts["images_embedded"] == NUM_IMAGES
    check_layout(lake, first)
    check_schemas(lake, first)

    second = run(2)
    assert second is not None
    check_second(lake, first, second)
    changed = {name for name, body in after_first.items() if lake.store.read(name).body != body}
    assert changed == {CURRENT}
    check_answers(lake, second)

    before = {name: lake.store.read(name).body for name in names(lake)}
    assert run(2) is None
    assert {name: lake.store.read(name).body for name in names(lake)} == before


def check_layout(lake: Lake, manifest: Manifest) -> None:
    model, folder = manifest.model, f"snapshots/{manifest.id}"
    kinds = {
        "tar": r"shards/catalog/[0-9a-f]{16}\.tar",
        "index of a tar": r"shards/catalog/[0-9a-f]{16}\.parquet",
        "model": rf"models/{model}/(weights\.safetensors|config\.json)",
        "part": rf"embeddings/model={model}/attribute=({'|'.join(FASHIONAI.names)})/[0-9a-f]{{16}}\.parquet",
        "faiss": rf"indexes/{model}/({'|'.join(FASHIONAI.names)})/[0-9a-f]{{16}}\.faiss",
        "ids": rf"indexes/{model}/ids/[0-9a-f]{{16}}\.parquet",
        "snapshot": rf"{folder}/((catalog|quarantine)\.parquet|(manifest|report)\.json|report.html)",
        "receipt": r"receipts/(shards/catalog|(embeddings|indexes)/[0-9a-f]{16})/[0-9a-f]{16}\.json",
        "views": r"views\.sql",
        "pointer": r"CURRENT\.json",
    }
    found = Counter(
        next((kind for kind, pattern in kinds.items() if re.fullmatch(pattern, name)), name)
        for name in names(lake)
    )
    assert found == {
        "tar": 4, "index of a tar": 4, "model": 2, "part": 32, "faiss": 8, "ids": 1, "snapshot": 5,
        "receipt": 9, "views": 1, "pointer": 1,
    }  # fmt: skip


def check_schemas(lake: Lake, manifest: Manifest) -> None:
    """Every Parquet file has the columns that docs/lake.md lists; the shop's own follow."""
    stored = {
        "snapshots/<id>/catalog.parquet": manifest.files["catalog.parquet"],
        "snapshots/<id>/quarantine.parquet": manifest.files["quarantine.parquet"],
        "embeddings/model=…/attribute=…/<part>.parquet": manifest.parts[0].files["skirt_length"],
        "indexes/<model>/ids/<group>.parquet": manifest.groups[0].ids,
        "shards/<dataset>/<shard>.parquet": next(iter(manifest.shards.values()))[1],
    }
    for file, entry in stored.items():
        with lake.checked(entry) as path:
            columns = found_columns(pq.read_schema(path))
        assert columns[: len(documented(file))] == documented(file), file
        own = [name for name, _ in columns[len(documented(file)) :]]
        assert own == (["sku", "brand", "category", "price", "season"] if "catalog" in file else []), file


def check_second(lake: Lake, first: Manifest, second: Manifest) -> None:
    pointer = read_pointer(lake)
    assert (pointer.snapshot, pointer.previous, second.parent, second.night) == (
        second.id,
        first.id,
        first.id,
        2,
    )
    one, two = (
        GeneratedSource(num_images=NUM_IMAGES, night=night, change=0.1).revisions() for night in (1, 2)
    )
    added, deleted = set(two) - set(one), set(one) - set(two)
    edited = {number for number in set(one) & set(two) if one[number] != two[number]}
    counts = second.counts
    assert (counts["added"], counts["edited"], counts["deleted"]) == (len(added), len(edited), len(deleted))
    assert counts["images_embedded"] == len(added) + len(edited)
    assert counts["unchanged"] == counts["reused"] == len(two) - len(added) - len(edited)
    assert counts["input"] == counts["embedded"] + counts["reused"] + counts["quarantined"] == NUM_IMAGES
    assert all(gate["passed"] for gate in second.gates)
    assert {row["key"] for row in rows(lake, second, "catalog.parquet")} == {f"style-{n:06d}" for n in two}
    total = NUM_IMAGES + len(added) + len(edited)
    assert counted(lake) == dict.fromkeys(FASHIONAI.names, total)
    page = lake.store.read(f"snapshots/{second.id}/report.html").body.decode()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(\s*["']?http""", page)
    assert page.count("data:image/") >= len(FASHIONAI)
    report = json.loads(lake.store.read(f"snapshots/{second.id}/report.json").body)
    assert (report["snapshot"], report["counts"]["added"]) == (second.id, len(added))
    assert set(report) == documented_fields("snapshots/<id>/report.json")
    assert [night["snapshot"] for night in report["nights"]] == [second.parent, second.id]
    assert all(night["recall"].keys() == set(FASHIONAI.names) for night in report["nights"])
    assert page.count('class="cloud') >= len(FASHIONAI)


def check_answers(lake: Lake, manifest: Manifest) -> None:
    catalog = rows(lake, manifest, "catalog.parquet")
    with open_searcher(lake) as searcher:
        for row in catalog[::7]:
            query = searcher.embedding_of(row["key"])
            hits = searcher.search(query, {"skirt_length": 1.0}, 1000)
            assert {hit.key for hit in hits} == {each["key"] for each in catalog}
            assert hits[0].score == pytest.approx(1, abs=2e-3)
            assert row["key"] in {hit.key for hit in hits if hit.score >= hits[0].score - 1e-6}
        row = catalog[3]
        fresh = searcher.embed_image(searcher.picture_of(row))
        stored = searcher.embedding_of(row["key"])
        assert all(float(fresh[name] @ stored[name]) > 0.999 for name in FASHIONAI.names)


@pytest.mark.usefixtures("within_process")
@pytest.mark.parametrize("lake_url", ["local"], indirect=True)
def test_a_failed_gate_leaves_the_old_snapshot_serving(
    lake_url: str, run: Callable[..., Manifest | None]
) -> None:
    lake = Lake(lake_url)
    run(1)
    before = lake.store.read(CURRENT)
    with pytest.raises(GateFailed, match=r"recall@10 skirt_length: expected >= 1\.5"):
        run(2, gates=GateOptions(min_recall=1.5))
    assert lake.store.read(CURRENT) == before
    repaired = run(2)
    assert repaired is not None
    assert repaired.night == 2


@pytest.mark.usefixtures("within_process")
@pytest.mark.parametrize("lake_url", ["local"], indirect=True)
def test_a_model_of_another_taxonomy_needs_permission(
    lake_url: str, run: Callable[..., Manifest | None], other_taxonomy_model: Path
) -> None:
    run(1)
    with pytest.raises(InvalidInput, match="allow-new-taxonomy"):
        run(1, model=str(other_taxonomy_model))
    changed = run(1, model=str(other_taxonomy_model), allow_new_taxonomy=True)
    assert changed.attributes == FASHIONAI.names[:2]
    assert (changed.counts["images_embedded"], changed.counts["reused"]) == (NUM_IMAGES, 0)
    assert changed.shards == read_manifest(Lake(lake_url), changed.parent).shards
