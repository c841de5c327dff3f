"""Train a model from shards, and publish the best checkpoint in the lake."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ray

from agman.errors import InvalidInput
from agman.networks import build_network
from agman.taxonomy import FASHIONAI, Taxonomy
from pipelines.cluster import is_remote, num_cpus, num_gpus
from pipelines.dataset import Dataset
from pipelines.lake import Lake, short_digest
from pipelines.models import import_model
from pipelines.telemetry import Run, Stage
from pipelines.training.board import open_board, watching
from pipelines.training.config import TrainConfig
from pipelines.training.curves import VALIDATION, Curves
from pipelines.training.fit import asked_for, fit, ray_trainer
from pipelines.training.listed import check_listed_fit
from pipelines.training.pictures import TrainingPictures, training_pictures
from pipelines.training.placement import Machines, Placement, place
from pipelines.training.worker import MODEL_FOLDER, WorkerTask
from pipelines.validation import load_validation
from pipelines.values import with_prototypes

VALIDATION_PICTURES = 4_000
_NOT_THE_RUN = ("lake", "steps", "max_minutes", "patience", "min_workers")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gave."""

    model: str
    """Id in the lake's models/."""
    step: int
    """Of the checkpoint that was kept."""
    validation: float
    """Query-weighted, of the checkpoint that was kept; the share of right triplets where those are listed."""
    num_validated: int
    """Pictures that judged it, at most `VALIDATION_PICTURES`."""


def train(config: TrainConfig, dataset: Dataset, taxonomy: Taxonomy, run: Run) -> Trained:
    """Train, and publish the checkpoint with the best validation MAP as a model of the lake.

    Args:
        config: see `TrainConfig`.
        dataset: tars with roles and labels.
        taxonomy: attributes and values to learn.
        run: told the progress.

    Raises:
        InvalidInput: if there is nothing to learn from.
        AgmanError: what a worker refused.
    """
    config = as_packed(config, dataset)
    lake = Lake(config.lake)
    pictures = _pictures(config, dataset, taxonomy, run)
    placement = _placed(config, run)
    _check_listed(config, dataset, taxonomy)
    _check_network(config, taxonomy)
    validation = load_validation(dataset, taxonomy, config.preprocess, limit=VALIDATION_PICTURES)
    name = run_name(config, dataset, taxonomy)
    board = open_board()
    task = WorkerTask(
        config=config,
        pictures=ray.put(pictures),
        listed=ray.put(dataset.triplets.get("train")),
        taxonomy=taxonomy,
        validation=ray.put(validation),
        board=board,
        run=name,
        started=time.time(),
    )
    curves = Curves(lake, name)
    asked = asked_for(config, placement)
    with (
        run.stage("train", config.steps, "steps") as stage,
        watching(board, stage, run, curves, asked) as last,
    ):
        result = fit(lambda: ray_trainer(config, lake, task, placement), board)
    _tell_end(config, last, stage, run)
    run.say(f"  curves: tensorboard --logdir {lake.url}/{curves.folder}")
    kept = [(checkpoint, metrics) for checkpoint, metrics in result.best_checkpoints or [] if metrics]
    checkpoint, metrics = max(kept, key=lambda pair: float(pair[1][VALIDATION]))
    with (
        checkpoint.as_directory() as folder,
        with_prototypes(Path(folder) / MODEL_FOLDER, dataset, run) as complete,
    ):
        model = import_model(lake, complete)
    return Trained(model, int(metrics["step"]), float(metrics[VALIDATION]), len(validation.pixels))


