"""Which model the next night embeds with: a candidate beside the serving model, then one swap."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from agman.errors import InvalidInput
from pipelines.cluster import connected
from pipelines.drift import Moved
from pipelines.embedding import EmbedOptions, PartEmbedder
from pipelines.errors import GateFailed, StaleSnapshot
from pipelines.evaluation import Split, evaluate
from pipelines.lake import Lake, model_folder
from pipelines.models import METRICS, is_extension, store_metrics
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.packed import check_model, packed_side
from pipelines.probe import compare_stored, embed_again, published_places
from pipelines.quality import GateOptions
from pipelines.scoring import RANDOM, Row, measure_of, overall
from pipelines.storage.snapshots import Manifest, Pointer, read_pointer, swap_pointer
from pipelines.telemetry import Run

COUNTED = ("num_queries", "num_candidates", "num_triplets")

Scores = Mapping[str, Any]
"""What `evaluate` gives."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The held-out figures of the serving model and of a candidate, under the attributes that both have."""

    measure: str
    """`map` or `triplet_accuracy`."""
    dataset: str
    split: str
    rows: dict[str, tuple[float, float]]
    """By attribute: the serving model's, the candidate's."""
    overall: tuple[float, float]
    """The same over these attributes, in which each query counts alike."""
    added: tuple[str, ...] = ()
    """Of a candidate that is the serving model but for these attributes: the others are the same, so these
    alone are in `overall`, and they stand beside a random ranking."""

    @property
    def loss(self) -> float:
        """How much lower the candidate is than the serving model, over all attributes."""
        return self.overall[0] - self.overall[1]


def load_candidate(lake: Lake, model: str, serving: Manifest, *, allow_new_taxonomy: bool) -> PartEmbedder:
    """Load the model that is to serve.

    Args:
        lake: where.
        model: its full id.
        serving: what is published.
        allow_new_taxonomy: whether it may have other attributes than the serving model.

    Raises:
        InvalidInput: if it serves already, has other attributes that nobody allowed, or learned from
            pictures packed another way.
    """
    if model == serving.model:
        raise InvalidInput(
            f"model {model} is what serves {lake.url} now (snapshot {serving.id}); name another MODEL, or "
            "--cancel takes a promotion back"
        )
    embedder = PartEmbedder(lake, model, EmbedOptions())
    taxonomy = embedder.loaded.taxonomy
    is_other = taxonomy.digest != serving.taxonomy_digest and not allow_new_taxonomy
    if is_other and not added_attributes(embedder, serving):
        raise InvalidInput(
            f"model {model}: its taxonomy ({', '.join(taxonomy.names)}) differs from that of the published "
            f"snapshot {serving.id} ({', '.join(serving.attributes)}); searches for the old attributes would "
            "break; choose another MODEL or add --allow-new-taxonomy"
        )
    check_model(model, embedder.loaded.preprocess, packed_side(serving), f"those of snapshot {serving.id}")
    return embedder


def added_attributes(candidate: PartEmbedder, serving: Manifest) -> tuple[str, ...]:
    """Return what a candidate adds to the serving model; nothing where it is another model, by any tensor."""
    names = candidate.loaded.taxonomy.names
    if set(names) <= set(serving.attributes):
        return ()
    if not is_extension(candidate.lake, candidate.loaded, serving.model):
        return ()
    return tuple(name for name in names if name not in serving.attributes)


def probe_candidate(candidate: PartEmbedder, model: str, serving: Manifest) -> dict[str, Moved]:
    """Embed the probe's pictures with a candidate and compare with what is published, by attribute.

    Raises:
        InvalidInput: if it makes vectors that no search could use.
        CorruptShard: if a file of the snapshot is not what its entry says.
    """
    lake = candidate.lake
    places = published_places(lake, serving, GateOptions().probe_images)
    anew = embed_again(candidate, places, serving.shards)
    moved = compare_stored(lake, anew, places, {part.name: part for part in serving.parts})
    if lost := max((found.num_not_finite for found in moved.values()), default=0):
        raise InvalidInput(
            f"model {model}: expected finite vectors, found others for {lost} of {len(anew.digests)} "
            f"pictures of {lake.url}; the model is broken: train it again"
        )
    return moved


def judge_both(
    lake: Lake, serving: str, candidate: str, night: NightConfig, split: Split, run: Run
) -> Judged:
    """Return the held-out figures of two models: as they are stored, else both are judged now.

    Stored figures count where both models have them and they are of equally many queries and candidates.

    Args:
        lake: where.
        serving: id of the serving model.
        candidate: id of the other.
        night: names the data set, and its source if it may be read.
        split: of the data set.
        run: told the progress.

    Raises:
        InvalidInput: if figures are missing and no source is given, or nothing can be compared.
    """
    models = serving, candidate
    stored = [stored_scores(lake, model, night.dataset, split) for model in models]
    scores = [each for each in stored if each is not None]
    if len(scores) < len(models) or not of_same_pictures(*scores):
        if not night.source:
            lacking = [model for model, found in zip(models, stored, strict=True) if found is None]
            what = f"none of {' and '.join(lacking)}" if lacking else "figures of different pictures"
            raise InvalidInput(
                f"evaluation on {night.dataset}, split {split}: expected stored figures of {serving} and "
                f"{candidate}, found {what}; add --source, the labelled pictures that both are judged by"
            )
        scores = _judge_now(lake, models, night, split, run)
    return beside(*scores)


