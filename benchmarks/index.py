"""What building an index costs and what it then finds: each kind that the product offers, and autofaiss.

    python benchmarks/index.py
    python benchmarks/index.py --rows 1000000 --kinds compressed --no-autofaiss --rounds 1

The same made-up vectors (`made_up.py`) lie in a file, from which each side trains, adds them and writes its
index to disk, with the same threads. The product's kinds are exact search, lists of float16 vectors, and
compressed lists with the true vectors beside them. autofaiss chooses for a memory budget: a roomy one, that
holds the vectors twice in float32; the same as our lists take, who hold float16; and a tight one, an eighth
of float16, as our compressed lists are given. Exact search and lists are compared with the first two,
compressed lists with the last. autofaiss runs in its own environment below `.benchmarks/`, which is made
where it is missing; where that fails, it is left out and said so.

Its build is training, adding and writing; that it then tunes its search is told apart (`tuning_s`), while
ours includes measuring how many lists to probe. For less than the vectors' own size it learns a rotation,
which takes minutes: a build is given up after `--limit-s`, and then a bound of its rate is all that is known.
A side that took longer than `--once-above-s` is built once, others `--rounds` times, of which the medians
count; the table says how often.

`recall` counts the exact 10 nearest of queries that are none of the vectors, by the true scores of what was
found. `memory` is what a search holds: the file, but of compressed lists without the true vectors, which stay
on disk. Floor of a build: training and assigning vectors to lists is a matrix product, which takes its FLOP
over the machine's best rate; that of the bytes is 2 a component without loss.
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import faiss
import numpy as np
import torch
import tyro
from rich.table import Table

from benchmarks import autofaiss
from benchmarks.builds import Built, GivenUp, Side, in_rounds
from benchmarks.environments import NotInstalled
from benchmarks.made_up import MadeUp
from benchmarks.reporting import MIN_ROUNDS, console, matmul_rate, report
from pipelines.index import ADDED_ROWS, LISTED_BYTES, IndexOptions, add_rows, choose_kind, with_rows_found
from pipelines.inverted_lists import ROWS_PER_LIST, is_compressed, lists_of, num_lists, trained_index
from pipelines.telemetry import quiet

K = 10
TRAINING_ROUNDS = 10  # of FAISS' k-means in an inverted file
EXACT: Final = "exact"
LISTS: Final = "lists"
COMPRESSED: Final = "compressed"
ROOMY: Final = "roomy"
SAME: Final = "same"
TIGHT: Final = "tight"
AGAINST = ((EXACT, ROOMY), (LISTS, ROOMY), (EXACT, SAME), (LISTS, SAME), (COMPRESSED, TIGHT))
"""Kinds of ours, and autofaiss' budgets that they are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    rows: int = 20_000
    """Vectors. autofaiss compresses none of fewer than 10,000."""
    dim: int = 512
    """Components of each."""
    queries: int = 200
    """Queries, none of which is one of the vectors."""
    threads: int = 2
    """Threads of either side."""
    rounds: int = MIN_ROUNDS
    """Builds of each side, in turn, of which the median is taken."""
    once_above_s: float = 60.0
    """A side whose build took so long, in seconds, is built once."""
    limit_s: float = 900.0
    """A build of autofaiss is given up after so many seconds."""
    kinds: tuple[Literal["exact", "lists", "compressed"], ...] = (EXACT, LISTS, COMPRESSED)
    """Kinds of ours that are built."""
    autofaiss: bool = True
    """Compare with autofaiss."""
    budgets: tuple[Literal["roomy", "same", "tight"], ...] = (ROOMY, SAME, TIGHT)
    """Budgets for which autofaiss builds."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse what gives no lists."""
        if self.rows < 1000 or self.rounds < 1 or self.queries < 1 or not self.kinds:
            raise ValueError(
                f"expected at least 1000 rows, 1 round, 1 query and 1 kind, found {self.rows}, "
                f"{self.rounds}, {self.queries}, {len(self.kinds)}"
            )


