"""Judge a model on held-out products after the published protocol, beside what needs no training.

For each attribute: every held-out query that carries it ranks every held-out candidate that carries it;
relevant is who shares a value. The figures stand beside a random ranking's (exact expectation), nearest
neighbours on 32x32 pixels, and the same network before training: what does not beat these learned nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor
from torch.nn import functional

from agman.checkpoint import LoadedModel, load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.metrics import expected_random_ap, retrieval
from agman.model import AGMAN, ModelConfig
from agman.taxonomy import Taxonomy
from agman.transforms import Preprocess, normalise, read_pixels
from pipelines.cluster import num_cpus
from pipelines.dataset import Dataset
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.scheduling import result_of
from pipelines.telemetry import Run
from pipelines.training.samples import label_indices

PIXEL_SIDE = 32
BATCH = 32
UNTRAINED_SEED = 0
QUERY_EVERY = 4  # of one role's pictures, where queries and candidates are not told apart
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out pictures: what is ranked, by whom, and what they show."""

    pixels: Tensor
    """[N, 3, S, S] uint8."""
    is_query: np.ndarray
    """[N] bool; the others are candidates."""
    values: tuple[np.ndarray, ...]
    """By attribute: [N, number of values] bool, no True where the attribute is not labelled."""


def load_held_out(
    dataset: Dataset,
    taxonomy: Taxonomy,
    preprocess: Preprocess,
    *,
    roles: tuple[str, ...] = ("query", "candidate"),
    limit: int | None = None,
) -> HeldOut:
    """Read the held-out pictures of a dataset.

    Args:
        dataset: tars with roles and labels.
        taxonomy: whose labels count.
        preprocess: how pictures are read.
        roles: ("query", "candidate"), or one role, every fourth picture of which then asks the others.
        limit: most pictures.
    """
    pixels: list[Tensor] = []
    queries: list[bool] = []
    labels = []
    for sample in dataset.samples():
        if sample.role not in roles:
            continue
        try:
            pixels.append(read_pixels(sample.encoded, preprocess))
        except BadSample:
            continue
        queries.append(sample.role == "query" if len(roles) > 1 else len(pixels) % QUERY_EVERY == 0)
        labels.append(label_indices(sample.labels, taxonomy, Counter()))
        if len(pixels) == limit:
            break
    size = preprocess.image_size
    values = tuple(np.zeros((len(pixels), len(attribute.values)), bool) for attribute in taxonomy)
    for row, found in enumerate(labels):
        for attribute, shown in found.items():
            values[attribute][row, shown] = True
    stacked = torch.stack(pixels) if pixels else torch.zeros((0, 3, size, size), dtype=torch.uint8)
    return HeldOut(stacked, np.array(queries, bool), values)


def embed_pixels(model: AGMAN, pixels: Tensor, preprocess: Preprocess) -> np.ndarray:
    """Embed pictures [N, 3, S, S] uint8 under all attributes: [N, A, D] float32."""
    embedder = Embedder(model)
    device = next(model.parameters()).device
    batches = (pixels[start : start + BATCH].to(device) for start in range(0, len(pixels), BATCH))
    blocks = [embedder.embed(normalise(batch, preprocess)).cpu() for batch in batches]
    if not blocks:
        return np.zeros((0, model.num_attributes, model.config.embedding_dim), np.float32)
    return torch.cat(blocks).numpy()


def pixel_vectors(pixels: Tensor) -> np.ndarray:
    """Return unit vectors of 32x32 pixels about each picture's mean: [N, 1, 3072] float32."""
    small = functional.interpolate(pixels.float(), size=PIXEL_SIDE, mode="area").flatten(1)
    return functional.normalize(small - small.mean(1, keepdim=True), dim=1)[:, None].numpy()


def score(embeddings: np.ndarray, held_out: HeldOut, taxonomy: Taxonomy) -> dict[str, dict[str, Any]]:
    """Rank and judge, attribute by attribute.

    Args:
        embeddings: [N, A, D] unit vectors, or [N, 1, D] for what knows no attributes.
        held_out: the N pictures.
        taxonomy: the A attributes.

    Returns:
        By attribute that has queries and candidates: map, recall_at_k, num_queries, num_candidates,
        queries_without_relevant, random (expected AP of a random ranking).
    """
    scores = {}
    for index, attribute in enumerate(taxonomy.names):
        shown = held_out.values[index]
        carried = shown.any(axis=1)
        asks, stands = carried & held_out.is_query, carried & ~held_out.is_query
        if not asks.any() or not stands.any():
            continue
        relevance = torch.from_numpy(shown[asks].astype(np.float32) @ shown[stands].T.astype(np.float32) > 0)
        vectors = torch.from_numpy(embeddings[:, min(index, embeddings.shape[1] - 1)])
        found = retrieval(vectors[torch.from_numpy(asks)], vectors[torch.from_numpy(stands)], relevance)
        num_relevant = relevance.sum(1)
        scores[attribute] = {
            "map": float(found.average_precision.mean()),
            **{f"recall_at_{k}": float(found.recall_at[k].double().mean()) for k in RECALL_AT},
            "num_queries": int(asks.sum()),
            "num_candidates": int(stands.sum()),
            "queries_without_relevant": int((num_relevant == 0).sum()),
            "random": float(np.mean([expected_random_ap(int(r), int(stands.sum())) for r in num_relevant])),
        }
    return scores


