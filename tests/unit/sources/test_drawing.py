import hashlib
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipelines.sources.drawing import ATTRIBUTE_VALUES, draw, draw_jpeg, sample_garment

SEED = 11
NUM_PIXEL_PICTURES = 500
GARMENTS_OF = {
    "skirt_length": {"top", "dress", "skirt"},
    "pant_length": {"top", "trousers"},
    "coat_length": {"coat"},
    "lapel_design": {"coat"},
    "sleeve_length": {"top", "dress", "coat", "skirt", "trousers"},
    "collar_design": {"top", "dress", "skirt", "trousers"},
    "neckline_design": {"top", "dress", "skirt", "trousers"},
    "neck_design": {"top", "dress", "skirt", "trousers"},
}


def average_precision(hits: np.ndarray) -> float:
    """AP of one ranking, best first."""
    ranks = np.flatnonzero(hits) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0


def mean_average_precision(similarity: np.ndarray, values: np.ndarray) -> float:
    """MAP with every picture as a query against all others."""
    found = []
    for query, row in enumerate(similarity):
        order = np.argsort(-row, kind="stable")
        order = order[order != query]
        found.append(average_precision(values[order] == values[query]))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def garments():
    return [sample_garment(f"image-{index}", SEED) for index in range(4000)]


def test_taxonomy_is_fashionai():
    assert [len(values) for values in ATTRIBUTE_VALUES.values()] == [6, 9, 8, 6, 5, 5, 10, 5]
    assert all(values[0] == "invisible" for values in ATTRIBUTE_VALUES.values())


def test_the_same_key_gives_the_same_bytes():
    assert draw_jpeg("a", SEED, size=64) == draw_jpeg("a", SEED, size=64)
    assert sample_garment("a", SEED) == sample_garment("a", SEED)


def test_key_seed_and_revision_each_change_the_bytes():
    pictures = [draw_jpeg("a", 1, 0), draw_jpeg("b", 1, 0), draw_jpeg("a", 2, 0), draw_jpeg("a", 1, 1)]
    assert len(set(pictures)) == len(pictures)


def test_a_revision_is_the_same_product():
    first, second = sample_garment("a", SEED, 0), sample_garment("a", SEED, 1)
    assert (first.labels, first.columns) == (second.labels, second.columns)
    assert first.look_seed != second.look_seed


def test_labels_are_of_the_taxonomy_and_never_invisible(garments):
    for garment in garments:
        assert garment.labels
        for attribute, value in garment.labels.items():
            assert value in ATTRIBUTE_VALUES[attribute][1:]
            assert garment.drawn[attribute] == value


def test_a_garment_has_only_its_own_attributes(garments):
    for garment in garments:
        assert all(garment.category in GARMENTS_OF[attribute] for attribute in garment.labels)
        assert len(garment.labels.keys() & {"neckline_design", "collar_design", "neck_design"}) <= 1
        assert not {"skirt_length", "pant_length"} <= garment.labels.keys()


def test_every_value_is_drawn_about_as_often_as_its_siblings(garments):
    for attribute, values in ATTRIBUTE_VALUES.items():
        counts = Counter(garment.labels.get(attribute) for garment in garments)
        labelled = sum(counts[value] for value in values[1:])
        assert labelled >= len(garments) / 8, attribute
        for value in values[1:]:
            assert counts[value] >= 0.6 * labelled / (len(values) - 1), (attribute, value)


def test_columns_are_the_shops(garments):
    for garment in garments[:50]:
        assert list(garment.columns) == ["sku", "brand", "category", "price", "season"]
        assert garment.columns["category"] == garment.category
        assert isinstance(garment.columns["price"], float)
    assert len({garment.columns["sku"] for garment in garments[:200]}) == 200


@pytest.mark.parametrize("size", [16, 64, 256])
def test_a_jpeg_is_a_portrait_of_the_size_asked_for(size):
    with Image.open(io.BytesIO(draw_jpeg("a", SEED, size=size))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (size, size * 5 // 4))


def test_jpeg_quality_varies():
    tables = set()
    for index in range(12):
        with Image.open(io.BytesIO(draw_jpeg(f"image-{index}", SEED, size=32))) as picture:
            tables.add(tuple(picture.quantization[0]))
    assert len(tables) >= 6


def test_pictures_are_distinct_and_not_flat():
    pictures = [np.asarray(draw(sample_garment(f"image-{index}", SEED), 48)) for index in range(80)]
    assert len({hashlib.sha256(picture.tobytes()).digest() for picture in pictures}) == len(pictures)
    assert min(picture.std() for picture in pictures) > 8


def test_labels_do_not_show_in_pixel_distance():
    """Neighbours in 32 x 32 pixels rank hardly better than chance: colour, place and light decide."""
    garments = [sample_garment(f"image-{index}", SEED) for index in range(NUM_PIXEL_PICTURES)]
    small = [np.asarray(draw(garment, 64).resize((32, 32)), dtype=np.float32) for garment in garments]
    pixels = np.stack(small).reshape(len(small), -1)
    rng = np.random.default_rng(0)
    ratios = {}
    for attribute in ATTRIBUTE_VALUES:
        has = [index for index, garment in enumerate(garments) if attribute in garment.labels]
        values = np.array([garments[index].labels[attribute] for index in has])
        squares = (pixels[has] ** 2).sum(axis=1)
        similarity = 2 * pixels[has] @ pixels[has].T - squares[:, None] - squares
        at_random = mean_average_precision(rng.random(similarity.shape), values)
        ratios[attribute] = mean_average_precision(similarity, values) / at_random
    assert np.mean(list(ratios.values())) <= 1.25, ratios
