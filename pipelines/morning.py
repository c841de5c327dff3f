"""What a person finds in the morning: the report of a snapshot and a few searches on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agman.checkpoint import LoadedModel, load_model
from agman.embedder import Embedder
from agman.transforms import normalise, read_pixels
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.parts import Shown
from pipelines.pictures import attention_overlay, square_thumbnail
from pipelines.quality import reconciliation
from pipelines.redaction import redacted
from pipelines.report import SearchExample, render_report
from pipelines.search import Hit, Searcher, attributes_had
from pipelines.storage.snapshots import Group, Manifest

EXAMPLES_CONSIDERED = 32
EXAMPLE_HITS = 7
SHOWN_ROWS = 100_000
"""Pictures, the newest, that the report's searches look at: a night does not read all of its index again."""
PICTURE_PIXELS = 128
QUARANTINE_EXAMPLES = 50


def morning_report(
    lake: Lake,
    manifest: Manifest,
    timings: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    damaged: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report of a snapshot as JSON; the page is drawn from it alone, but for the pictures."""
    counts = dict(manifest.counts)
    passed = all(gate["passed"] for gate in manifest.gates)
    holds = counts["input"] == counts["embedded"] + counts["reused"] + counts["quarantined"]
    report = {
        "lake": lake.url,
        "snapshot": manifest.id,
        "parent": manifest.parent,
        "night": manifest.night,
        "created": manifest.created,
        "model": manifest.model,
        "dataset": manifest.dataset,
        "source": manifest.source,
        "status": "published" if passed or manifest.forced else "gate failed",
        "forced": manifest.forced,
        "code": manifest.code,
        "counts": counts,
        "reconciliation": {"line": reconciliation(counts), "holds": holds},
        "gates": manifest.gates,
        "evaluation": dict(evaluation) if evaluation else None,
        "quarantine": _quarantine(lake, manifest),
        "timings": dict(timings),
        "files": _files(manifest),
        "upkeep": list(manifest.upkeep),
        "damaged": list(damaged),
    }
    return dict(redacted(report))


def render_morning(lake: Lake, manifest: Manifest, report: dict[str, Any]) -> str:
    """Return the HTML page of a report with example searches on the snapshot."""
    return render_report(
        {name: value for name, value in report.items() if value is not None}, examples(lake, manifest)
    )


def examples(lake: Lake, manifest: Manifest) -> list[SearchExample]:
    """Search for one product per attribute: a held-out one that has it, where labels or the model tell."""
    if not manifest.groups:
        return []
    shown = replace(manifest, groups=_newest(manifest.groups))
    with Searcher(lake, shown) as searcher, fetch_model(lake, manifest.model) as folder:
        loaded = load_model(folder)
        embedder = Embedder(loaded.model)
        return [
            _example(searcher, loaded, embedder, attribute, _example_row(searcher, attribute))
            for attribute in manifest.attributes
        ]


def _newest(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the newest groups, which stand last, of at least SHOWN_ROWS together, in their order."""
    rows = np.cumsum([group.num_rows for group in reversed(groups)])
    return tuple(groups[-1 - int(np.searchsorted(rows[:-1], SHOWN_ROWS)) :])


def _example_row(searcher: Searcher, attribute: str) -> dict[str, Any]:
    """Return a labelled product, else the first that the model does not say to lack the attribute."""
    rows = searcher.example_rows(attribute, EXAMPLES_CONSIDERED)
    fitting = (
        row
        for row in rows
        if shown_values(row, attribute) or searcher.shown_on(row)[attribute].applies is not False
    )
    return next(fitting, rows[0])


def _example(
    searcher: Searcher, loaded: LoadedModel, embedder: Embedder, attribute: str, row: dict[str, Any]
) -> SearchExample:
    encoded = searcher.picture_of(row)
    pixels = read_pixels(encoded, loaded.preprocess)
    embedded = embedder.embed_with_attention(normalise(pixels[None], loaded.preprocess))
    index = loaded.taxonomy.index(attribute)
    query = {attribute: embedded.embedding[0, index].numpy()}
    shows = searcher.shown_on(row)
    having = attributes_had(shows, [attribute])
    hits = searcher.search(query, {attribute: 1.0}, EXAMPLE_HITS, exclude=[row["sha256"]], having=having)
    picture = square_thumbnail(encoded, PICTURE_PIXELS)
    return SearchExample(
        attribute=attribute,
        query=picture,
        query_caption=caption(row, shows, attribute),
        attention=attention_overlay(picture, np.abs(embedded.attention[0, index].numpy())),
        results=[
            (
                square_thumbnail(searcher.picture_of(hit.row), PICTURE_PIXELS),
                f"{hit.score:.2f} · {caption(hit.row, hit.shows, attribute)}",
                is_relevant(row, hit, attribute),
            )
            for hit in hits
        ],
    )


def caption(row: Mapping[str, Any], shows: Mapping[str, Shown], attribute: str) -> str:
    """Return what labels and the model say of a product's attribute, or its key where both are silent."""
    said = (shown_values(row, attribute), predicted(shows[attribute]))
    return " · ".join(filter(None, said)) or str(row["key"])


def predicted(shown: Shown) -> str:
    """Return what a model says of an attribute, marked as such; empty where it says nothing."""
    said = described(shown)
    return f"predicted {said}" if said else ""


def described(shown: Shown) -> str:
    """Return what a model says of an attribute as people read it; empty where it says nothing."""
    if shown.value is not None:
        return f"{shown.value} {shown.score:.2f}"
    return "does not apply" if shown.applies is False else ""


def shown_values(row: Mapping[str, Any], attribute: str) -> str:
    """Return what a product's labels say of an attribute; empty where they say nothing."""
    return ", ".join(dict(row.get("labels") or {}).get(attribute) or ())


def is_relevant(query: Mapping[str, Any], hit: Hit, attribute: str) -> bool | None:
    """Tell whether a hit shares a value with the query; None where either is not labelled."""
    wanted = set(dict(query.get("labels") or {}).get(attribute) or ())
    found = set(dict(hit.row.get("labels") or {}).get(attribute) or ())
    return bool(wanted & found) if wanted and found else None


def _quarantine(lake: Lake, manifest: Manifest) -> dict[str, Any]:
    with lake.checked(manifest.files["quarantine.parquet"]) as path:
        rows = pq.read_table(path)
    kinds = rows["kind"].value_counts().to_pylist()
    shown = rows.slice(0, QUARANTINE_EXAMPLES).to_pylist()
    return {
        "total": len(rows),
        "by_kind": {item["values"]: item["counts"] for item in kinds},
        "examples": [
            {name: row[name] for name in ("key", "uri", "stage", "kind", "message")} for row in shown
        ],
    }


def _files(manifest: Manifest) -> dict[str, dict[str, int]]:
    entries = {
        "shards": [entry for files in manifest.shards.values() for entry in files],
        "embeddings": [entry for part in manifest.parts for entry in part.files.values()],
        "indexes": [entry for group in manifest.groups for entry in (group.ids, *group.files.values())],
    }
    return {
        name: {
            "files": len(found),
            "bytes": sum(entry.num_bytes for entry in found),
            "rows": sum(entry.num_rows or 0 for entry in found),
        }
        for name, found in entries.items()
    }