def as_packed(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the config of a model that knows how its pictures were packed.

    Raises:
        InvalidInput: if the config says otherwise, or they are too small for the network.
    """
    found = config.preprocess.packed_side
    if found not in (0, dataset.packed_side):
        raise InvalidInput(
            f"--preprocess.packed-side: expected what --shards.resize says, {dataset.packed_side}, found "
            f"{found}; leave it out"
        )
    return replace(config, preprocess=replace(config.preprocess, packed_side=dataset.packed_side))


def read_taxonomy(spec: str) -> Taxonomy | None:
    """Return the taxonomy that a config names, None for `auto`: the data set's own, else FashionAI's.

    Raises:
        InvalidInput: if it is neither `auto`, `fashionai` nor a readable JSON file.
    """
    if spec == "auto":
        return None
    if spec == "fashionai":
        return FASHIONAI
    try:
        return Taxonomy.from_json(json.loads(Path(spec).read_text()))
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"taxonomy {spec}: expected `auto`, `fashionai` or a JSON file, found {error}"
        ) from error


def _pictures(config: TrainConfig, dataset: Dataset, taxonomy: Taxonomy, run: Run) -> TrainingPictures:
    """Return what there is to learn from, and tell which labels are not."""
    pictures = training_pictures(dataset, taxonomy)
    if pictures.unknown:
        shown = ", ".join(f"{name} ({number})" for name, number in pictures.unknown.most_common(5))
        run.say(f"  labels that the taxonomy does not know, left out: {shown}")
    if not len(pictures):
        raise InvalidInput(
            f"source {config.source}: expected usable pictures of role train labelled with "
            f"{', '.join(taxonomy.names)}, found none; do the source's labels use these names?"
        )
    return pictures


def _placed(config: TrainConfig, run: Run) -> Placement:
    """Return which workers there will be, and tell where they are not those that were asked for."""
    placement = place(config, Machines(num_cpus(), num_gpus(), may_grow=is_remote()))
    for text in placement.said:
        run.say(f"  {text}")
    return placement


def _check_listed(config: TrainConfig, dataset: Dataset, taxonomy: Taxonomy) -> None:
    """Refuse settings that listed triplets cannot be learned with, before any worker starts."""
    listed = dataset.triplets.get("train")
    if listed is None:
        return
    check_listed_fit(listed, config.buffer_samples)
    if config.optimisation.sampling != "paper" or config.optimisation.classification:
        raise InvalidInput(
            f"source {config.source} lists triplets and no labels: expected --optimisation.sampling paper "
            f"and --optimisation.no-classification, found {config.optimisation.sampling} sampling "
            f"{'with' if config.optimisation.classification else 'without'} classification"
        )
    if dataset.taxonomy is not None and taxonomy.names != dataset.taxonomy.names:
        raise InvalidInput(
            f"source {config.source} lists triplets of {', '.join(dataset.taxonomy.names)}: expected "
            f"--taxonomy auto, found {config.taxonomy}"
        )


def _check_network(config: TrainConfig, taxonomy: Taxonomy) -> None:
    """Build the network once: a start that is not there or does not fit is one line before workers start."""
    try:
        build_network(config.network, len(taxonomy))
    except OSError as error:
        raise InvalidInput(
            f"network.pretrained {config.network.pretrained}: expected weights, found {error}; on a machine "
            "without internet give the path of a torchvision state dict, or None for a random start"
        ) from error


def _tell_end(config: TrainConfig, last: dict[str, float], stage: Stage, run: Run) -> None:
    """Say why training ended where it did, and what the workers' time went to."""
    if not last:
        run.say("  nothing was left to do: an earlier run with these settings had ended")
        return
    if last["step"] < config.steps:
        is_spent = 0 < config.patience <= last["num_worse"]
        why = f"no improvement in {config.patience} validations" if is_spent else "the time limit"
        run.say(f"  stopped after step {int(last['step'])} of {config.steps}: {why}")
    waited, worked = last["waited_s"], last["worked_s"]
    stage.spent({"read": waited, "model": worked - waited})
    run.say(f"  worker 0 waited for pictures {waited / max(worked, 1e-9):.1%} of {worked:.0f} s of learning")


def run_name(config: TrainConfig, dataset: Dataset, taxonomy: Taxonomy) -> str:
    """Return a training's folder below runs/: another config, other pictures or labels are another one.

    How long it trains, and with how few workers at worst, is left out, so that a run can go on with another
    such setting. Files count by what they hold.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_THE_RUN}
    # Without what a model's own description leaves out: runs of before there was that choice go on.
    described = config.preprocess.to_json()
    settings["preprocess"] = {name: v for name, v in settings["preprocess"].items() if name in described}
    settings["taxonomy"], settings["shards"] = taxonomy.digest, config.shards.naming()
    start = Path(config.network.pretrained or "")
    if start.is_file():
        with start.open("rb") as weights:
            settings["network"]["pretrained"] = hashlib.file_digest(weights, "sha256").hexdigest()
    shards = sorted(url.rsplit("/", 1)[-1] for url in dataset.urls)
    listed = dataset.triplets.get("train")
    triplets = (
        None if listed is None else [listed.pictures, hashlib.sha256(listed.rows.tobytes()).hexdigest()]
    )
    return f"{config.name}-{short_digest([settings, shards, _described_digest(dataset), triplets])[:8]}"


def _described_digest(dataset: Dataset) -> str:
    """Return a digest of all roles and labels, a picture at a time: as one text they take gigabytes."""
    digest = hashlib.sha256()
    for sha256, uses in sorted(dataset.described.items()):
        digest.update(json.dumps([sha256, [[use.role, use.labels] for use in uses]], sort_keys=True).encode())
    return digest.hexdigest()
