"""Figures of the nights before, which each report carries on from the one of its parent.

So a night reads one small file of the past, not a manifest of every snapshot.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import CorruptShard, StorageUnavailable
from pipelines.lake import Lake
from pipelines.models import read_metrics
from pipelines.morning.judged import by_attribute
from pipelines.morning.newest import moved
from pipelines.storage.snapshots import Manifest

KEPT = 30
"""Nights that a report tells of."""


def parent_report(lake: Lake, parent: Manifest | None) -> dict[str, Any]:
    """Return the report of a snapshot; empty where there is none that can be read.

    Tonight is judged by gates, not by reports: a damaged one costs the past its figures, and no night.
    """
    entry = parent.files.get("report.json") if parent else None
    if entry is None:
        return {}
    try:
        with lake.checked(entry) as path:
            found: dict[str, Any] = json.loads(path.read_bytes())
    except (CorruptShard, StorageUnavailable, FileNotFoundError, ValueError):
        return {}
    return found


def figures_of(
    manifest: Manifest, seconds: float, counted: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what later nights are told of one.

    Args:
        manifest: of its snapshot.
        seconds: that it took.
        counted: its values, as `newest.count_values` gives them.
        before: those of its parent.
    """
    found = {attribute: moved(counted[attribute], before.get(attribute) or {}) for attribute in counted}
    return {
        "snapshot": manifest.id,
        "night": manifest.night,
        "created": manifest.created,
        "model": manifest.model,
        "seconds": seconds,
        "counts": {
            name: manifest.counts.get(name) for name in ("input", "embedded", "quarantined", "deleted")
        },
        "recall": by_attribute(manifest.gates, "recall@10"),
        "probe": by_attribute(manifest.gates, "probe cosine"),
        "overlap": by_attribute(manifest.gates, "model overlap@10"),
        "moved": {attribute: value for attribute, value in found.items() if value is not None},
    }


def nights_of(tonight: Mapping[str, Any], before: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the figures of the last nights, tonight's last; `before` is the parent's report."""
    past: Sequence[Mapping[str, Any]] = before.get("nights") or ()
    return [*past[1 - KEPT :], tonight]


def last_model(manifest: Manifest, parent: Manifest | None, before: Mapping[str, Any]) -> str | None:
    """Return the model that served before a snapshot's; None where that is not known."""
    if parent is None or parent.model == manifest.model:
        return before.get("last_model")
    return parent.model


def last_evaluation(
    lake: Lake, model: str | None, evaluation: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return how the last model was judged on the same pictures; None where it was not."""
    if not model or not evaluation:
        return None
    found = read_metrics(lake, model, str(evaluation.get("dataset", "")))
    same = found and all(found.get(name) == evaluation.get(name) for name in ("dataset", "split", "measure"))
    return found if same else None
