"""What building an index costs and what it then finds: each kind that the product offers, and autofaiss.

    python benchmarks/index.py

The same made-up vectors (`made_up.py`) lie in memory; each side trains, adds them and writes its index to
disk, with the same threads. The product's kinds are exact search, lists of float16 vectors, and compressed
lists with the true vectors beside them; autofaiss chooses for a memory budget: a roomy one, that holds the
vectors twice in float32, and a tight one, an eighth of what they take as float16. It runs in its own
environment below `.benchmarks/`, which is made where it is missing; where that fails, it is left out and said
so.

`recall` counts the exact 10 nearest of queries that are none of the vectors, by the true scores of what was
found. `memory` is what a search holds: the file, but of compressed lists without the true vectors, which stay
on disk. Floor of a build: training and assigning vectors to lists is a matrix product, which takes its FLOP
over the machine's best rate; that of the bytes is 2 a component without loss.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import tyro
from rich.table import Table

from benchmarks.made_up import MadeUp
from benchmarks.reporting import MIN_ROUNDS, console, matmul_rate, report
from pipelines.index import ADDED_ROWS, IndexOptions, add_rows, choose_kind, with_rows_found
from pipelines.inverted_lists import ROWS_PER_LIST, is_compressed, lists_of, num_lists, trained_index
from pipelines.telemetry import quiet

K = 10
TRAINING_ROUNDS = 10  # of FAISS' k-means in an inverted file
AUTOFAISS = Path(__file__).parents[1] / ".benchmarks" / "autofaiss"
EXACT, LISTS, COMPRESSED = "exact", "lists", "compressed"
ROOMY, TIGHT = "autofaiss_roomy", "autofaiss_tight"
OTHER = """
import json, sys, time
import faiss, numpy as np
from autofaiss import build_index
folder, budget, threads, k = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
faiss.omp_set_num_threads(threads)
vectors = np.load(folder + "/vectors.npy")
started = time.perf_counter()
index, said = build_index(
    vectors, index_path=folder + "/other.faiss", index_infos_path=folder + "/other.json", metric_type="ip",
    max_index_memory_usage=budget, current_memory_available="16GB", nb_cores=threads, save_on_disk=True,
    verbose=40,
)
seconds = time.perf_counter() - started
taken, rows = [], []
for query in np.load(folder + "/queries.npy"):
    began = time.perf_counter()
    rows.append(index.search(query[None], k)[1][0].tolist())
    taken.append(time.perf_counter() - began)
print(json.dumps({"seconds": seconds, "rows": rows, "query_ms": 1000 * float(np.median(taken)),
                  "kind": str(said.get("index_key")), "said": str(said.get("index_param", ""))}))
"""
"""What runs in autofaiss' environment: it builds, saves, and answers the queries."""
WANTED = ("autofaiss", "faiss-cpu<1.9", "pyarrow<22")
"""autofaiss 2.18 names arguments that a later FAISS does not know, and wants a numpy that a later pyarrow
refuses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    rows: int = 100_000
    """Vectors."""
    dim: int = 512
    """Components of each."""
    queries: int = 200
    """Queries, none of which is one of the vectors."""
    threads: int = 2
    """Threads of either side."""
    rounds: int = MIN_ROUNDS
    """Builds of each kind, in turn, of which the median is taken."""
    autofaiss: bool = True
    """Compare with autofaiss."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse what gives no lists."""
        if self.rows < 1000 or self.rounds < 1 or self.queries < 1:
            raise ValueError(
                f"expected at least 1000 rows, 1 round and 1 query, found {self.rows}, {self.rounds}, "
                f"{self.queries}"
            )


@dataclass(frozen=True, slots=True)
class Built:
    """One build of one side."""

    seconds: float
    recall: float
    disk_bytes: float
    memory_bytes: float
    query_ms: float
    """Median of single queries, by FAISS alone."""
    kind: str


