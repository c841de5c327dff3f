"""Judge a model on held-out products after the published protocol, beside what needs no training.

For each attribute: every query line ranks the candidate lines of that attribute; relevant is who has its
value. Where a data set lists triplets instead: the share whose positive is nearer. The figures stand beside
those of a random ranking (exact expectation), of nearest neighbours on 32x32 pixels, and of the same network
before training: what does not beat these learned nothing.

A Ray task embeds a shard and leaves its vectors in the object store, a block for each attribute; a Ray task
for each attribute scores its blocks. No vector passes through the driver.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import ray
import torch

from agman.checkpoint import LoadedModel, load_model
from agman.errors import InvalidInput
from agman.taxonomy import Taxonomy
from pipelines.cluster import num_cpus, num_gpus
from pipelines.dataset import Dataset
from pipelines.errors import StorageUnavailable
from pipelines.held_out import HeldOut, Positions, by_tar, select_held_out
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.packed import check_model
from pipelines.scheduling import TASK_RETRIES, Ref, result_of, run_tasks
from pipelines.scoring import MODEL, RANDOM, Row, measure_of, overall, score_attribute
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run
from pipelines.value_scores import score_values
from pipelines.vectors import (
    PIXELS,
    UNTRAINED,
    AttributeBlock,
    ShardHeader,
    embed_shard,
    pixel_vectors,
    untrained,
)

GPU_SHARE = 0.25  # of a GPU for each shard: one task's decoding would leave it idle

Split = Literal["test", "valid"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """One evaluation."""

    lake: str
    """Root of the lake: a local folder or s3://bucket/prefix."""
    source: str
    """Where labelled pictures come from; what is sharded already is used as it is."""
    dataset: str = "catalog"
    """Folder below shards/."""
    model: str = ""
    """Model id, its beginning, or a model's folder; empty: the published snapshot's or the only one."""
    split: Split = "test"
    """`test`: roles query and candidate; `valid`: what training validates with; or the split's triplets."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How pictures become tars."""


def evaluate(lake: Lake, model: str, dataset: Dataset, run: Run, split: Split = "test") -> dict[str, Any]:
    """Judge a model of the lake on the held-out pictures of a dataset.

    Args:
        lake: holds the model.
        model: its id, or the beginning of it.
        dataset: tars, roles and labels, or listed triplets.
        run: told the progress, and what was left out.
        split: where `test` has nothing to compare, `valid` is taken and named.

    Returns:
        {"dataset", "split", "measure": "map" or "triplet_accuracy", "attributes": {name: figures},
        "overall": {"query_weighted": …, "plain": …}, "unreadable": pictures, "values"}; figures as in
        `scoring.Row`, those of values as `value_scores.score_values` gives them, None without prototypes.

    Raises:
        InvalidInput: if the dataset has nothing to judge by, or is packed unlike what the model learned from.
    """
    if not dataset.urls:
        raise InvalidInput(f"dataset {dataset.name}: expected at least one usable picture, found none")
    with fetch_model(lake, model) as folder:
        loaded = load_model(folder)
    check_model(model, loaded.preprocess, dataset.packed_side, f"dataset {dataset.name}")
    taxonomy = loaded.taxonomy
    held_out = select_held_out(dataset, taxonomy, split)
    if split == "test" and not held_out.attributes:
        split, held_out = "valid", select_held_out(dataset, taxonomy, "valid")
        run.say("  the split test has nothing to compare, so the pictures that chose the model judge it")
    for line in left_out(dataset.taxonomy, taxonomy, held_out):
        run.say(f"  {line}")
    rows, headers = _judge(loaded, by_tar(dataset, held_out.pictures), held_out, run)
    unreadable = sum((header.unreadable for header in headers), Counter[str]())
    if unreadable:
        counted = ", ".join(f"{count} {kind}" for kind, count in unreadable.most_common())
        run.say(f"  held-out pictures that cannot be read, left out: {counted}")
    if not rows:
        raise InvalidInput(
            f"dataset {dataset.name}: expected labelled pictures of roles query and candidate, or listed "
            f"triplets, for {', '.join(taxonomy.names)}, found nothing that can be compared"
        )
    measure = measure_of(next(iter(rows.values())))
    return {
        "dataset": dataset.name,
        "split": split,
        "measure": measure,
        "attributes": rows,
        "overall": overall(rows, (measure, RANDOM, PIXELS, UNTRAINED)),
        "unreadable": unreadable.total(),
        "values": _judge_values(held_out, headers, taxonomy),
    }


