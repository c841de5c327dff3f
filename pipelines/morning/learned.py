"""How a model learned: the curves of its training, found by what its config says."""

import json
from typing import Any

from pipelines.lake import Lake, model_folder
from pipelines.morning.drawn import thinned
from pipelines.training.curves import VALIDATION, read_curves

LOSS = "loss"


def learned(lake: Lake, model: str) -> dict[str, Any] | None:
    """Return the curves of the training that made a model, of one with attributes added its first model's.

    Returns:
        {"run", "step": of the checkpoint that was kept, "loss" and "validation": thinned pairs of step and
        value}; None where the training was elsewhere, or its run is gone.
    """
    said = _extra(lake, model)
    while said.get("extends"):
        said = _extra(lake, str(said["extends"]))
    run = str(said.get("run") or "")
    curves = read_curves(lake, run) if run else {}
    if not curves:
        return None
    loss, validation = curves.get(f"train/{LOSS}", ()), curves.get(f"valid/{VALIDATION}", ())
    return {"run": run, "step": said.get("step"), "loss": thinned(loss), "validation": thinned(validation)}


def _extra(lake: Lake, model: str) -> dict[str, Any]:
    """Return what a model's config says for people; nothing where the model is gone."""
    try:
        config = json.loads(lake.store.read(f"{model_folder(model)}/config.json").body)
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = config.get("extra") or {}
    return found
