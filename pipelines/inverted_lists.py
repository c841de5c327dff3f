"""Inverted lists: trained once for an attribute, shared by all of its FAISS files.

A trained and empty index is a template: a group of parts is added to a copy of it, so a night's few rows cost
no training and fall into the lists of all the others.

Lists hold float16 vectors (`IVF4000,SQfp16`), which loses nothing, or, where these would take more memory
than a search may have, a byte for eight dimensions of each (`IVF4000,PQ64,Refine(SQfp16)`). Those choose
candidates alone: beside the lists lie the true vectors, of which a search reads the candidates' from disk.
So every score is exact, of either kind.
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
REFINED = 20
"""Candidates of compressed lists for each answer wanted, whose true vectors are looked at."""
DIMS_PER_BYTE = 8
LOSSLESS, COMPRESSED = "SQfp16", "PQ{}x8,Refine(SQfp16)"


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
    lists = lists_of(index)
    if isinstance(index, faiss.IndexRefine):
        index.k_factor = REFINED
    else:
        # float16 holds a vector without loss, but not its difference to a centre.
        lists.by_residual = False
    index.train(sample)
    index.add(sample)
    lists.nprobe = _lists_to_probe(index, sample)
    index.reset()
    trained: faiss.Index = index
    return trained


def lists_of(index: faiss.Index) -> Any:
    """Return the inverted file within an index: itself, but for one whose lists are compressed."""
    return faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index


def kind_of_lists(num_lists: int, dim: int, *, compressed: bool) -> str:
    """Return FAISS' name of an inverted file.

    Args:
        num_lists: its lists.
        dim: of the vectors; not needed where they are not compressed.
        compressed: whether lists hold a byte for eight dimensions.
    """
    held = COMPRESSED.format(max(1, dim // DIMS_PER_BYTE)) if compressed else LOSSLESS
    return f"IVF{num_lists},{held}"


def is_compressed(kind: str) -> bool:
    """Tell whether an index of a kind holds compressed vectors in its lists."""
    return "Refine" in kind


def _lists_to_probe(index: Any, vectors: np.ndarray) -> int:
    own = np.arange(0, len(vectors), max(1, len(vectors) // PROBED_QUERIES))
    queries = vectors[own]
    exact = queries @ vectors.T
    exact[np.arange(len(own)), own] = -1  # a vector always finds itself: that would say nothing of others
    least = np.partition(exact, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS, None]
    lists, nprobe = lists_of(index), 1
    while nprobe < lists.nlist:
        lists.nprobe = nprobe
        scores, rows = index.search(queries, NEIGHBOURS + 1)
        found = ((scores >= least - 1e-6) & (rows != own[:, None])).sum(axis=1)
        if np.minimum(found, NEIGHBOURS).mean() >= MIN_TRAINED_RECALL * NEIGHBOURS:
            break
        nprobe *= 2
    return int(min(nprobe, lists.nlist))


def imbalance_of(index: faiss.Index) -> float:
    """Return how unequally an index's rows fall into its lists: 1 is equally; 0 for exact search.

    FAISS' imbalance factor, lists x sum of squared shares, as it would be of a large index: a night's few
    rows in thousands of lists would look unequal by their number alone.
    """
    num_rows, lists = index.ntotal, lists_of(index)
    if not isinstance(lists, faiss.IndexIVF) or num_rows < 2:
        return 0.0
    lengths = np.array([lists.get_list_size(number) for number in range(lists.nlist)], float)
    return float(lists.nlist * (lengths * (lengths - 1)).sum() / (num_rows * (num_rows - 1)))


def num_lists(kind: str) -> int:
    """Return the inverted lists of a kind."""
    return int(kind.removeprefix("IVF").partition(",")[0])
