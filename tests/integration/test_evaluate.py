"""Evaluation of the public benchmarks' layouts, from files to figures, against the lists as written."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_datasets import Line, MadeUp, make_asen, make_zappos50k

from agman.checkpoint import save_model
from agman.model import ModelConfig
from agman.networks import build_network
from agman.transforms import Preprocess, read_pixels
from pipelines.dataset import Dataset
from pipelines.evaluation import evaluate
from pipelines.lake import Lake
from pipelines.models import import_model
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run
from pipelines.vectors import PictureEmbedder, pixel_vectors, thumbnails

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

PREPROCESS = Preprocess(image_size=64)


class Judged:
    """A data set in a lake, and a random network of its taxonomy."""

    def __init__(self, lake: Lake, folder: Path, source: str) -> None:
        self.lake = lake
        config = NightConfig(lake=self.lake.url, source=source, shards=ShardOptions(images_per_shard=40))
        self.run = Run("evaluate", config, self.lake)
        self.dataset: Dataset = build_shards(config, self.run)
        taxonomy = self.dataset.taxonomy
        assert taxonomy is not None
        with torch.random.fork_rng():
            torch.manual_seed(1)  # not the seed of the untrained network that it is judged beside
            network = build_network(ModelConfig(trunk="resnet18", embedding_dim=32), len(taxonomy))
        save_model(network.eval(), taxonomy, PREPROCESS, folder / "model")
        self.model = import_model(self.lake, folder / "model")
        self._embedder = PictureEmbedder(network, PREPROCESS)
        self._vectors: dict[Path, np.ndarray] = {}

    def vector(self, attribute: int, path: Path) -> torch.Tensor:
        """Embed one picture by itself: [D]."""
        if path not in self._vectors:
            picture = read_pixels(path.read_bytes(), PREPROCESS)
            self._vectors[path] = self._embedder.embed(picture[None])[0]
        return torch.from_numpy(self._vectors[path][attribute])

    def scores(self, split: str = "test") -> dict[str, Any]:
        return evaluate(self.lake, self.model, self.dataset, self.run, split)


@cache
def pixels(path: Path) -> torch.Tensor:
    picture = read_pixels(path.read_bytes(), PREPROCESS)
    return pixel_vectors(thumbnails(picture[None]))[0]


def published_map(
    made: MadeUp,
    queries: list[Line],
    candidates: list[Line],
    attribute: int,
    vector: Callable[[Path], torch.Tensor] = pixels,
) -> float:
    """MAP of one attribute as the published code computes it, line by line."""
    precisions = []
    for number, asked, value in queries:
        if asked != attribute:
            continue
        query = vector(made.picture("test", number))
        ranked = sorted(
            (-float(query @ vector(made.picture("test", other))), theirs == value)
            for other, listed, theirs in candidates
            if listed == attribute
        )
        found = 0
        total = 0.0
        for rank, (_, hit) in enumerate(ranked, start=1):
            found += hit
            total += hit * found / rank
        precisions.append(total / found if found else 0.0)
    return float(np.mean(precisions))


def test_lists_are_judged_line_by_line(lake: Lake, tmp_path: Path) -> None:
    made = make_asen(tmp_path / "benchmark", "DeepFashion")
    queries, candidates = made.queries["test"], made.candidates["test"]
    gone = next(number for number, _, _ in candidates)
    made.picture("test", gone).unlink()  # a picture that a person never got
    queries, candidates = ([line for line in lines if line[0] != gone] for lines in (queries, candidates))

    judged = Judged(lake, tmp_path, f"deepfashion:{made.root}")
    scores = judged.scores()
    assert (scores["split"], scores["measure"]) == ("test", "map")
    assert len(scores["attributes"]) == len(made.attributes)
    for attribute, row in enumerate(scores["attributes"].values()):
        assert row["pixels"] == pytest.approx(published_map(made, queries, candidates, attribute), abs=1e-6)
        assert row["map"] == pytest.approx(
            published_map(made, queries, candidates, attribute, partial(judged.vector, attribute)), abs=1e-3
        )
        assert row["num_queries"] == sum(listed == attribute for _, listed, _ in queries)
        assert row["num_candidates"] == sum(listed == attribute for _, listed, _ in candidates)
        assert row["map"] != pytest.approx(row["untrained"], abs=1e-3)  # other weights, other neighbours
        assert 0 < row["random"] < 1
    weighted = scores["overall"]["query_weighted"]
    assert weighted["map"] == pytest.approx(
        np.average(
            [row["map"] for row in scores["attributes"].values()],
            weights=[row["num_queries"] for row in scores["attributes"].values()],
        )
    )


def test_listed_triplets_are_judged_by_their_share(lake: Lake, tmp_path: Path) -> None:
    made = make_zappos50k(tmp_path / "benchmark")
    judged = Judged(lake, tmp_path, f"zappos50k:{tmp_path / 'benchmark'}")
    for split in ("test", "valid"):
        scores = judged.scores(split)
        assert (scores["split"], scores["measure"]) == (split, "triplet_accuracy")
        for attribute, (name, row) in enumerate(scores["attributes"].items()):
            assert name == list(made.attributes)[attribute]
            right = []
            for listed, *numbers in made.triplets[split]:
                if listed == attribute:
                    anchor, positive, negative = (pixels(made.picture("all", number)) for number in numbers)
                    right.append(bool((anchor * positive).sum() > (anchor * negative).sum()))
            assert row["pixels"] == pytest.approx(np.mean(right))
            assert row["num_triplets"] == len(right)
            assert row["random"] == 0.5
