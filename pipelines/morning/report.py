"""The figures of a snapshot's report, and its page."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.lake import Lake
from pipelines.models import read_metrics
from pipelines.morning import nights
from pipelines.morning.broken import draw_broken
from pipelines.morning.learned import learned
from pipelines.morning.newest import count_values, draw_maps, newest
from pipelines.morning.page import render_page
from pipelines.morning.searches import examples
from pipelines.quality import reconciliation
from pipelines.redaction import redacted
from pipelines.search import Searcher
from pipelines.sources.allowed import Allowed
from pipelines.storage.snapshots import Manifest

QUARANTINE_EXAMPLES = 50


def write_report(
    lake: Lake,
    manifest: Manifest,
    timings: Mapping[str, Any],
    *,
    parent: Manifest | None = None,
    damaged: Sequence[str] = (),
    allowed: Allowed | None = None,
) -> tuple[dict[str, Any], str]:
    """Tell of a snapshot that is whole but for its report.

    Args:
        lake: where.
        manifest: of the snapshot.
        timings: as `telemetry.Run.timings` gives them.
        parent: the snapshot that it stems from.
        damaged: objects of the lake that the night made again.
        allowed: where the source may lead, for a look at what is in quarantine; None: no look.

    Returns:
        What `report.json` holds, and the HTML page: drawn from that alone, but for the pictures.
    """
    with Searcher(lake, newest(manifest)) as searcher:
        counted = count_values(searcher) if searcher.manifest.groups else {}
        report = _report(lake, manifest, timings, parent, damaged, counted)
        broken = draw_broken(report["quarantine"]["examples"], allowed)
        page = render_page(report, examples(searcher), draw_maps(searcher), broken)
    return report, page


def _report(
    lake: Lake,
    manifest: Manifest,
    timings: Mapping[str, Any],
    parent: Manifest | None,
    damaged: Sequence[str],
    counted: Mapping[str, Any],
) -> dict[str, Any]:
    counts = dict(manifest.counts)
    passed = all(gate["passed"] for gate in manifest.gates)
    holds = counts["input"] == counts["embedded"] + counts["reused"] + counts["quarantined"]
    evaluation = read_metrics(lake, manifest.model, manifest.dataset)
    before = nights.parent_report(lake, parent)
    last_model = nights.last_model(manifest, parent, before)
    tonight = nights.figures_of(manifest, timings["seconds"], counted, before.get("values") or {})
    report = {
        "lake": lake.url,
        "snapshot": manifest.id,
        "parent": manifest.parent,
        "night": manifest.night,
        "created": manifest.created,
        "model": manifest.model,
        "last_model": last_model,
        "dataset": manifest.dataset,
        "source": manifest.source,
        "status": "published" if passed or manifest.forced else "gate failed",
        "forced": manifest.forced,
        "code": manifest.code,
        "counts": counts,
        "reconciliation": {"line": reconciliation(counts), "holds": holds},
        "gates": manifest.gates,
        "training": learned(lake, manifest.model),
        "evaluation": evaluation,
        "last_evaluation": nights.last_evaluation(lake, last_model, evaluation),
        "nights": nights.nights_of(tonight, before),
        "values": counted,
        "quarantine": _quarantine(lake, manifest),
        "timings": dict(timings),
        "files": _files(manifest),
        "upkeep": list(manifest.upkeep),
        "damaged": list(damaged),
    }
    return dict(redacted(report))


def _quarantine(lake: Lake, manifest: Manifest) -> dict[str, Any]:
    """Count what is in quarantine, with examples of every kind in turn: a common one hides no other."""
    with lake.checked(manifest.files["quarantine.parquet"]) as path, duckdb.connect() as db:
        rows, file = "read_parquet(?, hive_partitioning=false)", [str(path)]
        kinds = db.execute(f"select kind, count(*) from {rows} group by kind order by kind", file).fetchall()
        found = db.sql(
            f"""select key, uri, stage, kind, message, sha256 from {rows}
            order by row_number() over (partition by kind order by key), kind limit {QUARANTINE_EXAMPLES}""",
            params=file,
        )
        examples: pa.Table = found.to_arrow_table()
    return {
        "total": sum(number for _, number in kinds),
        "by_kind": dict(kinds),
        "examples": examples.to_pylist(),
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
