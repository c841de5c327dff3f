"""Alerts and dashboard: PromQL that parses, about figures that exist, with tags that they have."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from pipelines.metrics import METRICS, Metric

PROMTOOL = shutil.which("promtool")
INFRA = Path(__file__).parents[3] / "infra"
OURS = {metric.exported: metric for metric in METRICS}
RAYS = {
    "ray_node_disk_free": "objects spill to the disk, and a full one stops the work",
    "ray_node_disk_usage": "the same",
    "ray_node_cpu_utilization": "whether the nodes that are paid for work",
    "ray_node_gpus_utilization": "the same",
    "ray_cluster_active_nodes": "what is paid for",
    "ray_cluster_pending_nodes": "whether work waits for nodes",
}
"""Ray's own figures that we look at, and why."""
OTHERS = {"kube_job_status_failed": "of kube-state-metrics: the clean-up runs outside Ray"}
DURATION = re.compile(r"([0-9]+(ms|[smhdwy]))+")
RULE = {"alert", "expr", "for", "labels", "annotations"}


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for group in yaml.safe_load((INFRA / "prometheus" / "rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    return json.loads((INFRA / "grafana" / "dashboard.json").read_text())["panels"]


def expressions() -> Iterator[Any]:
    for rule in rules():
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in panels():
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"panel {panel['title']} {target['refId']}")


def selectors(expression: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in dir(expression):
        value = getattr(expression, name) if not name.startswith("_") else None
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, promql_parser.Expr):
                yield from selectors(each)


def unknown(text: str) -> list[str]:
    """Return what an expression asks for that nobody exports: metrics, and tags of ours."""
    found = []
    for selector in selectors(promql_parser.parse(text)):
        metric: Metric | None = OURS.get(selector.name)
        if metric is None:
            found += [] if selector.name in {**RAYS, **OTHERS} else [selector.name]
        else:
            asked = {matcher.name for matcher in selector.matchers.matchers}
            found += [f"{selector.name}{{{tag}}}" for tag in asked - set(metric.tags)]
    return found


@pytest.mark.parametrize("text", list(expressions()))
def test_an_expression_asks_for_what_is_exported(text: str) -> None:
    assert list(selectors(promql_parser.parse(text)))
    assert unknown(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rate(ray_agman_images[5m]) > 1", ["ray_agman_images"]),  # a counter, which ends in _total
        ('ray_agman_runs_total{stage="x"}', ["ray_agman_runs_total{stage}"]),
        ('ray_agman_runs_total{job="nightly"}', ["ray_agman_runs_total{job}"]),  # Prometheus' own label
    ],
)
def test_a_wrong_name_would_be_found(text: str, found: list[str]) -> None:
    assert unknown(text) == found


@pytest.mark.parametrize(
    "text", ["sum(rate(ray_x_total[5m])", "rate(ray_x_total)", "increse(ray_x_total[1h])"]
)
def test_a_broken_expression_would_be_found(text: str) -> None:
    with pytest.raises(ValueError, match=r"parenthes|expected type|unknown function"):
        promql_parser.parse(text)


def test_what_we_look_at_of_ray_is_there() -> None:
    assert {name.removeprefix("ray_") for name in RAYS} <= set(METRICS_GAUGES)


def test_every_figure_of_ours_is_looked_at() -> None:
    looked_at = {
        selector.name
        for parameters in expressions()
        for selector in selectors(promql_parser.parse(parameters.values[0]))
    }
    assert set(OURS) <= looked_at


def test_rules_have_the_form_that_prometheus_takes() -> None:
    written = yaml.safe_load((INFRA / "prometheus" / "rules.yaml").read_text())
    assert set(written) == {"groups"}
    assert all(set(group) == {"name", "rules"} for group in written["groups"])
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert set(rule) <= RULE
        assert DURATION.fullmatch(rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        for text in rule["annotations"].values():
            assert text.count("{{") == text.count("}}")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: PromQL is parsed by a library alone")
def test_alerts_are_raised_when_they_should_and_not_else() -> None:
    found = subprocess.run(
        [str(PROMTOOL), "test", "rules", "rules_test.yaml"],
        cwd=INFRA / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_panels_stand_side_by_side() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for one, other in combinations([panel["gridPos"] for panel in panels()], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels())


def test_the_dashboard_is_bound_to_no_data_source_of_ours() -> None:
    written = json.loads((INFRA / "grafana" / "dashboard.json").read_text())
    (variable,) = written["templating"]["list"]
    for panel in panels():
        for bound in (panel, *panel["targets"]):
            assert bound["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
