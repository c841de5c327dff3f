"""Add an attribute to a model of the lake: its rows are learned, all else stays what it is.

Ray tasks run the trunk once over the labelled pictures and keep what every attribute looks at; the rows are
learned from that in the driver, in seconds. The result is published only where it is the model with an
attribute added, tensor by tensor.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from agman.checkpoint import LoadedModel, load_model, save_model
from agman.embedder import Embedder
from agman.errors import CheckpointMismatch, InvalidInput
from agman.extension import extend, extend_prototypes, extend_taxonomy, why_no_extension
from agman.fitting import fit
from agman.model import AGMAN
from agman.prototypes import Prototypes, most_values
from agman.rows import Learned, Rows, RowsConfig, learn_rows, set_rows
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import normalise
from pipelines.cluster import num_cpus, num_gpus
from pipelines.dataset import Dataset
from pipelines.errors import StorageUnavailable
from pipelines.held_out import (
    HeldOut,
    Positions,
    by_tar,
    first_pictures,
    in_batches,
    read_held_out,
    select_held_out,
)
from pipelines.labels import Labels
from pipelines.lake import DIGEST_LETTERS, Lake, working_folder
from pipelines.models import fetch_model, publish_model
from pipelines.packed import check_model
from pipelines.scheduling import TASK_RETRIES, Ref, result_of, run_tasks
from pipelines.scoring import MAP, MODEL, score_attribute
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run
from pipelines.values import GPU_SHARE, choose_pictures, training_labels
from pipelines.vectors import BATCH


@dataclass(frozen=True, kw_only=True, slots=True)
class AddConfig:
    """One attribute to add."""

    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    source: str = ""
    """Labelled pictures, as for training; those of role train that carry the attribute teach it."""
    dataset: str = "catalog"
    """Folder below shards/."""
    model: str = ""
    """Model to extend: its id, the beginning of it, or a folder; empty: the published snapshot's or the only
    one."""
    values: tuple[str, ...] = ()
    """The attribute's values in order; empty: those of the data set's or FashionAI's attribute of that name,
    else those that its labels show."""
    max_pictures: int = 4_000
    """Most labelled pictures that teach; each takes 2 x D x (image_size / 16)² bytes, 200 kB at 224."""
    max_validation: int = 1_000
    """Most pictures of role valid that choose among the steps, of the same size."""
    rows: RowsConfig = field(default_factory=RowsConfig)
    """How the rows are learned."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How pictures become tars."""

    def __post_init__(self) -> None:
        """Refuse to learn from nothing."""
        if self.max_pictures < 2 or self.max_validation < 0:
            raise ValueError(
                f"max_pictures and max_validation: expected at least 2 and 0, found {self.max_pictures} and "
                f"{self.max_validation}"
            )


@dataclass(frozen=True, slots=True)
class Added:
    """What came of it."""

    model: str
    """Id in the lake's models/."""
    parent: str
    attribute: Attribute
    step: int
    """Of the rows that were kept."""
    validation: float
    """MAP under the attribute, of these rows; 0 where no picture of role valid carries it."""
    num_pictures: int
    """That taught."""
    num_validated: int
    seconds: dict[str, float]
    """By what it went to: trunk, rows."""


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


def add_attribute(config: AddConfig, model: str, name: str, dataset: Dataset, run: Run) -> Added:
    """Learn an attribute on a model that stays, and publish both as a model of the lake.

    Args:
        config: see `AddConfig`.
        model: full id of the model to extend.
        name: of the attribute.
        dataset: labelled pictures.
        run: told the progress.

    Raises:
        InvalidInput: if the model has the attribute or cannot have more, or nothing teaches it.
    """
    lake = Lake(config.lake)
    with fetch_model(lake, model) as folder:
        old = load_model(folder)
    check_model(model, old.preprocess, dataset.packed_side, f"dataset {dataset.name}")
    attribute = choose_attribute(name, config.values, dataset)
    network, taxonomy = extend(old.model), extend_taxonomy(old.taxonomy, attribute)
    labels = training_labels(dataset, taxonomy)
    pictures = _teaching(labels, len(old.taxonomy), config, attribute)
    held_out = first_pictures(
        select_held_out(dataset, Taxonomy((attribute,)), "valid"), config.max_validation
    )
    started = time.perf_counter()
    seen = _see(old, dataset, pictures, "see training pictures", run)
    judging = _see(old, dataset, held_out.pictures, "see validation pictures", run)
    seeing = time.perf_counter()
    shown = _shown(labels, [pictures[position] for position in seen.positions], taxonomy)
    with run.stage("learn rows", config.rows.steps, "steps") as stage:
        task = ray.remote(learn)
        learned, prototypes = result_of(
            task.remote(old, seen, shown, held_out, judging, taxonomy, config.rows)
        )
        stage.advance(config.rows.steps)
    set_rows(network, len(old.taxonomy), learned.rows)
    seconds = {"trunk": seeing - started, "rows": time.perf_counter() - seeing}
    extra = {"extends": model, "added": attribute.name, "step": learned.step, "rows": asdict(config.rows)}
    new = _publish(lake, old, LoadedModel(network, taxonomy, old.preprocess, "", prototypes), extra)
    return Added(
        new, model, attribute, learned.step, learned.score, len(shown), len(judging.positions), seconds
    )


