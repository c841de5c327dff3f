"""Add an attribute to a model of the lake: its rows are learned, all else stays what it is.

Ray tasks run the trunk once over the labelled pictures and keep what every attribute looks at; the rows are
learned from that by one more. The result is published only where it is the model with an
attribute added, tensor by tensor.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
import torch
from torch import Tensor

from agman.checkpoint import LoadedModel, load_model, save_model
from agman.errors import CheckpointMismatch, InvalidInput
from agman.extension import extend, extend_prototypes, extend_taxonomy, why_no_extension
from agman.fitting import fit
from agman.model import AGMAN
from agman.prototypes import Prototypes, most_values
from agman.rows import Learned, Rows, RowsConfig, learn_rows, set_rows
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from pipelines.dataset import Dataset
from pipelines.held_out import (
    HeldOut,
    first_pictures,
    select_held_out,
)
from pipelines.labels import Labels
from pipelines.lake import DIGEST_LETTERS, Lake, working_folder
from pipelines.models import fetch_model, publish_model
from pipelines.packed import check_model
from pipelines.scheduling import result_of
from pipelines.scoring import MAP, MODEL, score_attribute
from pipelines.seeing import Seen, see
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run
from pipelines.values import choose_pictures, training_labels


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
    seen = see(old, dataset, pictures, "see training pictures", run)
    judging = see(old, dataset, held_out.pictures, "see validation pictures", run)
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
