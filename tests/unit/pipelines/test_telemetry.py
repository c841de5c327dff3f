import json
from dataclasses import dataclass

import pytest

from agman.errors import AgmanError, InvalidInput
from pipelines import telemetry
from pipelines.errors import GateFailed
from pipelines.lake import Lake


@dataclass(frozen=True)
class Config:
    lake: str = "here"


def report(lake: Lake) -> dict:
    (name,) = lake.store.list_names("runs")
    return json.loads(lake.store.read(name).body)


def test_a_run_leaves_a_report_with_its_stages(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    with telemetry.run("embed_catalog", Config(), lake) as run:
        with run.stage("embed", 10) as stage:
            stage.advance(4)
            stage.advance(6, reused=True, quarantined=1)
            stage.spent({"read": 1.0, "model": 3.0})
        run.results["snapshot"] = "s"
    found = report(lake)
    assert (found["job"], found["status"], found["snapshot"]) == ("embed_catalog", "done", "s")
    assert found["config"] == {"lake": "here"}
    assert [(stage["name"], stage["images"]) for stage in found["timings"]["stages"]] == [("embed", 10)]
    assert found["timings"]["parts"] == {"read": 0.25, "model": 0.75}
    assert "model is the bottleneck: model 75%" in found["timings"]["bottleneck"]
    said = capsys.readouterr().out
    assert "embed: 10/10 images" in said
    assert "6 reused" in said
    assert "1 quarantined" in said


@pytest.mark.parametrize(("error", "code"), [(InvalidInput, 2), (GateFailed, 1), (AgmanError, 1)])
def test_a_refusal_is_one_line_and_an_exit_code(
    lake: Lake, capsys: pytest.CaptureFixture[str], error: type[Exception], code: int
) -> None:
    said = "expected one thing, found [another] " + "very " * 60 + "long"
    with pytest.raises(SystemExit) as ended, telemetry.run("search", Config(), lake):
        raise error(said)
    assert ended.value.code == code
    assert capsys.readouterr().err.rstrip("\n") == f"search: {said}"


def test_a_failed_run_says_so_in_its_report(lake: Lake) -> None:
    with pytest.raises(SystemExit), telemetry.run("nightly", Config(), lake):
        raise GateFailed("recall")
    assert (report(lake)["status"], report(lake)["error"]) == ("failed", "GateFailed: recall")


def test_a_mistake_leaves_no_report(lake: Lake) -> None:
    with pytest.raises(SystemExit), telemetry.run("nightly", Config(), lake):
        raise InvalidInput("no such folder")
    assert list(lake.store.list_names("")) == []


def test_what_is_not_ours_keeps_its_traceback(lake: Lake) -> None:
    with pytest.raises(ZeroDivisionError), telemetry.run("nightly", Config(), lake):
        raise ZeroDivisionError


def test_a_cluster_gets_json_lines(
    lake: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGMAN_LOG", "json")
    with telemetry.run("nightly", Config(), lake) as run:
        run.say("hello [world]")
        with run.stage("shard", 3) as stage:
            stage.advance(3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["message"] == "hello [world]"
    assert (lines[1]["name"], lines[1]["done"], lines[1]["run"]) == ("shard", 3, run.id)


def test_time_left_follows_the_rate() -> None:
    times = telemetry.StageTimes("embed", "images", total=100, done=25, seconds=5.0)
    assert times.line() == "embed: 25/100 images, 5.0/s, 15 s left, 5.0 s"
    times.done = 100
    assert "left" not in times.line()


def test_no_work_is_no_bottleneck() -> None:
    assert telemetry.bottleneck({}) == "no worker time was spent: everything was reused"


def test_reused_images_do_not_make_embedding_look_fast(lake: Lake) -> None:
    run = telemetry.Run("nightly", Config(), lake)
    run.stages.append(telemetry.StageTimes("embed", total=100, done=100, reused=90, seconds=2.0))
    assert run.timings()["images_per_s"] == 5.0
