"""Inverted lists: trained once for an attribute, shared by all of its FAISS files.

A trained and empty index is a template: a group of parts is added to a copy of it, so a night's few rows cost
no training and fall into the lists of all the others.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from pipelines.lake import Lake, index_file, short_digest, working_folder
from pipelines.parts import read_embeddings
from pipelines.scheduling import Receipt, Unit
from pipelines.storage.objects import FileEntry, store_file
from pipelines.storage.snapshots import Part, Template

ROWS_PER_LIST = 64  # training needs some 40 vectors per list; more changes nothing
NEIGHBOURS = 10
PROBED_QUERIES = 256
MIN_TRAINED_RECALL = 0.98  # above the gate's bound, which is measured on other rows


@dataclass(frozen=True, slots=True)
class TemplatePlan:
    """What the inverted lists of one attribute are trained on."""

    model: str
    attribute: str
    kind: str
    files: tuple[FileEntry, ...]
    """The attribute's file of every part that is read."""


def plan_template(model: str, attribute: str, parts: Sequence[Part], kind: str) -> Unit:
    """Return the unit that trains an attribute's lists, on as many whole parts as the lists need.

    Args:
        model: model id.
        attribute: whose.
        parts: all parts of the catalog.
        kind: as `choose_kind` gives it.
    """
    wanted, chosen, num_rows = num_lists(kind) * ROWS_PER_LIST, [], 0
    # By the digest of their names: parts in the order of their keys would train on one season.
    for part in sorted(parts, key=lambda part: short_digest(part.name)):
        if num_rows < wanted:
            chosen.append(part)
            num_rows += part.num_rows
    return Unit(
        stage=f"indexes/{model}/templates",
        name=f"template-{short_digest([model, attribute, kind, [part.name for part in chosen]])}",
        payload=TemplatePlan(model, attribute, kind, tuple(part.files[attribute] for part in chosen)),
        num_images=num_rows,
    )


def train_template(lake: Lake, unit: Unit) -> Receipt:
    """Train the empty index of a unit whose payload is a `TemplatePlan`.

    Raises:
        CorruptShard: if a part's file is not what its entry says.
    """
    plan: TemplatePlan = unit.payload
    started = time.perf_counter()
    blocks = []
    for entry in plan.files:
        with lake.checked(entry) as path:
            blocks.append(read_embeddings(path)[1])
    vectors = np.concatenate(blocks)
    read = time.perf_counter()
    index = trained_index(vectors, plan.kind)
    with working_folder() as folder:
        path = folder / "template.faiss"
        faiss.write_index(index, str(path))
        entry = store_file(lake.store, path, index_file(plan.model, plan.attribute, unit.name), 0)
    seconds = {"read": read - started, "index": time.perf_counter() - read}
    return Receipt(unit=unit.name, files=(entry,), seconds=seconds)


def template_of(kind: str, num_rows: int, made: Mapping[str, Receipt]) -> Template:
    """Return what a manifest says about trained lists, from each attribute's receipt.

    Their imbalance is not known before groups are built with them.
    """
    return Template(
        name=f"template-{short_digest(sorted(receipt.unit for receipt in made.values()))}",
        kind=kind,
        num_rows=num_rows,
        files={attribute: receipt.files[0] for attribute, receipt in made.items()},
    )


def trained_index(vectors: np.ndarray, kind: str) -> faiss.Index:
    """Train an empty index of inner products on unit vectors [N, D] float32.

    A search looks into as many lists as it needs to find MIN_TRAINED_RECALL of a sample's exact neighbours.
    """
    rng = np.random.default_rng(0)
    sample = vectors[np.sort(rng.permutation(len(vectors))[: num_lists(kind) * ROWS_PER_LIST])]
    index: Any = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    # float16 holds a vector without loss, but not its difference to a centre.
    index.by_residual = False
    index.train(sample)
    index.add(sample)
    index.nprobe = _lists_to_probe(index, sample)
    index.reset()
    trained: faiss.Index = index
    return trained


def _lists_to_probe(index: Any, vectors: np.ndarray) -> int:
    queries = vectors[:: max(1, len(vectors) // PROBED_QUERIES)]
    exact = np.partition(queries @ vectors.T, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
    nprobe = 1
    while nprobe < index.nlist:
        index.nprobe = nprobe
        scores, _ = index.search(queries, NEIGHBOURS)
        if (scores >= exact[:, None] - 1e-6).mean() >= MIN_TRAINED_RECALL:
            break
        nprobe *= 2
    return int(min(nprobe, index.nlist))


def imbalance_of(index: faiss.Index) -> float:
    """Return how unequally an index's rows fall into its lists: 1 is equally; 0 for exact search.

    FAISS' imbalance factor, lists x sum of squared shares, as it would be of a large index: a night's few
    rows in thousands of lists would look unequal by their number alone.
    """
    num_rows = index.ntotal
    if not isinstance(index, faiss.IndexIVF) or num_rows < 2:
        return 0.0
    lists: Any = index.invlists
    lengths = np.array([lists.list_size(number) for number in range(index.nlist)], float)
    return float(index.nlist * (lengths * (lengths - 1)).sum() / (num_rows * (num_rows - 1)))


def num_lists(kind: str) -> int:
    """Return the inverted lists of a kind."""
    return int(kind.removeprefix("IVF").partition(",")[0])
