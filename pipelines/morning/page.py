"""The morning report as one HTML page: no script and no second file, for light, dark, phone and paper."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from PIL import Image

from pipelines.morning import drawn, judged, written
from pipelines.morning.drawn import Chart, Spark
from pipelines.morning.newest import MAPPED, SHOWN_ROWS, AttributeMap, shares_of
from pipelines.morning.searches import SearchExample
from pipelines.pictures import to_data_uri

TRENDS = {
    "recall": "recall@10 of the index",
    "probe": "cosine of the probe",
    "overlap": "neighbours kept by a new model",
    "moved": "values that changed",
}
"""What a night's figures say of each attribute, and what a person reads above them."""
SHOWN = {"recall": (1.0,), "probe": (1.0,), "overlap": (0.0, 1.0), "moved": (0.0, 0.1)}
"""Values that each trend's line is drawn between, or beyond."""


def render_page(
    report: Mapping[str, Any],
    gallery: Sequence[SearchExample] = (),
    maps: Sequence[AttributeMap] = (),
    broken: Mapping[str, Image.Image] | None = None,
) -> str:
    """Draw the page of a snapshot.

    Args:
        report: what `report.json` holds; a section that is absent or None is said to be so.
        gallery: example searches, may be empty.
        maps: of the newest pictures, an attribute each.
        broken: by sha256, what could be drawn of pictures in quarantine.

    Returns:
        HTML that loads nothing; all text of the report is escaped.
    """
    known = {name: value for name, value in report.items() if value is not None}
    evaluation = known.get("evaluation")
    scores, overall = judged.score_rows(evaluation, known.get("last_evaluation"))
    checks = judged.health(known, overall)
    lines = trends(known)
    titles = {name: title for name, title in TRENDS.items() if any(name in found for found in lines.values())}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=known,
            counts=known.get("counts", {}),
            quarantine=known.get("quarantine", {}),
            timings=known.get("timings", {}),
            verdict=judged.verdict(known, checks),
            checks=checks,
            kinds=judged.fold_gates(known.get("gates", ())),
            learned=training_charts(known.get("training")),
            scores=scores,
            overall=overall,
            has_last=any(row.before is not None for row in scores),
            measure=judged.measure_of(evaluation),
            judged_on=judged.judged_on(evaluation),
            values=(evaluation or {}).get("values") or {},
            scale=judged.scale_of([*scores, *overall]),
            baselines=judged.BASELINES,
            trends=lines,
            trend_titles=titles,
            gallery=gallery,
            maps=maps,
            mapped=MAPPED,
            shown_rows=SHOWN_ROWS,
            shares=value_shares(known),
            broken=broken or {},
            spark_size=drawn.SPARK,
            chart_size=drawn.CHART,
            map_side=drawn.MAP,
        )
    )


def training_charts(training: Mapping[str, Any] | None) -> dict[str, Chart]:
    """Return the charts of a training by what they show, each with a mark at the step that was kept."""
    found = training or {}
    charts = {
        title: drawn.line_chart({name: found.get(name) or ()}, mark=found.get("step"))
        for name, title in (("loss", "loss of the batches"), ("validation", "validation"))
    }
    return {title: chart for title, chart in charts.items() if chart is not None}


def trends(report: Mapping[str, Any]) -> dict[str, dict[str, tuple[Spark, float]]]:
    """Return by attribute and name in TRENDS the nights' line and tonight's figure."""
    nights = report.get("nights") or ()
    bounds = _bounds(report.get("gates") or ())
    tonight = nights[-1] if nights else {}
    attributes = {name: None for trend in TRENDS for name in tonight.get(trend) or {}}
    found: dict[str, dict[str, tuple[Spark, float]]] = {}
    for attribute in attributes:
        for trend in TRENDS:
            values = [(night.get(trend) or {}).get(attribute) for night in nights]
            line = drawn.spark(values, bound=bounds.get(trend), shown=SHOWN[trend])
            if line is not None and values[-1] is not None:
                found.setdefault(attribute, {})[trend] = (line, float(values[-1]))
    return found


def value_shares(report: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Return by attribute each value's share of the newest pictures that have one, largest first."""
    counted = report.get("values") or {}
    return {attribute: written.by_size(shares_of(each or {})) for attribute, each in counted.items()}


def _bounds(gates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the lower bounds that gates hold the trends to."""
    found = {}
    for trend, kind in (("recall", "recall@10"), ("probe", "probe cosine")):
        gate = next((gate for gate in gates if str(gate.get("name")).startswith(f"{kind} ")), {})
        bound = judged.bound_of(gate)
        if bound and bound[0] == ">=":
            found[trend] = bound[1]
    return found


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipelines.morning", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,  # a report of an older version lacks fields and must still be drawn
        finalize=written.shown,
    )
    environment.filters |= {
        "figure": written.figure, "measure": written.measure, "duration": written.duration,
        "size": written.size, "by_size": written.by_size, "picture": to_data_uri,
    }  # fmt: skip
    return environment
