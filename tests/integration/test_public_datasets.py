"""Public benchmarks from their folders to a dataset to train on and judge by, with pictures missing."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up_datasets import MadeUp, make_asen, make_zappos50k

from pipelines.dataset import Dataset
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.shards.plan import ShardOptions
from pipelines.shards.read import Sample, stream_samples
from pipelines.telemetry import Run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def build(lake: Lake) -> Callable[[str], Dataset]:
    def build_one(source: str) -> Dataset:
        shards = ShardOptions(images_per_shard=7)  # so that the uses of some pictures fall apart
        config = NightConfig(lake=lake.url, source=source, dataset="made-up", shards=shards)
        return build_shards(config, Run("build_shards", config, lake))

    return build_one


def test_deepfashion_with_a_missing_picture(
    lake: Lake, tmp_path: Path, build: Callable[[str], Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    attributes = {"texture-related": 3, "fabric-related": 2}
    made = make_asen(
        tmp_path, "DeepFashion", attributes=attributes, train_per_value=1, candidates_per_value=1
    )
    lost = made.picture("test", 1)
    body = lost.read_bytes()
    lost.unlink()

    dataset = build(f"deepfashion:{tmp_path}")
    assert dataset.taxonomy is not None
    assert dataset.taxonomy.names == ("texture_related", "fabric_related")
    assert dataset.triplets == {}
    said = capsys.readouterr().out
    assert "2 records left out: 2 missing (such as pictures/test/0001.jpg@candidate)" in said
    (listed,) = (name for name in lake.store.list_names("runs") if name.endswith("/left_out.parquet"))
    assert f"{lake.url}/{listed}" in said
    with lake.store.local_copy(listed) as path:
        assert pq.read_table(path)["uri"].to_pylist() == [str(lost)] * 2
    samples = list(samples_of(dataset))
    assert Counter(sample.role for sample in samples) == uses(made, missing_test_pictures=1)
    assert len({(s.sha256, s.role, str(s.labels)) for s in samples}) == len(samples)
    assert len(dataset.described) == 5 + 10 + 9

    again = build(f"deepfashion:{tmp_path}")  # a picture that is known to be missing is no new work
    assert again == dataset
    assert "45/45 images" in (said := capsys.readouterr().out)
    assert "45 reused" in said

    lost.write_bytes(body)
    complete = build(f"deepfashion:{tmp_path}")
    assert Counter(sample.role for sample in samples_of(complete)) == uses(made, missing_test_pictures=0)
    assert "left out" not in capsys.readouterr().out
    assert len(set(complete.urls) & set(dataset.urls)) >= len(dataset.urls) - 2


def samples_of(dataset: Dataset) -> Iterator[Sample]:
    """Read the pictures from their tars, once for each use."""
    for sample in stream_samples(dataset.urls):
        for use in dataset.described.get(sample.sha256, ()):
            if dataset.homes[sample.sha256] == sample.url:
                yield replace(sample, role=use.role, labels=use.labels)


def uses(made: MadeUp, missing_test_pictures: int) -> dict[str, int]:
    """Return how often each role occurs: every picture of valid and test asks and is a candidate."""
    test = len(made.paths["test"]) - missing_test_pictures
    valid = len(made.paths["valid"])
    return {
        "train": len(made.paths["train"]),
        "valid_query": valid,
        "valid_candidate": valid,
        "query": test,
        "candidate": test,
    }


def test_zappos50k_loses_the_triplets_of_missing_pictures(
    tmp_path: Path, build: Callable[[str], Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_zappos50k(tmp_path)
    made.picture("all", 2).unlink()
    dataset = build(f"zappos50k:{tmp_path}")
    assert dataset.taxonomy is not None
    assert dataset.taxonomy.names == ("class", "closure", "gender", "heel")
    role_of = {sample.sha256: sample.role for sample in samples_of(dataset)}
    assert Counter(role_of.values()) == {"train": 23, "valid": 12, "test": 13}
    kept = [triplet for triplet in made.triplets["train"] if 2 not in triplet[1:]]
    assert len(kept) < len(made.triplets["train"]) == 80
    said = capsys.readouterr().out
    assert f"{80 - len(kept)} of 80 train triplets left out with them" in said
    assert "valid triplets" not in said
    digests = {digest_of(made, number): number for number in range(49) if number != 2}
    for split, listed in dataset.triplets.items():
        assert {role_of[sha256] for sha256 in listed.pictures} == {split}
        found = [
            (int(attribute), *(digests[listed.pictures[row]] for row in rows))
            for attribute, rows in zip(listed.attribute, listed.rows, strict=True)
        ]
        assert found == (kept if split == "train" else made.triplets[split])


def digest_of(made: MadeUp, number: int) -> str:
    return hashlib.sha256(made.picture("all", number).read_bytes()).hexdigest()
