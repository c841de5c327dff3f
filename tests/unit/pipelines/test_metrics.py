import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass

import pytest
import ray

from agman.errors import InvalidInput
from pipelines import metrics, telemetry
from pipelines.errors import GateFailed, OutOfTime
from pipelines.lake import Lake


@dataclass(frozen=True)
class Config:
    lake: str = "here"


def test_the_table_holds_every_metric_of_the_module_once() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, metrics.Metric)]
    assert list(metrics.METRICS) == defined
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS)


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.name)
def test_names_are_those_that_prometheus_expects(metric: metrics.Metric) -> None:
    assert re.fullmatch(r"agman_[a-z_]+", metric.name)
    assert not metric.name.endswith("_total")  # Ray adds it
    assert metric.description
    assert metric.exported == f"ray_{metric.name}" + ("_total" if metric.kind == "counter" else "")
    for unit in ("bytes", "seconds"):
        assert metric.name.endswith(f"_{unit}") == (metric.unit.split()[0] == unit)


@pytest.mark.parametrize(
    ("status", "changed"),
    [
        ("published", {metrics.SUCCESS_TIME, metrics.PUBLISH_TIME}),
        ("unchanged", {metrics.SUCCESS_TIME}),
        ("done", {metrics.SUCCESS_TIME}),
        ("unfinished", set()),
        ("failed", {metrics.FAILURE_TIME}),
        ("refused", {metrics.FAILURE_TIME}),
        ("crashed", {metrics.FAILURE_TIME}),
    ],
)
def test_the_end_of_a_run_is_counted_and_dated(status: str, changed: set[metrics.Metric]) -> None:
    points = metrics.of_end("nightly", "s3://shop-lake", status, 5.0)
    assert {metric: value for metric, value, _ in points} == {metrics.RUNS: 1, **dict.fromkeys(changed, 5.0)}
    for metric, _, tags in points:
        assert set(tags) == set(metric.tags)
    assert points[0][2] == {"job_name": "nightly", "lake": "s3://shop-lake", "status": status}


@pytest.mark.parametrize(
    ("raised", "status"),
    [(GateFailed, "failed"), (InvalidInput, "refused"), (OutOfTime, "unfinished"), (MemoryError, "crashed")],
)
def test_a_run_ends_as_what_ended_it(lake: Lake, raised: type[Exception], status: str) -> None:
    with suppress(SystemExit, MemoryError), telemetry.run("nightly", Config(), lake) as run:
        raise raised("no")
    assert run.status == status


def test_a_run_that_ends_well_says_what_it_did(lake: Lake) -> None:
    with telemetry.run("nightly", Config(), lake) as run:
        run.outcome = "unchanged"
    assert run.status == "unchanged"


def test_without_a_cluster_nothing_is_recorded_and_ray_is_not_even_imported(lake: Lake) -> None:
    program = (
        "import sys\n"
        "from dataclasses import make_dataclass\n"
        "from pipelines import telemetry\n"
        "from pipelines.lake import Lake\n"
        f"with telemetry.run('nightly', make_dataclass('C', [])(), Lake({lake.url!r})) as run:\n"
        "    with run.stage('embed', 2) as stage:\n"
        "        stage.advance(2)\n"
        "        stage.spent({'read': 1.0})\n"
        "        stage.stored(3)\n"
        "sys.exit('ray' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


def test_a_cluster_that_is_gone_stops_no_run(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("no cluster there")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "init", gone)
    with telemetry.run("nightly", Config(), lake) as run, run.stage("embed", 2) as stage:
        stage.advance(2)
    assert "the end of this run was not counted: no cluster there" in capsys.readouterr().out
    assert len(list(lake.store.list_names("runs"))) == 1
