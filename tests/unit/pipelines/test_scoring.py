"""Figures of an attribute against slow loops, and what the generated pictures give away without learning."""

import numpy as np
import pytest
import torch

from agman.model import AGMAN, ModelConfig
from agman.taxonomy import FASHIONAI
from agman.transforms import Preprocess, read_pixels
from pipelines.held_out import HeldOut, Lines
from pipelines.scoring import MAP, MODEL, RANDOM, TRIPLET_ACCURACY, overall, score_attribute
from pipelines.sources.drawing import draw_jpeg, sample_garment
from pipelines.vectors import PictureEmbedder, pixel_vectors, thumbnails

NUM_PICTURES = 480
NEAR_RANDOM = 1.25
PREPROCESS = Preprocess(image_size=64)


def draw_lines(rng: np.random.Generator, number: int, num_pictures: int, num_values: int) -> Lines:
    return Lines(rng.integers(0, num_pictures, number), rng.integers(0, num_values, number))


def unit_vectors(rng: np.random.Generator, number: int) -> torch.Tensor:
    vectors = rng.normal(size=(number, 5)).astype(np.float32)
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_lists_are_scored_as_by_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    queries, candidates = draw_lines(rng, 25, 60, 3), draw_lines(rng, 50, 60, 4)
    held_out = HeldOut(tuple(f"p{i}" for i in range(60)), {3: (queries, candidates)})
    positions = rng.permutation(60)[:50]  # ten pictures could not be read
    vectors = {MODEL: unit_vectors(rng, 50), "other": unit_vectors(rng, 50)}
    row = score_attribute(held_out, 3, positions, vectors)
    assert row is not None
    place = {int(picture): at for at, picture in enumerate(positions)}
    for name, figure in ((MODEL, MAP), ("other", "other")):
        precisions, firsts, unmatched = [], [], 0
        gallery = [
            pair for pair in zip(candidates.pictures, candidates.values, strict=True) if pair[0] in place
        ]
        for picture, value in zip(queries.pictures, queries.values, strict=True):
            if picture not in place:
                continue
            asks = vectors[name][place[picture]]
            ranked = sorted(
                (-float(asks @ vectors[name][place[other]]), theirs == value)
                for other, theirs in gallery
                if other != picture
            )
            hits = [hit for _, hit in ranked]
            found = [sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit]
            precisions.append(sum(found) / len(found) if found else 0.0)
            firsts.append(hits[0])
            unmatched += not found
        assert row[figure] == pytest.approx(np.mean(precisions))
        if name == MODEL:
            assert row["recall_at_1"] == pytest.approx(np.mean(firsts))
            assert row["num_queries"] == len(precisions)
            assert row["num_candidates"] == len(gallery)
            assert row["queries_without_relevant"] == unmatched


def test_triplets_are_scored_as_by_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 20, (70, 3))  # an anchor that is its own negative ties or loses
    positions = rng.permutation(20)[:15]
    vectors = {MODEL: unit_vectors(rng, 15), "other": unit_vectors(rng, 15)}
    place = {int(picture): at for at, picture in enumerate(positions)}
    monkeypatch.setattr("pipelines.scoring.TRIPLET_CHUNK", 4)
    row = score_attribute(HeldOut(("p",) * 20, triplets={0: rows}), 0, positions, vectors)
    assert row is not None
    for name, figure in ((MODEL, TRIPLET_ACCURACY), ("other", "other")):
        right = [
            bool((among[place[a]] * among[place[p]]).sum() > (among[place[a]] * among[place[n]]).sum())
            for among in (vectors[name],)
            for a, p, n in rows.tolist()
            if {a, p, n} <= place.keys()
        ]
        assert row[figure] == pytest.approx(np.mean(right))
        assert row["num_triplets"] == len(right)
    assert row[RANDOM] == 0.5


