"""The table of `make bench`: which scripts run, what is said of a miss, and what a failure leaves."""

import importlib
import json
import string
from pathlib import Path

import pytest
import tyro

from benchmarks import bench
from benchmarks.readme_lines import LINES, Bound, Line
from benchmarks.script_runs import Outcome, Script, run

SMALL = Script("parquet", ("--rows", "50", "--dim", "8"), 60)


def test_every_run_of_the_table_is_of_a_script_that_is_there() -> None:
    there = {path.stem for path in Path(bench.__file__).parent.glob("*.py")}
    assert {script.script for script in bench.SCRIPTS} <= there
    assert [line.run for line in LINES if line.run not in {script.name for script in bench.SCRIPTS}] == []
    names = [script.name for script in bench.SCRIPTS]
    assert len(set(names)) == len(names)
    assert sum(script.seconds for script in bench.SCRIPTS) <= 18.5 * 60


def test_a_script_gives_the_figures_of_its_lines_and_says_how_far_it_is() -> None:
    said: list[tuple[float, str]] = []
    outcome = run(SMALL, 60, lambda seconds, line: said.append((seconds, line)))
    assert outcome.error == ""
    lines = [line for line in LINES if line.run == "parquet"]
    fields = {
        name for line in lines for piece in line.shown for _, name, _, _ in string.Formatter().parse(piece)
    }
    assert fields - {None} <= set(outcome.figures)
    assert any("DuckDB" in line for _, line in said)
    assert not any('"figures"' in line for _, line in said)


def test_a_script_that_fails_or_is_late_is_told() -> None:
    refused = run(Script("parquet", ("--rows", "many"), 60), 60, lambda *_: None)
    assert "exit code 2, expected 0 and figures" in refused.error
    assert "--rows INT" in refused.error
    assert "─" not in refused.error
    late = run(SMALL, 0, lambda *_: None)
    assert late.error.startswith("expected figures within 0 s, found none")
    assert late.figures == {}


def test_the_others_run_on_and_the_failed_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Script("parquet", ("--rows", "many"), 60, name="broken")
    monkeypatch.setattr(bench, "SCRIPTS", (broken, SMALL))
    with pytest.raises(SystemExit, match=r"^bench: broken: exit code 2"):
        bench.main(bench.Options(results=tmp_path / "bench.json"))
    said = capsys.readouterr().out
    assert "[1/2] benchmarks/parquet.py --rows many: about 60 s" in said
    assert "bytes of the embedding column" in said
    runs = json.loads((tmp_path / "bench.json").read_text())["runs"]
    assert runs["broken"]["figures"] == {}
    assert runs["parquet"]["figures"]["bytes_over_float16"] > 0
    assert runs["parquet"]["error"] == ""


def test_what_does_not_begin_in_time_is_left_out_and_named() -> None:
    (outcome,) = bench.run_all([SMALL], 0)
    assert outcome.error == "left out: 0 minutes were over; see --minutes"
    with pytest.raises(ValueError, match=r"only: expected embedder, .*, found everything"):
        bench.Options(only=("everything",))


def test_a_miss_is_said_with_what_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    script = next(script for script in bench.SCRIPTS if script.name == "line")
    figures = {"share_of_bare_model": 0.77, "ratio_ray_data": 1.3, "peak_gib_4x_over_1x": 0.95}
    outcome = Outcome(script, figures=figures, floor={"share_of_bare_model": 0.83})
    bench.say_missed([outcome])
    (said,) = " ".join(capsys.readouterr().out.split()).split("missed: ")[1:]
    assert said.startswith(
        "line share_of_bare_model: found 0.77, asked 0.9 or more; the most possible here: 0.83"
    )
    assert [bound.figure for bound in bench.missed(outcome)] == ["share_of_bare_model"]


def test_a_line_shows_what_is_there() -> None:
    line = Line("index", "", ("{a:.1f} times", "at least {b:.0f} times"), asked=(Bound("a", at_most=2),))
    assert (line.found({"a": 1.25}), line.found({"b": 3.0}), line.found({})) == (
        "1.2 times",
        "at least 3 times",
        "nothing",
    )
    assert line.missed({"a": 2.0}) == []
    assert line.missed({"a": 2.1}) == [Bound("a", at_most=2)]
    assert line.missed({}) == []


@pytest.mark.parametrize("script", bench.SCRIPTS, ids=lambda script: script.name)
def test_every_script_takes_its_options(script: Script) -> None:
    module = importlib.import_module(f"benchmarks.{script.script}")
    assert tyro.cli(module.Options, args=list(script.options)) != module.Options()