def choose_attribute(name: str, values: tuple[str, ...], dataset: Dataset) -> Attribute:
    """Return the attribute with its values: as they are given, known by name, or as labels show them.

    Raises:
        InvalidInput: if nothing tells its values.
    """
    if values:
        return Attribute(name, values)
    for taxonomy in (dataset.taxonomy, FASHIONAI):
        if taxonomy is not None and name in taxonomy.names:
            return taxonomy.attributes[taxonomy.index(name)]
    uses = [use for described in dataset.described.values() for use in described]
    found = sorted({value for use in uses for value in use.labels.get(name, ())})
    if not found:
        known = sorted({attribute for use in uses for attribute in use.labels})
        raise InvalidInput(
            f"attribute {name!r}: expected labels of it in dataset {dataset.name}, found labels of "
            f"{', '.join(known) or 'nothing'}; name one of these, or give a source that is labelled with it"
        )
    return Attribute(name, tuple(found))


def _teaching(
    labels: Mapping[str, Labels], index: int, config: AddConfig, attribute: Attribute
) -> tuple[str, ...]:
    """Choose the pictures that teach, sorted: those with the attribute, then those that may lack it.

    Raises:
        InvalidInput: if no picture is labelled with the attribute.
    """
    taught = {sha256: found for sha256, found in labels.items() if index in found}
    if not taught:
        raise InvalidInput(
            f"source {config.source}: expected pictures of role train labelled with {attribute.name} "
            f"({', '.join(attribute.values)}), found none among {len(labels)} labelled ones"
        )
    alone = {sha256: {index: found[index]} for sha256, found in taught.items()}
    first = choose_pictures(alone, config.max_pictures)
    others = [sha256 for sha256 in labels if sha256 not in taught]
    return tuple(sorted([*first, *others][: config.max_pictures]))


def _shown(labels: Mapping[str, Labels], pictures: list[str], taxonomy: Taxonomy) -> Tensor:
    """Return what pictures show: [N, A, V] bool."""
    shown = torch.zeros(len(pictures), len(taxonomy), most_values(taxonomy), dtype=torch.bool)
    for row, sha256 in enumerate(pictures):
        for attribute, values in labels[sha256].items():
            shown[row, attribute, values] = True
    return shown


def learn(
    old: LoadedModel,
    seen: Seen,
    shown: Tensor,
    held_out: HeldOut,
    judging: Seen,
    taxonomy: Taxonomy,
    config: RowsConfig,
) -> tuple[Learned, Prototypes]:
    """Learn the rows and what they say in words, in a Ray task.

    Args:
        old: the model.
        seen: N labelled pictures.
        shown: [N, A, V] bool, what they show, the new attribute last.
        held_out: who is compared with whom under the new attribute alone.
        judging: pictures of `held_out`, which choose among the steps; without any the last one is kept.
        taxonomy: the A attributes.
        config: see `RowsConfig`.
    """
    # One thread: on a busy machine several wait for each other, and an id must not depend on their number.
    torch.set_num_threads(1)
    network = old.model
    assert isinstance(network, AGMAN)

    def judge(rows: Rows) -> float:
        vectors = {MODEL: rows.embed_all(network, judging.features)}
        row = score_attribute(held_out, 0, judging.positions, vectors)
        return float(row[MAP]) if row else 0.0

    can_judge = bool(held_out.lists) and len(judging.positions) > 0
    values = shown[:, -1, : len(taxonomy.attributes[-1].values)]
    learned = learn_rows(network, seen.features, values, config, judge if can_judge else None)
    added = learned.rows.embed_all(network, seen.features).unsqueeze(1)
    fitted = fit(torch.cat([seen.vectors, added], dim=1), shown, taxonomy)
    return learned, extend_prototypes(old.prototypes, fitted, old.taxonomy, network.config.embedding_dim)


def _publish(lake: Lake, old: LoadedModel, new: LoadedModel, extra: Mapping[str, Any]) -> str:
    """Publish what is, once written and read again, the old model with an attribute added.

    Raises:
        CheckpointMismatch: if it is not, which is a fault of this code.
    """
    with working_folder() as folder:
        save_model(*new[:3], folder, prototypes=new.prototypes, extra=extra)
        written = load_model(folder)
        if why := why_no_extension(written, old):
            raise CheckpointMismatch(
                f"model {written.digest[:DIGEST_LETTERS]}: expected {old.digest[:DIGEST_LETTERS]} with an "
                f"attribute added, but {why}; nothing was published"
            )
        publish_model(lake, folder, written.digest[:DIGEST_LETTERS])
    return written.digest[:DIGEST_LETTERS]


def _see(old: LoadedModel, dataset: Dataset, pictures: tuple[str, ...], stage: str, run: Run) -> Seen:
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
