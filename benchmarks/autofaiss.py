"""The other side of `index.py`: autofaiss, in an environment of its own, on vectors in a file.

For little memory it chooses compressed lists after a rotation (OPQ), which it learns in 50 rounds: minutes on
two cores even of 10,000 vectors, and no option of it bounds them. So its build is given up after a time.

Once built, it tunes its search to at most 10 ms a query and measures the index, for a fixed time of many
seconds. That is told apart, and is no part of its build.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments

FOLDER = Path(__file__).parents[1] / ".benchmarks" / "autofaiss"
REQUIREMENTS = ("autofaiss==2.18.0", "faiss-cpu<1.9", "pyarrow<22")
"""It names arguments that a later FAISS does not know, and wants a numpy that a later pyarrow refuses."""
MEMORY = "16GB"  # that its training may use; of less it would train on fewer vectors
SCRIPT = """
import json, sys, time
import faiss, numpy as np
from autofaiss import build_index
from autofaiss.external import optimize
tuning_s = 0.0
def timed(function):
    def call(*arguments, **named):
        global tuning_s
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            tuning_s += time.perf_counter() - began
    return call
for name in ("get_optimal_hyperparameters", "compute_fast_metrics"):
    setattr(optimize, name, timed(getattr(optimize, name)))
vectors, queries, output, budget, memory, threads, k = sys.argv[1:]
faiss.omp_set_num_threads(int(threads))
started = time.perf_counter()
index, said = build_index(
    vectors, index_path=output, index_infos_path=output + ".json", metric_type="ip", save_on_disk=True,
    max_index_memory_usage=budget, current_memory_available=memory, nb_cores=int(threads), verbose=40,
)
seconds = time.perf_counter() - started - tuning_s
taken, rows = [], []
for query in np.load(queries):
    began = time.perf_counter()
    rows.append(index.search(query[None], int(k))[1][0].tolist())
    taken.append(time.perf_counter() - began)
kind = " ".join(str(said.get(name, "")) for name in ("index_key", "index_param"))
figures = {"seconds": seconds, "tuning_s": tuning_s, "query_ms": 1000 * float(np.median(taken))}
print(json.dumps({**figures, "rows": rows, "kind": kind}))
"""
"""What runs in its environment: it builds, saves, and answers the queries."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one build of it took, and found."""

    seconds: float
    """Of training, adding and writing."""
    tuning_s: float
    """Of tuning the search and measuring the index."""
    rows: np.ndarray
    """[Q, k], -1 where it found fewer."""
    query_ms: float
    """Median of single queries."""
    kind: str


def install() -> Path:
    """Return the interpreter, of an environment that is made where it is missing.

    Raises:
        NotInstalled: where pip could not.
    """
    return environments.install(FOLDER, REQUIREMENTS, "autofaiss") / "python"


def build(
    python: Path,
    vectors: Path,
    queries: Path,
    output: Path,
    *,
    budget: int,
    threads: int,
    k: int,
    limit_s: float,
) -> Answered | None:
    """Build an index and ask it; None where that was not done within its time.

    Args:
        python: as `install` gives it.
        vectors: a folder with .npy files of [N, D] float32.
        queries: a .npy file of [Q, D] float32.
        output: the file of the index.
        budget: bytes that the index may take.
        threads: that it may use.
        k: neighbours of each query.
        limit_s: seconds after which it is ended.

    Raises:
        RuntimeError: if it failed.
    """
    arguments = [
        str(vectors),
        str(queries),
        str(output),
        f"{budget / 1e3:.0f}KB",
        MEMORY,
        str(threads),
        str(k),
    ]
    try:
        ran = subprocess.run(  # noqa: S603  no input of others
            [str(python), "-I", "-c", SCRIPT, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode:
        raise RuntimeError(f"autofaiss failed: {ran.stderr.strip()[-2000:]}")
    said: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return Answered(
        said["seconds"], said["tuning_s"], np.array(said["rows"]), said["query_ms"], said["kind"].strip()
    )