def left_out(named: Taxonomy | None, taxonomy: Taxonomy, held_out: HeldOut) -> list[str]:
    """Say what of a data set a model cannot be judged by.

    Args:
        named: the data set's own taxonomy, where its files name one.
        taxonomy: the model's.
        held_out: counted what the model's taxonomy does not know.

    Returns:
        At most a line on the taxonomies and one on the labels.
    """
    said = []
    if named is not None and named != taxonomy:
        values = {attribute.name: attribute.values for attribute in taxonomy}
        parts = {
            "unknown to the model": [name for name in named.names if name not in values],
            "not in the data set": [name for name in values if name not in named.names],
            "with other values": [a.name for a in named if values.get(a.name, a.values) != a.values],
        }
        differences = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
        said.append(
            f"data set and model differ in their attributes; {'; '.join(differences) or 'the order alone'}"
        )
    if held_out.unknown:
        shown = ", ".join(f"{name} ({count})" for name, count in held_out.unknown.most_common(5))
        said.append(f"{held_out.unknown.total()} labels that the model does not know, left out: {shown}")
    return said


def _judge(
    loaded: LoadedModel, tars: Mapping[str, Positions], held_out: HeldOut, run: Run
) -> tuple[dict[str, Row], list[ShardHeader]]:
    """Embed and score; returns the figures by attribute and the header of each shard."""
    if not held_out.attributes:
        return {}, []
    shared = ray.put(held_out)
    shards = _embed_shards(loaded, tars, shared, 2 + len(held_out.attributes), run)
    headers: list[ShardHeader] = [result_of(header) for header, *_ in shards]
    task = ray.remote(_score_blocks)
    rows = {}
    with run.stage("score", len(held_out.attributes), "attributes") as stage:
        scored = [
            task.remote(shared, attribute, [(shard[0], shard[1], shard[2 + number]) for shard in shards])
            for number, attribute in enumerate(held_out.attributes)
        ]
        for attribute, ref in zip(held_out.attributes, scored, strict=True):
            rows[loaded.taxonomy.names[attribute]] = result_of(ref)
            stage.advance(1)
    return {name: row for name, row in rows.items() if row is not None}, headers


def _judge_values(
    held_out: HeldOut, headers: Sequence[ShardHeader], taxonomy: Taxonomy
) -> dict[str, Any] | None:
    """Score what the model says in words; None where it says nothing or nothing tells what is right."""
    said = [(header.positions, header.said) for header in headers if header.said is not None]
    if not said or not held_out.lists:
        return None
    positions, values = (np.concatenate(parts) for parts in zip(*said, strict=True))
    return score_values(held_out, positions, values, taxonomy)


def _embed_shards(
    loaded: LoadedModel, tars: Mapping[str, Positions], held_out: Ref, num_returns: int, run: Run
) -> list[list[Ref]]:
    """Embed every shard; returns references to what `embed_shard` gives, in the order of the tars."""
    task: Any = ray.remote(embed_shard).options(
        num_returns=num_returns,
        num_gpus=GPU_SHARE if num_gpus() else 0,
        max_retries=TASK_RETRIES,
        retry_exceptions=[StorageUnavailable],
    )
    model, start = ray.put(loaded), ray.put(untrained(loaded))

    def submit(url: str) -> list[Ref]:
        refs: list[Ref] = task.remote(model, start, url, tars[url], held_out)
        return refs

    shards: dict[str, list[Ref]] = {}
    with run.stage("evaluate", len(tars), "shards") as stage:
        for url, refs in run_tasks(submit, tars, 2 * num_cpus()):
            result_of(refs[0])  # what went wrong is said now, not after all others
            shards[url] = refs
            stage.advance(1)
    return [shards[url] for url in tars]


def _score_blocks(held_out: HeldOut, attribute: int, shards: Sequence[tuple[Ref, Ref, Ref]]) -> Row | None:
    """Score one attribute from references to each shard's header, thumbnails and block, in a Ray task."""
    return score_blocks(held_out, attribute, [tuple(ray.get(list(refs))) for refs in shards])


def score_blocks(
    held_out: HeldOut,
    attribute: int,
    shards: Sequence[tuple[ShardHeader, np.ndarray, AttributeBlock]],
) -> Row | None:
    """Score one attribute.

    Args:
        held_out: who is compared with whom.
        attribute: position in the model's taxonomy.
        shards: of each shard the header, thumbnails and the attribute's block.

    Returns:
        As `score_attribute`.
    """
    torch.set_num_threads(1)
    positions = np.concatenate([header.positions[block.rows] for header, _, block in shards])
    small = np.concatenate([thumbnails[block.rows] for _, thumbnails, block in shards])
    vectors = {
        name: torch.from_numpy(np.concatenate([block.vectors[name] for *_, block in shards]))
        for name in (MODEL, UNTRAINED)
    }
    return score_attribute(held_out, attribute, positions, {**vectors, PIXELS: pixel_vectors(small)})
