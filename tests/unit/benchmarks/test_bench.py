"""The table of `make bench` names figures that its scripts give."""

from pathlib import Path

from benchmarks import bench


def test_every_script_of_the_table_is_there_and_may_fail_alone() -> None:
    scripts = {path.stem for path in Path(bench.__file__).parent.glob("*.py")}
    assert set(bench.QUICK) <= scripts
    assert {figure.script for figure in bench.FIGURES} <= set(bench.QUICK)
    figures = bench.run("parquet", ("--rows", "50", "--dim", "8"))
    named = {figure.name for figure in bench.FIGURES if figure.script == "parquet"}
    assert named <= set(figures)
    assert bench.run("parquet", ("--rows", "many")) == {}