@dataclass(frozen=True, slots=True)
class Asked:
    """What every side gets."""

    folder: Path
    """Holds `vectors/vectors.npy` and `queries.npy`, and the index that was built last."""
    vectors: np.ndarray
    """[N, D] float32, read from disk as they are needed."""
    queries: np.ndarray
    least: np.ndarray
    """[Q, 1], what the last of the exact K nearest scores."""

    def recall(self, rows: np.ndarray) -> float:
        """Return the share of the exact K nearest that rows [Q, K] hold, by true scores; ties count."""
        found = self.vectors[np.maximum(rows, 0)]
        scores = np.einsum("qd,qkd->qk", self.queries, found)
        return float(((scores >= self.least - 1e-6) & (rows >= 0)).mean())


def main(options: Options) -> None:
    """Build every kind in turn and report."""
    quiet()
    faiss.omp_set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    python = _autofaiss_python() if options.autofaiss else None
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        asked = make_up(options, Path(folder))
        sides: dict[str, Side] = {name: partial(_ours, asked, kinds(options)[name]) for name in options.kinds}
        if python:
            held = {name: budgets(options)[name] for name in options.budgets}
            sides |= {
                f"autofaiss_{name}": partial(_autofaiss, asked, python, budget, options)
                for name, budget in held.items()
            }
        built = in_rounds(sides, options.rounds, options.once_above_s)
    rate = matmul_rate(torch.float32, torch.device("cpu"), (2048,))()
    floor = floors(options, rate)
    report("index", _table(options, built, floor), figures(built, options.rows), floor, options.results)


def make_up(options: Options, folder: Path) -> Asked:
    """Write the vectors part by part, so that memory does not grow with their number."""
    console.print(f"making up {options.rows:,} vectors")
    made_up = MadeUp(num_rows=options.rows, dim=options.dim)
    (folder / "vectors").mkdir()
    path = folder / "vectors" / "vectors.npy"
    written = np.lib.format.open_memmap(path, "w+", np.float32, (options.rows, options.dim))
    for number in range(made_up.num_parts):
        part = made_up.part(number)
        first = number * made_up.rows_per_part
        written[first : first + len(part)] = part
    written.flush()
    queries = made_up.queries(options.queries)
    np.save(folder / "queries.npy", queries)
    return Asked(folder, np.load(path, mmap_mode="r"), queries, made_up.exact(queries, K)[:, -1:])


def kinds(options: Options) -> dict[str, str]:
    """Return the kinds that the product offers for the vectors: exact, and by lists of both sorts."""
    listed = IndexOptions(exact_rows=0)
    tight = replace(listed, max_memory_gib=budgets(options)[TIGHT] / (1 << 30))
    return {
        EXACT: choose_kind(options.rows, IndexOptions(exact_rows=options.rows), options.dim),
        LISTS: choose_kind(options.rows, listed, options.dim),
        COMPRESSED: choose_kind(options.rows, tight, options.dim),
    }


def budgets(options: Options) -> dict[str, int]:
    """Return bytes by budget; the same is what lists of float16 vectors take, with their centres."""
    lists = num_lists(choose_kind(options.rows, IndexOptions(exact_rows=0), options.dim))
    held = 2 * options.rows * options.dim
    return {
        ROOMY: 4 * held,
        SAME: held + LISTED_BYTES * options.rows + 4 * lists * options.dim,
        TIGHT: held // 8,
    }