def judge_added(
    lake: Lake, model: str, added: tuple[str, ...], night: NightConfig, split: Split, run: Run
) -> Judged:
    """Return the held-out figures of attributes that a model adds, beside a random ranking.

    Args:
        lake: where.
        model: id of the candidate; under all other attributes it is the serving model.
        added: the attributes.
        night: names the data set, and its source if it may be read.
        split: of the data set.
        run: told the progress.

    Raises:
        InvalidInput: if there are no figures of one of them and no source is given.
    """
    scores = stored_scores(lake, model, night.dataset, split)
    if scores is None and night.source:
        (scores,) = _judge_now(lake, [model], night, split, run)
    rows: dict[str, Row] = scores["attributes"] if scores else {}
    if scores is None or (lacking := [name for name in added if name not in rows]):
        raise InvalidInput(
            f"evaluation on {night.dataset}, split {split}: expected figures of {model} under "
            f"{', '.join(added)}, found none of {', '.join(lacking) if scores else model}; add --source, the "
            "labelled pictures that it is judged by"
        )
    measure = measure_of(rows[added[0]])
    means = overall({name: rows[name] for name in added}, (RANDOM, measure))["query_weighted"]
    return Judged(
        measure,
        scores["dataset"],
        scores["split"],
        {name: (row[RANDOM if name in added else measure], row[measure]) for name, row in rows.items()},
        (means[RANDOM], means[measure]),
        added,
    )


def stored_scores(lake: Lake, model: str, dataset: str, split: str) -> dict[str, Any] | None:
    """Return a model's stored evaluation on a data set's split, None where there is none."""
    try:
        body = lake.store.read(f"{model_folder(model)}/{METRICS}/{dataset}-{split}.json").body
    except FileNotFoundError:
        return None
    found: dict[str, Any] = json.loads(body)
    return found


def of_same_pictures(one: Scores, other: Scores) -> bool:
    """Tell whether two evaluations are of equally many queries, candidates and triplets."""
    rows: tuple[Mapping[str, Row], Mapping[str, Row]] = (one["attributes"], other["attributes"])
    return all(
        rows[0][name].get(count) == rows[1][name].get(count)
        for name in rows[0].keys() & rows[1].keys()
        for count in COUNTED
    )


def beside(serving: Scores, candidate: Scores) -> Judged:
    """Put two evaluations side by side.

    Raises:
        InvalidInput: if they have no attribute or not the split in common.
    """
    both = [name for name in serving["attributes"] if name in candidate["attributes"]]
    if not both or serving["split"] != candidate["split"]:
        raise InvalidInput(
            f"evaluation on {serving['dataset']}: expected an attribute and a split that both models can be "
            f"judged by, found {', '.join(serving['attributes'])} ({serving['split']}) and "
            f"{', '.join(candidate['attributes'])} ({candidate['split']}); nothing tells which is better; "
            "jobs/nightly.py --model takes a model without a comparison"
        )
    rows = [{name: scores["attributes"][name] for name in both} for scores in (serving, candidate)]
    measure = measure_of(rows[0][both[0]])
    means = [overall(each, (measure,))["query_weighted"][measure] for each in rows]
    return Judged(
        measure,
        serving["dataset"],
        serving["split"],
        {name: (rows[0][name][measure], rows[1][name][measure]) for name in both},
        (means[0], means[1]),
    )


def check_loss(judged: Judged, candidate: str, max_loss: float) -> None:
    """Let a candidate pass or not.

    Raises:
        GateFailed: if it is worse by more than is allowed.
    """
    if judged.loss > max_loss:
        rival = "a random ranking" if judged.added else "the serving model"
        raise GateFailed(
            f"model {candidate}: {judged.measure} {judged.overall[1]:.4f} on the {judged.split} pictures of "
            f"{judged.dataset}, {rival} has {judged.overall[0]:.4f}: lower by {judged.loss:.4f}, "
            f"--max-loss allows {max_loss:g}; nothing was changed; --force --why REASON promotes it still"
        )


def promote(lake: Lake, serving: Manifest, model: str) -> None:
    """Set the model of the next night.

    Args:
        lake: where.
        serving: what the model was compared with.
        model: its full id.

    Raises:
        StaleSnapshot: if another snapshot was published meanwhile; nothing changed.
        CommitUnknown: if the reply was lost and reading back failed as well.
    """
    pointer = read_pointer(lake)
    if pointer is None or pointer.snapshot != serving.id:
        raise StaleSnapshot(
            f"lake {lake.url}: expected snapshot {serving.id} to serve, found "
            f"{pointer.snapshot if pointer else 'none'}: somebody published while the models were compared; "
            "run again"
        )
    _set_next_model(lake, pointer, model)


def cancel(lake: Lake) -> str:
    """Take a promotion back and return its model.

    Raises:
        InvalidInput: if no model is promoted.
        StaleSnapshot: if somebody published meanwhile; nothing changed.
        CommitUnknown: if the reply was lost and reading back failed as well.
    """
    pointer = read_pointer(lake)
    if pointer is None or not pointer.next_model:
        raise InvalidInput(f"lake {lake.url}: no model is promoted for the next night; nothing to cancel")
    _set_next_model(lake, pointer, "")
    return pointer.next_model


def _set_next_model(lake: Lake, pointer: Pointer, model: str) -> None:
    swap_pointer(lake, replace(pointer, next_model=model, commit_uuid=uuid4().hex), pointer.version)


def _judge_now(
    lake: Lake, models: Sequence[str], night: NightConfig, split: Split, run: Run
) -> list[dict[str, Any]]:
    with connected():
        pictures = build_shards(night, run)
        scores = [evaluate(lake, model, pictures, run, split) for model in models]
    for model, found in zip(models, scores, strict=True):
        store_metrics(lake, model, found)
    return scores