def test_nothing_left_to_compare_is_no_row() -> None:
    lines = Lines(np.array([0]), np.array([0]))
    held_out = HeldOut(
        ("p0", "p1"), {0: (lines, Lines(np.array([1]), np.array([0])))}, {1: np.array([[0, 1, 1]])}
    )
    for attribute in (0, 1):
        assert score_attribute(held_out, attribute, np.array([0]), {MODEL: torch.eye(2)[:1]}) is None


def test_means_weigh_queries_and_attributes_differently() -> None:
    rows = {
        "neck": {MAP: 1.0, RANDOM: 0.3, "num_queries": 3},
        "lapel": {MAP: 0.0, RANDOM: 0.1, "num_queries": 1},
    }
    assert overall(rows, (MAP, RANDOM)) == {
        "query_weighted": {MAP: pytest.approx(0.75), RANDOM: pytest.approx(0.25)},
        "plain": {MAP: pytest.approx(0.5), RANDOM: pytest.approx(0.2)},
    }
    shoes = {
        "heel": {TRIPLET_ACCURACY: 0.9, "num_triplets": 9},
        "sole": {TRIPLET_ACCURACY: 0.5, "num_triplets": 1},
    }
    assert overall(shoes, (TRIPLET_ACCURACY,))["query_weighted"] == {TRIPLET_ACCURACY: pytest.approx(0.86)}


@pytest.fixture(scope="module")
def drawn() -> tuple[HeldOut, torch.Tensor]:
    keys = [f"held-out-{index}" for index in range(NUM_PICTURES)]
    pixels = torch.stack([read_pixels(draw_jpeg(key, 3, size=64), PREPROCESS) for key in keys])
    shown = [(row, sample_garment(key, 3).labels.items()) for row, key in enumerate(keys)]
    lists = {}
    for attribute, name in enumerate(FASHIONAI.names):
        values = {
            row: FASHIONAI.value_index(name, dict(found)[name]) for row, found in shown if name in dict(found)
        }
        pairs = np.array(list(values.items()))
        asks = pairs[:, 0] % 4 == 0
        lists[attribute] = (Lines(*pairs[asks].T), Lines(*pairs[~asks].T))
    return HeldOut(tuple(keys), lists), pixels


def mean_figures(held_out: HeldOut, vectors: torch.Tensor) -> dict[str, float]:
    """Return the query-weighted means for vectors [N, A, D], or [N, 1, D] for what knows no attribute."""
    rows = {}
    for attribute in held_out.attributes:
        among = vectors[:, min(attribute, vectors.shape[1] - 1)]
        rows[str(attribute)] = score_attribute(held_out, attribute, np.arange(NUM_PICTURES), {MODEL: among})
    return overall(rows, (MAP, RANDOM))["query_weighted"]


def test_pixel_neighbours_stay_near_a_random_ranking(drawn) -> None:
    held_out, pixels = drawn
    assert len(held_out.attributes) == len(FASHIONAI)
    found = mean_figures(held_out, pixel_vectors(thumbnails(pixels))[:, None])
    assert found[MAP] <= NEAR_RANDOM * found[RANDOM]


def test_the_untrained_network_stays_near_a_random_ranking(drawn) -> None:
    held_out, pixels = drawn
    torch.manual_seed(0)
    model = AGMAN(ModelConfig(trunk="resnet18", embedding_dim=32), len(FASHIONAI)).eval()
    vectors = PictureEmbedder(model, PREPROCESS).embed(pixels)
    found = mean_figures(held_out, torch.from_numpy(vectors))
    assert found[MAP] <= NEAR_RANDOM * found[RANDOM]


def test_knowing_the_values_scores_one(drawn) -> None:
    held_out, _ = drawn
    for attribute, pair in held_out.lists.items():
        told = torch.zeros(NUM_PICTURES, 10)
        for lines in pair:
            told[lines.pictures, lines.values] = 1.0
        row = score_attribute(held_out, attribute, np.arange(NUM_PICTURES), {MODEL: told})
        assert row is not None
        assert row[MAP] == pytest.approx(1 - row["queries_without_relevant"] / row["num_queries"])