def figures(built: Mapping[str, Built | GivenUp], num_rows: int) -> dict[str, float]:
    """Return every side's figures, and the product's over autofaiss': builds as rates, memory as bytes.

    Where autofaiss was given up, `least_ratio_build_…` is what the ratio is at least.
    """
    found: dict[str, float] = {}
    for name, each in built.items():
        if isinstance(each, GivenUp):
            found[f"gave_up_after_s_{name}"] = each.seconds
            continue
        found[f"vectors_per_s_{name}"] = num_rows / each.seconds
        found[f"recall_{name}"] = each.recall
        found[f"bytes_{name}"] = each.disk_bytes / num_rows
        found[f"memory_bytes_{name}"] = each.memory_bytes / num_rows
        found[f"query_ms_{name}"] = each.query_ms
        found[f"rounds_{name}"] = each.rounds
        if each.tuning_s:
            found[f"tuning_s_{name}"] = each.tuning_s
    for kind, budget in AGAINST:
        ours, other = built.get(kind), built.get(f"autofaiss_{budget}")
        if not isinstance(ours, Built) or other is None:
            continue
        ratio = other.seconds / ours.seconds
        if isinstance(other, GivenUp):
            found[f"least_ratio_build_{kind}_{budget}"] = ratio
        else:
            found[f"ratio_build_{kind}_{budget}"] = ratio
            found[f"memory_ratio_{kind}_{budget}"] = ours.memory_bytes / other.memory_bytes
    return found


def floors(options: Options, flop_per_s: float) -> dict[str, float]:
    """Return the best build rate of lists, by the matrix products that they need, and their least bytes."""
    lists = num_lists(kinds(options)[LISTS])
    trained = min(options.rows, lists * ROWS_PER_LIST) * TRAINING_ROUNDS
    flop = 2.0 * (trained + options.rows) * lists * options.dim
    return {f"vectors_per_s_{LISTS}": options.rows * flop_per_s / flop, f"bytes_{LISTS}": 2 * options.dim}


def _autofaiss_python() -> Path | None:
    try:
        return autofaiss.install()
    except NotInstalled as error:
        console.print(f"autofaiss cannot be installed; nothing is compared with it: {error}", style="red")
        return None


def _ours(asked: Asked, kind: str) -> Built:
    path = asked.folder / "ours.faiss"
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
    return Built(seconds, asked.recall(np.array(rows)), disk, disk - true_vectors, query_ms, kind + probed)


def _autofaiss(asked: Asked, python: Path, budget: int, options: Options) -> Built | GivenUp:
    output = asked.folder / "other.faiss"
    done = autofaiss.build(
        python, asked.folder / "vectors", asked.folder / "queries.npy", output,
        budget=budget, threads=options.threads, k=K, limit_s=options.limit_s,
    )  # fmt: skip
    if done is None:
        console.print(f"autofaiss was given up after {options.limit_s:.0f} s")
        return GivenUp(options.limit_s)
    disk = output.stat().st_size
    recall = asked.recall(done.rows)
    return Built(done.seconds, recall, disk, disk, done.query_ms, done.kind, done.tuning_s)


def _table(options: Options, built: Mapping[str, Built | GivenUp], floor: Mapping[str, float]) -> Table:
    table = Table(
        title=f"{options.rows:,} vectors of {options.dim}, {options.threads} threads; medians of the builds; "
        f"floor of lists: {floor[f'vectors_per_s_{LISTS}']:,.0f} vectors/s"
    )
    columns = ("side", "kind", "vectors/s", "builds", "recall@10", "bytes", "of them in memory", "ms a query")
    for name in columns:
        table.add_column(name, justify="left" if name in ("side", "kind") else "right")
    for name, each in built.items():
        if isinstance(each, GivenUp):
            table.add_row(
                name, f"given up after {each.seconds:.0f} s", f"< {options.rows / each.seconds:,.0f}"
            )
            continue
        table.add_row(
            name,
            each.kind,
            f"{options.rows / each.seconds:,.0f}",
            f"{each.rounds}",
            f"{each.recall:.4f}",
            f"{each.disk_bytes / options.rows:,.0f}",
            f"{each.memory_bytes / options.rows:,.0f}",
            f"{each.query_ms:.2f}",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