def main(options: Options) -> None:
    """Build every kind in turn and report."""
    quiet()
    faiss.omp_set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    made_up = MadeUp(num_rows=options.rows, dim=options.dim)
    python = autofaiss_python() if options.autofaiss else None
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        vectors = np.concatenate([made_up.part(number) for number in range(made_up.num_parts)])
        asked = Asked(vectors, made_up.queries(options.queries), Path(folder))
        sides = {name: _ours(asked, kind, options) for name, kind in kinds(options).items()}
        if python:
            np.save(asked.folder / "vectors.npy", vectors)
            np.save(asked.folder / "queries.npy", asked.queries)
            held = 2 * vectors.size
            for name, budget in ((ROOMY, 4 * held), (TIGHT, held // 8)):
                sides[name] = _autofaiss(asked, python, budget, options.threads)
        found: dict[str, list[Built]] = {name: [] for name in sides}
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds}")
            for name, side in sides.items():
                found[name].append(side())
    built = {name: median(rounds) for name, rounds in found.items()}
    rate = matmul_rate(torch.float32, torch.device("cpu"), (2048,))()
    floor = floors(options, rate)
    report("index", _table(options, built, floor), figures(built, options.rows), floor, options.results)


@dataclass(frozen=True, slots=True)
class Asked:
    """What every side gets."""

    vectors: np.ndarray
    queries: np.ndarray
    folder: Path

    def recall(self, rows: np.ndarray) -> float:
        """Return the share of the exact K nearest that rows [Q, K] hold, by true scores; ties count."""
        scores = self.queries @ self.vectors.T
        least = np.partition(scores, -K, axis=1)[:, -K, None]
        found = np.take_along_axis(scores, np.maximum(rows, 0), axis=1)
        return float(((found >= least - 1e-6) & (rows >= 0)).mean())


def kinds(options: Options) -> dict[str, str]:
    """Return the kinds that the product offers for the vectors: exact, and by lists of both sorts."""
    listed = IndexOptions(exact_rows=0)
    tight = IndexOptions(exact_rows=0, max_memory_gib=2 * options.rows * options.dim / 8 / (1 << 30))
    return {
        EXACT: choose_kind(options.rows, IndexOptions(exact_rows=options.rows), options.dim),
        LISTS: choose_kind(options.rows, listed, options.dim),
        COMPRESSED: choose_kind(options.rows, tight, options.dim),
    }


def median(rounds: list[Built]) -> Built:
    """Return the rounds' medians, figure by figure."""
    names = [name for name in asdict(rounds[0]) if name != "kind"]
    return Built(
        **{name: statistics.median(getattr(each, name) for each in rounds) for name in names},
        kind=rounds[0].kind,
    )


def figures(built: Mapping[str, Built], num_rows: int) -> dict[str, float]:
    """Return every side's figures, and the product's over autofaiss': builds as rates, memory as bytes."""
    found: dict[str, float] = {}
    for name, each in built.items():
        found[f"vectors_per_s_{name}"] = num_rows / each.seconds
        found[f"recall_{name}"] = each.recall
        found[f"bytes_{name}"] = each.disk_bytes / num_rows
        found[f"memory_bytes_{name}"] = each.memory_bytes / num_rows
        found[f"query_ms_{name}"] = each.query_ms
    for ours, other, said in ((LISTS, ROOMY, "roomy"), (COMPRESSED, TIGHT, "tight")):
        if other in built:
            found[f"ratio_build_{said}"] = built[other].seconds / built[ours].seconds
            found[f"memory_ratio_{said}"] = built[ours].memory_bytes / built[other].memory_bytes
    return found


def floors(options: Options, flop_per_s: float) -> dict[str, float]:
    """Return the best build rate of lists, by the matrix products that they need, and their least bytes."""
    lists = num_lists(kinds(options)[LISTS])
    trained = min(options.rows, lists * ROWS_PER_LIST) * TRAINING_ROUNDS
    flop = 2.0 * (trained + options.rows) * lists * options.dim
    return {f"vectors_per_s_{LISTS}": options.rows * flop_per_s / flop, f"bytes_{LISTS}": 2 * options.dim}


def autofaiss_python() -> Path | None:
    """Return the interpreter of an environment that has autofaiss; None, and said, where none can be made."""
    python = AUTOFAISS / "bin" / "python"
    ready = AUTOFAISS / "installed"
    if ready.exists():
        return python
    console.print(f"installing autofaiss into {AUTOFAISS}")
    commands = [
        [sys.executable, "-m", "venv", str(AUTOFAISS)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *WANTED],
        [str(python), "-c", "import autofaiss"],
    ]
    for command in commands:
        made = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  no input of others
        if made.returncode:
            console.print(f"autofaiss cannot be installed, and is left out: {made.stderr.strip()[-300:]}")
            return None
    ready.touch()
    return python


def _ours(asked: Asked, kind: str, options: Options) -> Callable[[], Built]:
    path = asked.folder / "ours.faiss"

    def build() -> Built:
        started = time.perf_counter()
        index = None if kind == "flat" else with_rows_found(trained_index(asked.vectors, kind))
        for first in range(0, len(asked.vectors), ADDED_ROWS):
            index = add_rows(index, asked.vectors[first : first + ADDED_ROWS])
        assert index is not None
        faiss.write_index(index, str(path))
        seconds = time.perf_counter() - started
        taken, rows = [], []
        for query in asked.queries:
            began = time.perf_counter()
            rows.append(index.search(query[None], K)[1][0])
            taken.append(time.perf_counter() - began)
        disk = path.stat().st_size
        true_vectors = 2 * asked.vectors.size if is_compressed(kind) else 0
        probed = f", {lists_of(index).nprobe} probed" if kind != "flat" else ""
        query_ms = 1000 * statistics.median(taken)
        recall = asked.recall(np.array(rows))
        return Built(seconds, recall, disk, disk - true_vectors, query_ms, kind + probed)

    return build


def _autofaiss(asked: Asked, python: Path, budget: int, threads: int) -> Callable[[], Built]:
    def build() -> Built:
        arguments = [str(asked.folder), f"{budget / 1e6:.0f}MB", str(threads), str(K)]
        ran = subprocess.run(  # noqa: S603  no input of others
            [str(python), "-c", OTHER, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        if ran.returncode:
            raise RuntimeError(f"autofaiss failed: {ran.stderr.strip()[-2000:]}")
        said: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
        disk = (asked.folder / "other.faiss").stat().st_size
        recall = asked.recall(np.array(said["rows"]))
        kind = f"{said['kind']} {said['said']}".strip()
        return Built(said["seconds"], recall, disk, disk, said["query_ms"], kind)

    return build


def _table(options: Options, built: Mapping[str, Built], floor: Mapping[str, float]) -> Table:
    table = Table(
        title=f"{options.rows:,} vectors of {options.dim}, {options.threads} threads; medians of "
        f"{options.rounds} builds; floor of lists: {floor[f'vectors_per_s_{LISTS}']:,.0f} vectors/s"
    )
    for name in ("side", "kind", "vectors/s", "recall@10", "bytes", "of them in memory", "ms a query"):
        table.add_column(name, justify="left" if name in ("side", "kind") else "right")
    for name, each in built.items():
        table.add_row(
            name,
            each.kind,
            f"{options.rows / each.seconds:,.0f}",
            f"{each.recall:.4f}",
            f"{each.disk_bytes / options.rows:,.0f}",
            f"{each.memory_bytes / options.rows:,.0f}",
            f"{each.query_ms:.2f}",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
