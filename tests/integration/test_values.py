"""Values from training pictures to rows, answers and figures, on a drawn catalog."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import torch
from stored_bytes import copy_lake

from agman.checkpoint import load_model
from agman.prototypes import ABSENT
from agman.taxonomy import FASHIONAI
from jobs.import_checkpoint import ImportConfig, import_checkpoint
from pipelines.embedding import EmbedOptions
from pipelines.evaluation import evaluate
from pipelines.lake import Lake
from pipelines.models import fetch_model, import_model
from pipelines.night import NightConfig
from pipelines.nightly import build_shards, run_night
from pipelines.parts import read_embeddings, read_values
from pipelines.search import attributes_had, open_searcher
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run
from pipelines.values import with_prototypes

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

NUM_IMAGES = 80


class Spoken:
    """A lake whose model names values."""

    def __init__(self, lake: Lake, untaught: Path) -> None:
        self.lake = lake
        self.config = NightConfig(
            lake=self.lake.url,
            source=f"generated:num_images={NUM_IMAGES},seed=0,night=1,size=64",
            shards=ShardOptions(images_per_shard=40),
            embed=EmbedOptions(num_workers=1, precision="float32"),
        )
        self.run = Run("values", self.config, self.lake)
        self.dataset = build_shards(self.config, self.run)
        self.models = []
        for _ in range(2):
            with with_prototypes(untaught, self.dataset, self.run) as complete:
                self.models.append(import_model(self.lake, complete))


@pytest.fixture(scope="module")
def spoken(new_lake: Callable[[], Lake], tiny_model: Path) -> Spoken:
    return Spoken(new_lake(), tiny_model)


@pytest.fixture(scope="module")
def night(spoken: Spoken) -> Manifest:
    manifest = run_night(spoken.config, spoken.run)
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def copied(spoken: Spoken, night: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a copy of the published lake: for what is read by its path."""
    folder = tmp_path_factory.mktemp("values") / "lake"
    copy_lake(spoken.lake, Lake(str(folder)))
    return folder


def rows_of(spoken: Spoken, manifest: Manifest) -> list[dict[str, Any]]:
    with spoken.lake.checked(manifest.files["catalog.parquet"]) as path:
        return pq.read_table(path).to_pylist(maps_as_pydicts="strict")


def test_the_same_pictures_teach_the_same_model(spoken: Spoken, tiny_model: Path) -> None:
    first, second = spoken.models
    assert first == second
    assert not load_model(tiny_model).digest.startswith(first)
    assert spoken.lake.store.size(f"models/{first}/prototypes.safetensors") is not None


