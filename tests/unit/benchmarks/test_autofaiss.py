"""The other side of the benchmark of indexes, and the environments of other sides."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import autofaiss
from benchmarks.environments import READY, NotInstalled, install, is_ready

STAND_IN = """#!{python}
import json, pathlib, sys
vectors, queries, output, budget, memory, threads, k = sys.argv[4:]  # after -I -c and the script
pathlib.Path(output).write_text(budget)
rows = [[3] * int(k)]
print("what a library says")
print(json.dumps(dict(seconds=1.5, tuning_s=9.5, rows=rows, query_ms=0.2, kind=" HNSW15 ")))
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Give a command that takes what autofaiss' interpreter is given, and answers."""
    command = tmp_path / "python"
    command.write_text(STAND_IN.format(python=sys.executable))
    command.chmod(0o755)
    return command


def test_autofaiss_builds_for_a_budget_and_answers(python: Path, tmp_path: Path) -> None:
    output = tmp_path / "other.faiss"
    done = autofaiss.build(
        python, tmp_path, tmp_path / "queries.npy", output, budget=2_560_000, threads=2, k=4, limit_s=60
    )
    assert done is not None
    assert (done.seconds, done.tuning_s, done.query_ms, done.kind) == (1.5, 9.5, 0.2, "HNSW15")
    assert np.array_equal(done.rows, [[3, 3, 3, 3]])
    assert output.read_text() == "2560KB"


def test_a_build_is_given_up_after_its_time_and_a_failed_one_is_told(python: Path, tmp_path: Path) -> None:
    places = (python, tmp_path, tmp_path / "queries.npy", tmp_path / "other.faiss")
    assert autofaiss.build(*places, budget=1000, threads=1, k=1, limit_s=0) is None
    python.write_text(f"#!{sys.executable}\nraise SystemExit('no memory')")
    with pytest.raises(RuntimeError, match="autofaiss failed: no memory"):
        autofaiss.build(*places, budget=1000, threads=1, k=1, limit_s=60)


def test_an_environment_is_taken_as_it_is_only_if_it_was_made_of_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    assert not is_ready(folder, ("a", "b<2"))
    folder.mkdir()
    (folder / READY).write_text("a\nb<2\n")
    assert install(folder, ("a", "b<2"), "a") == folder / "bin"
    assert not is_ready(folder, ("a", "b<3"))
    (tmp_path / "file").touch()
    with pytest.raises(NotInstalled, match=r"^b<3 in .*file: "):
        install(tmp_path / "file", ("b<3",), "b")
