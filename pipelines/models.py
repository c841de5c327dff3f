"""Models in the lake: publish a trained one, fetch one to a local folder."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agman.checkpoint import LoadedModel, load_model
from agman.errors import CheckpointMismatch, InvalidInput
from agman.extension import why_no_extension
from pipelines.lake import DIGEST_LETTERS, Lake, model_folder, to_json, working_folder
from pipelines.storage.objects import store_file

MODEL_FILES = ("weights.safetensors", "prototypes.safetensors", "config.json")
OPTIONAL_FILES = ("prototypes.safetensors",)  # a model that was not trained here has none
METRICS = "metrics"
OLD_METRICS = "metrics.json"  # of before there was a file for each data set and split


def publish_model(lake: Lake, folder: Path, model: str) -> None:
    """Upload a model's folder under its digest; the same weights are one model."""
    for file in MODEL_FILES:
        if file not in OPTIONAL_FILES or (folder / file).is_file():
            store_file(lake.store, folder / file, f"{model_folder(model)}/{file}")


def store_metrics(lake: Lake, model: str, metrics: dict[str, Any]) -> None:
    """Keep a model's first evaluation on a data set's split; every later one is in its run's report."""
    name = f"{metrics['dataset']}-{metrics['split']}.json"
    lake.store.put_if_absent(f"{model_folder(model)}/{METRICS}/{name}", to_json(metrics))


def import_model(lake: Lake, folder: Path) -> str:
    """Publish a model's folder, such as another lake's, and return its id.

    Raises:
        CheckpointMismatch: if its files do not belong together.
    """
    model = load_model(folder).digest[:DIGEST_LETTERS]
    publish_model(lake, folder, model)
    return model


@contextmanager
def fetch_model(lake: Lake, model: str) -> Iterator[Path]:
    """Give a local folder with a model's files for the time of a `with`.

    Raises:
        InvalidInput: if the lake has no such model.
        CheckpointMismatch: if another one lies under its id.
    """
    model = resolve_model(lake, model)
    with ExitStack() as stack:
        folder = stack.enter_context(working_folder())
        for file in MODEL_FILES:
            name = f"{model_folder(model)}/{file}"
            if file in OPTIONAL_FILES and lake.store.size(name) is None:
                continue
            path = stack.enter_context(lake.store.local_copy(name))
            (folder / file).symlink_to(path)
        _check_identity(lake, folder, model)
        yield folder


def _check_identity(lake: Lake, folder: Path, model: str) -> None:
    """Refuse a model under another one's id; `load_model` compares its files with its digest."""
    try:
        digest = str(json.loads((folder / "config.json").read_text())["digest"])
    except (ValueError, KeyError, TypeError):
        return  # `load_model` says what is wrong with it
    if not digest.startswith(model):
        raise CheckpointMismatch(
            f"{lake.url}/{model_folder(model)}: expected a model of digest {model}…, found "
            f"{digest[:DIGEST_LETTERS]}…: another one was put in its place; bring it back, or train anew"
        )


def is_extension(lake: Lake, loaded: LoadedModel, old: str) -> bool:
    """Tell whether a model is one of the lake with attributes added: what that one embedded stays right.

    Args:
        lake: where.
        loaded: the model.
        old: full id of the other one; where its files are gone, nothing is known and it counts as another.
    """
    try:
        with fetch_model(lake, old) as folder:
            return not why_no_extension(loaded, load_model(folder))
    except (InvalidInput, CheckpointMismatch, FileNotFoundError):
        return False


def resolve_model(lake: Lake, model: str) -> str:
    """Return the full id of a model named by its beginning.

    Raises:
        InvalidInput: if none or several begin so.
    """
    known = list_models(lake)
    matches = [name for name in known if name.startswith(model)]
    if len(matches) == 1:
        return matches[0]
    if not known:
        raise InvalidInput(
            f"lake {lake.url}: expected a model, found none; `python jobs/train.py --help` tells how to "
            "train one, jobs/import_checkpoint.py brings one of the authors' code, and --model takes a folder"
        )
    begins = f"that begins with {model!r}" if model else "to choose from"
    raise InvalidInput(
        f"lake {lake.url}: expected one model {begins}, found {len(matches)}; name one of {', '.join(known)}"
    )


def list_models(lake: Lake) -> list[str]:
    """Return the ids of all models, sorted."""
    names = lake.store.list_names("models")
    return [name.split("/")[1] for name in names if name.endswith("/config.json")]


def read_metrics(lake: Lake, model: str, dataset: str) -> dict[str, Any] | None:
    """Return the stored evaluation of a model that tells most about a data set.

    Args:
        lake: where.
        model: its full id.
        dataset: evaluations on it come before those on others, and the split test before valid.

    Returns:
        What `evaluate` gave; None where the model was never evaluated.
    """
    folder = model_folder(model)
    names = list(lake.store.list_names(f"{folder}/{METRICS}"))
    if lake.store.size(f"{folder}/{OLD_METRICS}") is not None:
        names.append(f"{folder}/{OLD_METRICS}")
    found: list[dict[str, Any]] = [json.loads(lake.store.read(name).body) for name in sorted(names)]
    return min(
        found,
        key=lambda scores: (scores.get("dataset") != dataset, scores.get("split", "test") != "test"),
        default=None,
    )