def test_an_imported_checkpoint_learns_the_same_from_a_source(
    spoken: Spoken, tiny_model: Path, tmp_path: Path
) -> None:
    untaught = load_model(tiny_model)
    weights = {f"embeddingnet.{name}": tensor for name, tensor in untaught.model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": weights, "prec": 1.0}, tmp_path / "model_best.pth.tar")
    config = ImportConfig(
        checkpoint=str(tmp_path / "model_best.pth.tar"),
        lake=spoken.lake.url,
        trunk="resnet18",
        preprocess=untaught.preprocess,
        source=spoken.config.source,
        shards=spoken.config.shards,
    )
    assert import_checkpoint(config, spoken.run) == spoken.models[0]


def test_only_training_pictures_teach(spoken: Spoken) -> None:
    with fetch_model(spoken.lake, spoken.models[0]) as folder:
        prototypes = load_model(folder).prototypes
    assert prototypes is not None
    shown = Counter(
        (attribute, value)
        for uses in spoken.dataset.described.values()
        for use in uses
        if use.role == "train"
        for attribute, values in use.labels.items()
        for value in values
    )
    known = {
        (attribute.name, attribute.values[value])
        for index, attribute in enumerate(FASHIONAI)
        for value in prototypes.known[index].nonzero().flatten().tolist()
    }
    assert known == set(shown)


def test_rows_say_what_the_model_says_of_their_vectors(night: Manifest, copied: Path) -> None:
    prototypes = load_model(copied / "models" / night.model).prototypes
    assert prototypes is not None
    for part in night.parts:
        files = [copied / part.files[name].name for name in FASHIONAI.names]
        vectors = torch.stack([torch.from_numpy(read_embeddings(file)[1].copy()) for file in files], dim=1)
        values, score = prototypes.predict(vectors)
        for index, (attribute, file) in enumerate(zip(FASHIONAI, files, strict=True)):
            said = read_values(file).to_pylist()
            assert len(said) == part.num_rows
            for row, found in enumerate(said):
                value = int(values[row, index])
                known = True if bool(prototypes.is_asked[index]) else None
                assert found["applies"] is (False if value == ABSENT else known)
                assert found["value"] == (attribute.values[value] if value >= 0 else None)
                assert found["score"] == (pytest.approx(float(score[row, index])) if value >= 0 else None)


COUNT = """
set variable night = '{lake}/snapshots/' || (select snapshot from '{lake}/CURRENT.json');
set variable model = (select model from read_json(getvariable('night') || '/manifest.json'));
select value, count(*) as products
from read_parquet('{lake}/embeddings/**/*.parquet', hive_partitioning=true, union_by_name=true,
    filename=true) e
join read_parquet(getvariable('night') || '/catalog.parquet') c
    on c.sha256 = e.sha256 and c.part = parse_filename(e.filename, true)
where model = getvariable('model') and attribute = 'sleeve_length' and value is not null
group by value order by products desc"""


def test_an_analyst_counts_the_products_of_tonight(spoken: Spoken, night: Manifest, copied: Path) -> None:
    counted = dict(duckdb.connect().execute(COUNT.format(lake=copied)).fetchall())
    with open_searcher(spoken.lake) as searcher:
        shown = [searcher.shown_on(row)["sleeve_length"] for row in rows_of(spoken, night)]
    assert counted == dict(Counter(each.value for each in shown if each.value is not None))
    assert sum(counted.values()) > NUM_IMAGES / 4


def test_answers_have_what_the_query_has(spoken: Spoken, night: Manifest) -> None:
    with open_searcher(spoken.lake) as searcher:
        rows = rows_of(spoken, night)
        shows = {row["key"]: searcher.shown_on(row)["skirt_length"] for row in rows}
        row = next(row for row in rows if shows[row["key"]].value is not None)
        query = searcher.embed_image(searcher.picture_of(row))
        fresh = searcher.shown_by(query)
        assert fresh["skirt_length"].value == shows[row["key"]].value
        having = attributes_had(fresh, ["skirt_length"])
        hits = searcher.search(query, {"skirt_length": 1.0}, 1000, having=having)
        labelled = {row["key"] for row in rows if "skirt_length" in row["labels"]}
        kept = {key for key, shown in shows.items() if shown.applies is not False}
        assert {hit.key for hit in hits} == kept | labelled
        assert searcher.count_hidden(having) == len(rows) - len(hits)
    page = spoken.lake.store.read(f"snapshots/{night.id}/report.html").body.decode()
    assert "predicted" in page


def test_held_out_products_judge_the_values(spoken: Spoken, night: Manifest) -> None:
    scores = evaluate(spoken.lake, spoken.models[0], spoken.dataset, spoken.run)["values"]
    assert scores["overall"]["num_having"] == sum(row["num_having"] for row in scores["attributes"].values())
    carried = Counter(
        attribute
        for uses in spoken.dataset.described.values()
        for use in uses
        if use.role in ("query", "candidate")
        for attribute in use.labels
    )
    for name, row in scores["attributes"].items():
        assert row["num_having"] == carried[name]
    named = 0
    with open_searcher(spoken.lake) as searcher:
        for row in rows_of(spoken, night):
            shown = searcher.shown_on(row) if row["role"] in ("query", "candidate") else {}
            named += sum(shown[name].value in row["labels"].get(name, ()) for name in shown)
    # The night embeds in float32, an evaluation in what is fastest: a picture between two values may turn.
    right = scores["overall"]["value_accuracy"] * scores["overall"]["num_having"]
    assert right == pytest.approx(named, abs=2)
    assert 0 < named < scores["overall"]["num_having"]
