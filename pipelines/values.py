"""Values in words: fit a model's prototypes to its training pictures, and write down what they say."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from agman.checkpoint import CONFIG, LoadedModel, load_model, save_model
from agman.fitting import fit
from agman.prototypes import ABSENT, INVISIBLE, Prototypes, most_values
from agman.taxonomy import Taxonomy
from pipelines.cluster import num_cpus, num_gpus
from pipelines.dataset import Dataset
from pipelines.errors import StorageUnavailable
from pipelines.held_out import Positions, by_tar, in_batches, read_held_out
from pipelines.labels import Labels, taught_labels
from pipelines.lake import DIGEST_LETTERS, working_folder
from pipelines.packed import check_model
from pipelines.parts import VALUE_SCHEMA
from pipelines.scheduling import TASK_RETRIES, Ref, result_of, run_tasks
from pipelines.telemetry import Run
from pipelines.vectors import BATCH, PictureEmbedder

MAX_PICTURES = 8_000
"""Training pictures that prototypes are fitted to: 130 MB of vectors for 8 attributes of 512 dimensions."""
PER_VALUE = 32
"""Pictures of each value that are taken before others."""
SHOWN_VALUES = 5
GPU_SHARE = 0.25

Vectors = NDArray[np.float32]


def said_of(loaded: LoadedModel, embeddings: Vectors) -> dict[str, pa.Table]:
    """Return what a model says of embeddings, by attribute as rows of VALUE_SCHEMA; empty without prototypes.

    Args:
        loaded: the model.
        embeddings: [B, A, D] unit vectors, rounded to what is stored, so that a reader finds the same.
    """
    if loaded.prototypes is None:
        return {}
    values, score = (part.numpy() for part in loaded.prototypes.predict(torch.from_numpy(embeddings)))
    is_asked = loaded.prototypes.is_asked.tolist()
    return {
        attribute.name: value_rows(
            attribute.values, values[:, index], score[:, index], is_asked=is_asked[index]
        )
        for index, attribute in enumerate(loaded.taxonomy)
    }


def value_rows(
    names: Sequence[str], values: NDArray[np.int64], score: Vectors, *, is_asked: bool
) -> pa.Table:
    """Return what was predicted of one attribute as rows of VALUE_SCHEMA.

    Args:
        names: of the attribute's values.
        values: [B] positions in `names`, ABSENT or UNKNOWN.
        score: [B] float32; read where there is a value.
        is_asked: whether the model tells who has the attribute. Where it does not, a picture that looks like
            none that was learned from lacks the attribute, and of all others nothing is known.
    """
    has_value = values >= 0
    is_known = (values == ABSENT) | (has_value & is_asked)
    chosen = [names[value] if value >= 0 else None for value in values.tolist()]
    return pa.table(
        [
            pa.array(chosen, pa.string()),
            pa.array(score, pa.float32(), mask=~has_value),
            pa.array(has_value, pa.bool_(), mask=~is_known),
        ],
        schema=VALUE_SCHEMA,
    )


@contextmanager
def with_prototypes(folder: Path, dataset: Dataset, run: Run) -> Iterator[Path]:
    """Give a trained model's folder with prototypes of the training pictures for the time of a `with`.

    Args:
        folder: the model as it was trained; stays as it is, and is given itself where no picture has values,
            as with listed triplets.
        dataset: whose training pictures, at most MAX_PICTURES of them, are embedded by Ray tasks.
        run: told the progress, and what could not be read.
    """
    loaded = load_model(folder)
    name = loaded.digest[:DIGEST_LETTERS]
    check_model(name, loaded.preprocess, dataset.packed_side, f"dataset {dataset.name}")
    prototypes = _fit(loaded, dataset, run)
    if prototypes is None:
        run.say("  no training picture is labelled with values, so the model cannot name any")
        yield folder
        return
    extra = json.loads((folder / CONFIG).read_text())["extra"]
    with working_folder() as complete:
        save_model(*loaded[:3], complete, prototypes=prototypes, extra=extra)
        yield complete


def training_labels(dataset: Dataset, taxonomy: Taxonomy) -> dict[str, Labels]:
    """Return the labels of training pictures by sha256, sorted."""
    found = {
        sha256: labels
        for sha256, uses in dataset.described.items()
        if (labels := taught_labels(uses, taxonomy, Counter()))
    }
    return dict(sorted(found.items()))


def choose_pictures(labels: Mapping[str, Labels], limit: int = MAX_PICTURES) -> tuple[str, ...]:
    """Return the pictures to fit prototypes to, sorted: a rare value keeps its pictures.

    The values take turns until each has PER_VALUE pictures. All others come as they are, in the order of
    their digests, which is no order of theirs: the probes' thresholds count on how common an attribute is.

    Args:
        labels: by sha256, sorted.
        limit: most pictures.
    """
    of_value: dict[tuple[int, int], list[str]] = {}
    for sha256, found in labels.items():
        for attribute, values in found.items():
            for value in set(values):
                of_value.setdefault((attribute, value), []).append(sha256)
    turns = zip_longest(*(of_value[value][:PER_VALUE] for value in sorted(of_value)))
    in_turn = [sha256 for turn in turns for sha256 in turn if sha256 is not None]
    return tuple(sorted(list(dict.fromkeys([*in_turn, *labels]))[:limit]))


def embed_training(
    loaded: LoadedModel, url: str, wanted: Positions, pictures: tuple[str, ...]
) -> tuple[Positions, Vectors, Counter[str]]:
    """Embed pictures of a tar, in a Ray task.

    Args:
        loaded: the model.
        url: the tar.
        wanted: positions in `pictures` of those that are read from this tar.
        pictures: sha256.

    Returns:
        Their positions [N] in `pictures`, vectors [N, A, D], and by kind what could not be read.
    """
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # In float32 everywhere: a model's id must not depend on what the node multiplies natively.
    embedder = PictureEmbedder(loaded.model.to(device), loaded.preprocess, torch.float32)
    unreadable: Counter[str] = Counter()
    positions: list[int] = []
    vectors = [embedder.nothing()]
    read = read_held_out(url, pictures, wanted, loaded.preprocess, unreadable)
    for batch, pixels in in_batches(read, BATCH):
        positions += batch
        vectors.append(embedder.embed(pixels))
    return np.array(positions, np.int64), np.concatenate(vectors), unreadable


def _fit(loaded: LoadedModel, dataset: Dataset, run: Run) -> Prototypes | None:
    labels = training_labels(dataset, loaded.taxonomy)
    pictures = choose_pictures(labels)
    shape = (len(pictures), len(loaded.taxonomy), loaded.model.config.embedding_dim)
    vectors, is_read = np.zeros(shape, np.float32), np.zeros(len(pictures), bool)
    unreadable: Counter[str] = Counter()
    for positions, rows, bad in _embed_shards(loaded, by_tar(dataset, pictures), pictures, run):
        vectors[positions], is_read[positions] = rows, True
        unreadable += bad
    if unreadable:
        counted = ", ".join(f"{count} {kind}" for kind, count in unreadable.most_common())
        run.say(f"  training pictures that cannot be read, left out of the prototypes: {counted}")
    shown = torch.zeros(*shape[:2], most_values(loaded.taxonomy), dtype=torch.bool)
    for row, sha256 in enumerate(pictures):
        for attribute, values in labels[sha256].items():
            shown[row, attribute, values] = True
    if not is_read.any():
        return None
    kept = torch.from_numpy(is_read)
    prototypes = fit(torch.from_numpy(vectors)[kept], shown[kept], loaded.taxonomy)
    if lacking := without_prototype(labels, prototypes, loaded.taxonomy):
        more = ", …" if len(lacking) > SHOWN_VALUES else ""
        run.say(
            f"  {len(lacking)} labelled values have no prototype, so the model cannot name them: "
            f"{', '.join(lacking[:SHOWN_VALUES])}{more}"
        )
    return prototypes


def without_prototype(labels: Mapping[str, Labels], prototypes: Prototypes, taxonomy: Taxonomy) -> list[str]:
    """Return the values that training pictures show and prototypes do not know, as attribute=value."""
    values_of = [attribute.values for attribute in taxonomy]
    shown = {
        (attribute, value)
        for found in labels.values()
        for attribute, values in found.items()
        for value in values
        if values_of[attribute][value] != INVISIBLE and not bool(prototypes.known[attribute, value])
    }
    return [f"{taxonomy.names[a]}={values_of[a][v]}" for a, v in sorted(shown)]


def _embed_shards(
    loaded: LoadedModel, tars: Mapping[str, Positions], pictures: tuple[str, ...], run: Run
) -> Iterator[tuple[Positions, Vectors, Counter[str]]]:
    task: Any = ray.remote(embed_training).options(
        num_gpus=GPU_SHARE if num_gpus() else 0,
        max_retries=TASK_RETRIES,
        retry_exceptions=[StorageUnavailable],
    )
    model, shared = ray.put(loaded), ray.put(pictures)

    def submit(url: str) -> list[Ref]:
        return [task.remote(model, url, tars[url], shared)]

    with run.stage("prototypes", len(tars), "shards") as stage:
        for _, (ref,) in run_tasks(submit, tars, 2 * num_cpus()):
            yield result_of(ref)
            stage.advance(1)