def mean_map(scores: dict[str, dict[str, Any]], figure: str = "map") -> tuple[float, float]:
    """Return (mean over queries, plain mean over attributes) of a figure."""
    if not scores:
        return 0.0, 0.0
    queries = [row["num_queries"] for row in scores.values()]
    figures = [row[figure] for row in scores.values()]
    return float(np.average(figures, weights=queries)), float(np.mean(figures))


def validate(model: AGMAN, held_out: HeldOut, taxonomy: Taxonomy, preprocess: Preprocess) -> float:
    """Return the query-weighted MAP of a model in training."""
    return mean_map(score(embed_pixels(model, held_out.pixels, preprocess), held_out, taxonomy))[0]


def evaluate(lake: Lake, model: str, dataset: Dataset, run: Run) -> dict[str, Any]:
    """Judge a model of the lake on the query and candidate pictures of a dataset.

    Returns:
        {"attributes": {name: figures}, "overall": {"query_weighted": …, "plain": …}}, each with map, random,
        pixels and untrained.

    Raises:
        InvalidInput: if the dataset has no labelled queries or candidates.
    """
    if not dataset.urls:
        raise InvalidInput(f"dataset {dataset.name}: expected at least one usable picture, found none")
    tables = _embed_shards(lake, model, dataset, run)
    with fetch_model(lake, model) as folder:
        taxonomy = load_model(folder).taxonomy
    held_out = HeldOut(
        torch.zeros(0),
        np.concatenate([table.held_out.is_query for table in tables]),
        tuple(np.concatenate(columns) for columns in zip(*(t.held_out.values for t in tables), strict=True)),
    )
    names = ("map", "untrained", "pixels")
    every = {
        name: score(np.concatenate([table.vectors[name] for table in tables]), held_out, taxonomy)
        for name in names
    }
    attributes = every["map"]
    if not attributes:
        raise InvalidInput(
            f"dataset {dataset.name}: expected labelled pictures of roles query and candidate for "
            f"{', '.join(taxonomy.names)}, found none of them together"
        )
    for name in ("untrained", "pixels"):
        for attribute, row in attributes.items():
            row[name] = every[name][attribute]["map"]
    kinds = ("map", "random", "pixels", "untrained")
    means = {kind: mean_map(attributes, kind) for kind in kinds}
    return {
        "dataset": dataset.name,
        "attributes": attributes,
        "overall": {
            "query_weighted": {kind: means[kind][0] for kind in kinds},
            "plain": {kind: means[kind][1] for kind in kinds},
        },
    }


@dataclass(frozen=True, slots=True)
class ShardVectors:
    """What one shard's held-out pictures became."""

    held_out: HeldOut
    vectors: dict[str, np.ndarray]


def embed_shard(lake: Lake, model: str, dataset: Dataset, url: str) -> ShardVectors:
    """Embed a shard's held-out pictures with the model, with the same network untrained, and as pixels."""
    torch.set_num_threads(1)
    with fetch_model(lake, model) as folder:
        loaded = load_model(folder)
    held_out = load_held_out(dataset.share([url]), loaded.taxonomy, loaded.preprocess)
    vectors = {
        "map": embed_pixels(loaded.model, held_out.pixels, loaded.preprocess),
        "untrained": embed_pixels(untrained(loaded), held_out.pixels, loaded.preprocess),
        "pixels": pixel_vectors(held_out.pixels),
    }
    return ShardVectors(HeldOut(torch.zeros(0), held_out.is_query, held_out.values), vectors)


def untrained(loaded: LoadedModel) -> AGMAN:
    """Return the same network with its first random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        config = ModelConfig(trunk=loaded.model.config.trunk, embedding_dim=loaded.model.config.embedding_dim)
        return AGMAN(config, len(loaded.taxonomy)).eval()


def _embed_shards(lake: Lake, model: str, dataset: Dataset, run: Run) -> list[ShardVectors]:
    task, shared = ray.remote(embed_shard), ray.put(dataset)
    with run.stage("evaluate", len(dataset.urls), "shards") as stage:
        made = _windowed(
            lambda url: task.remote(lake, model, shared, url), dataset.urls, 2 * num_cpus(), stage.advance
        )
        return list(made)


def _windowed(submit: Any, items: Sequence[str], window: int, advance: Any) -> Iterator[ShardVectors]:
    """Yield results in order with at most `window` tasks in flight."""
    refs = [submit(item) for item in items[:window]]
    for position in range(len(items)):
        yield result_of(refs[position])
        advance(1)
        if position + window < len(items):
            refs.append(submit(items[position + window]))
