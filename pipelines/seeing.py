"""Run a model's trunk over pictures once, and keep what every attribute looks at."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from agman.checkpoint import LoadedModel
from agman.embedder import Embedder
from agman.transforms import normalise
from pipelines.cluster import num_cpus, num_gpus
from pipelines.dataset import Dataset
from pipelines.errors import StorageUnavailable
from pipelines.held_out import Positions, by_tar, in_batches, read_held_out
from pipelines.scheduling import TASK_RETRIES, Ref, result_of, run_tasks
from pipelines.telemetry import Run
from pipelines.values import GPU_SHARE
from pipelines.vectors import BATCH


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures as every attribute of the model looks at them."""

    positions: Positions
    """[N] in the pictures asked for; what cannot be read is missing."""
    features: Tensor
    """[N, D, H, W] float16."""
    vectors: Tensor
    """[N, A, D] float32, under the model's own attributes."""


NOTHING = Seen(np.zeros(0, np.int64), torch.zeros(0), torch.zeros(0))


def see(old: LoadedModel, dataset: Dataset, pictures: tuple[str, ...], stage: str, run: Run) -> Seen:
    """Run the trunk over pictures, a Ray task a tar."""
    task: Any = ray.remote(see_pictures).options(
        num_gpus=GPU_SHARE if num_gpus() else 0,
        max_retries=TASK_RETRIES,
        retry_exceptions=[StorageUnavailable],
    )
    tars = by_tar(dataset, pictures)
    model, shared = ray.put(old), ray.put(pictures)

    def submit(url: str) -> list[Ref]:
        return [task.remote(model, url, tars[url], shared)]

    found: list[Seen] = []
    unreadable: Counter[str] = Counter()
    with run.stage(stage, len(tars), "shards") as shown:
        for _, (ref,) in run_tasks(submit, tars, 2 * num_cpus()):
            pictures_seen, bad = result_of(ref)
            found.append(pictures_seen)
            unreadable += bad
            shown.advance(1)
    if unreadable:
        counted = ", ".join(f"{count} {kind}" for kind, count in unreadable.most_common())
        run.say(f"  labelled pictures that cannot be read, left out: {counted}")
    return _joined(found)


def see_pictures(
    old: LoadedModel, url: str, wanted: Positions, pictures: tuple[str, ...]
) -> tuple[Seen, Counter[str]]:
    """Embed pictures of a tar and keep what attributes look at, in a Ray task.

    Args:
        old: the model.
        url: the tar.
        wanted: positions in `pictures` of those that are read from this tar.
        pictures: sha256.

    Returns:
        Those that could be read, and by kind how many could not.
    """
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # In float32 everywhere: a model's id must not depend on what the node multiplies natively.
    embedder = Embedder(old.model.to(device), torch.float32)
    unreadable: Counter[str] = Counter()
    positions: list[int] = []
    features: list[Tensor] = []
    vectors: list[Tensor] = []
    read = read_held_out(url, pictures, wanted, old.preprocess, unreadable)
    for batch, pixels in in_batches(read, BATCH):
        embedded, looked_at = embedder.embed_with_features(normalise(pixels.to(device), old.preprocess))
        positions += batch
        vectors.append(embedded.cpu())
        features.append(looked_at.half().cpu())
    if not positions:
        return NOTHING, unreadable
    return Seen(np.array(positions, np.int64), torch.cat(features), torch.cat(vectors)), unreadable


def _joined(found: Iterable[Seen]) -> Seen:
    """Put the tars' pictures together in the order of the pictures, however tasks ended."""
    some = [each for each in found if len(each.positions)]
    if not some:
        return NOTHING
    positions = np.concatenate([each.positions for each in some])
    order = np.argsort(positions)
    features = torch.cat([each.features for each in some])[torch.from_numpy(order)]
    vectors = torch.cat([each.vectors for each in some])[torch.from_numpy(order)]
    return Seen(positions[order], features, vectors)
