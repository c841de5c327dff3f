"""The generated pictures are a real learning problem, and the evaluation says so."""

import numpy as np
import pytest
import torch

from agman.model import AGMAN, ModelConfig
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import Preprocess, read_pixels
from pipelines.evaluation import HeldOut, embed_pixels, mean_map, pixel_vectors, score
from pipelines.sources.drawing import draw_jpeg, sample_garment

NUM_PICTURES = 480
NEAR_RANDOM = 1.25
PREPROCESS = Preprocess(image_size=64)


@pytest.fixture(scope="module")
def drawn():
    keys = [f"held-out-{index}" for index in range(NUM_PICTURES)]
    pixels = torch.stack([read_pixels(draw_jpeg(key, 3, size=64), PREPROCESS) for key in keys])
    values = tuple(np.zeros((NUM_PICTURES, len(attribute.values)), bool) for attribute in FASHIONAI)
    for row, key in enumerate(keys):
        for name, value in sample_garment(key, 3).labels.items():
            values[FASHIONAI.index(name)][row, FASHIONAI.value_index(name, value)] = True
    return HeldOut(pixels, np.arange(NUM_PICTURES) % 4 == 0, values)


def test_pixel_neighbours_stay_near_a_random_ranking(drawn):
    scores = score(pixel_vectors(drawn.pixels), drawn, FASHIONAI)
    assert len(scores) == len(FASHIONAI)
    assert mean_map(scores)[0] <= NEAR_RANDOM * mean_map(scores, "random")[0]


def test_the_untrained_network_stays_near_a_random_ranking(drawn):
    torch.manual_seed(0)
    model = AGMAN(ModelConfig(trunk="resnet18", embedding_dim=32), len(FASHIONAI)).eval()
    scores = score(embed_pixels(model, drawn.pixels, PREPROCESS), drawn, FASHIONAI)
    assert mean_map(scores)[0] <= NEAR_RANDOM * mean_map(scores, "random")[0]


def test_knowing_the_values_scores_one(drawn):
    told = np.zeros((NUM_PICTURES, len(FASHIONAI), 10), np.float32)
    for attribute, values in enumerate(drawn.values):
        told[:, attribute, : values.shape[1]] = values
    scores = score(told, drawn, FASHIONAI)
    for row in scores.values():
        answered = 1 - row["queries_without_relevant"] / row["num_queries"]
        assert row["map"] == pytest.approx(answered)


def test_score_equals_a_slow_loop():
    taxonomy = Taxonomy((Attribute("cut", ("a", "b")), Attribute("hem", ("x", "y", "z"))))
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(30, 2, 5)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    cut, hem = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    # Value 2 of `cut` stands for pictures that do not carry the attribute.
    values = (np.eye(3, dtype=bool)[cut][:, :2], np.eye(3, dtype=bool)[hem])
    held_out = HeldOut(torch.zeros(0), np.arange(30) % 5 == 0, values)
    scores = score(embeddings, held_out, taxonomy)
    for index, name in enumerate(taxonomy.names):
        precisions = []
        carried = values[index].any(axis=1)
        gallery = [j for j in range(30) if carried[j] and not held_out.is_query[j]]
        for i in range(30):
            if not (carried[i] and held_out.is_query[i]):
                continue
            ranked = sorted(gallery, key=lambda j: -float(embeddings[i, index] @ embeddings[j, index]))
            hits = [bool((values[index][i] & values[index][j]).any()) for j in ranked]
            found = [sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit]
            precisions.append(sum(found) / len(found) if found else 0.0)
        assert scores[name]["map"] == pytest.approx(np.mean(precisions))
        assert scores[name]["num_queries"] == len(precisions)
        assert scores[name]["num_candidates"] == len(gallery)
