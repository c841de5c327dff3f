"""What a search costs: one query over a million vectors of one attribute, and the first answer of a process.

    python benchmarks/search.py
    python benchmarks/search.py --max-memory-gib 0.25   # compressed lists

Floor: a query must read the bytes of the lists that it probes, with the centres once (of all vectors where
the search is exact) and of compressed lists the candidates' true vectors, so it takes at least those bytes
over the rate at which as many threads read memory, measured beside it. Reading the index whole takes at least
all of its bytes over that rate.

Vectors are made up (`made_up.py`), and written, indexed and searched by the product's own code, with the kind
of index that it chooses for their number; queries are none of them. `p50_ms` and `p99_ms` are of single
queries one after the other, catalog rows included, in a process that has answered some. A cold start is a new
process, libraries loaded, with no file of the lake in the page cache: from opening what is published to the
first answer, `mapped` where this machine compared the files with their digests before, `compared` where it
has yet to, `whole` where it also reads the index into its own memory. `recall` counts the exact 10 nearest.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import tyro
from rich.table import Table

from agman.errors import InvalidInput
from benchmarks.made_up import ATTRIBUTE, MadeUp, publish_made_up
from benchmarks.reporting import MIN_ROUNDS, console, report
from pipelines.index import IndexOptions, choose_kind
from pipelines.inverted_lists import REFINED, is_compressed, lists_of
from pipelines.lake import Lake
from pipelines.search import Searcher
from pipelines.storage.snapshots import Manifest, current_manifest, read_pointer
from pipelines.telemetry import quiet

K = 10
READ_BYTES = 1 << 29
MAPPED = faiss.IO_FLAG_MMAP_IFC
OPENED: dict[str, dict[str, Any]] = {
    "mapped": {},
    "compared": {"verify": True},
    "whole": {"verify": True, "mapped": False},
}
"""Arguments of a `Searcher`, by how it is opened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    rows: int = 1_000_000
    """Vectors."""
    dim: int = 512
    """Components of each."""
    exact_rows: int = IndexOptions().exact_rows
    """At most so many vectors are searched exactly."""
    max_memory_gib: float = IndexOptions().max_memory_gib
    """As `--index.max-memory-gib` of a night: where float16 takes more, lists hold compressed vectors."""
    queries: int = 200
    """Queries of a round, each once; as many others before the clock runs."""
    threads: int = 2
    """Threads that a query may take."""
    rounds: int = MIN_ROUNDS
    """Rounds, of which the median is taken."""
    lake: str = ""
    """Local folder of a lake that is kept: made where nothing is published, else taken as it is, which must
    be of the same options. Empty: a temporary one."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse what gives no percentile or no ten neighbours."""
        if self.queries < 1 or self.rows < K or self.rounds < 1:
            raise ValueError(
                f"expected at least 1 query, {K} rows and 1 round, found {self.queries}, {self.rows}, "
                f"{self.rounds}"
            )

    def index(self) -> IndexOptions:
        """Return how the lake is indexed."""
        return IndexOptions(exact_rows=self.exact_rows, max_memory_gib=self.max_memory_gib)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured."""

    seconds: np.ndarray
    """[Q] of each query."""
    first_s: Mapping[str, float]
    """From opening to the first answer, by how it is opened."""
    bytes_per_s: float
    """Rate at which the threads read memory."""


def main(options: Options) -> None:
    """Make the lake, take the sides in turn, and report."""
    quiet()
    faiss.omp_set_num_threads(options.threads)
    made_up = MadeUp(num_rows=options.rows, dim=options.dim)
    with ExitStack() as stack:
        folder = options.lake or stack.enter_context(tempfile.TemporaryDirectory(prefix="search-"))
        lake = Lake(f"{folder}/lake" if not options.lake else folder)
        os.environ["XDG_CACHE_HOME"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="search-"))
        if read_pointer(lake) is None:
            publish_made_up(lake, made_up, options.index(), console.print)
        _check_kept(lake, options)
        queries = made_up.queries(2 * options.queries)
        warm, asked = queries[: options.queries], queries[options.queries :]
        exact = made_up.exact(asked, K)
        searcher = stack.enter_context(Searcher(lake, current_manifest(lake), num_threads=options.threads))
        for query in warm:
            _ask(searcher, query)
        answers = [_ask(searcher, query) for query in asked]
        recall = float(np.mean([share_found(a, best) for a, best in zip(answers, exact, strict=True)]))
        rounds = []
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds}")
            rounds.append(_measure(lake, searcher, asked, options.threads))
        found = {"recall": recall, **figures(rounds), **_sizes(searcher.manifest, options)}
        floor = floors(rounds, scanned_bytes(lake, searcher.manifest, asked), found["index_bytes"])
    report("search", _table(options, searcher.manifest, found, floor), found, floor, options.results)


def _check_kept(lake: Lake, options: Options) -> None:
    """Refuse a lake that was made with other options: its figures would bear a wrong name."""
    groups = current_manifest(lake).groups
    found = sum(group.num_rows for group in groups), groups[0].kind
    expected = options.rows, choose_kind(options.rows, options.index(), options.dim)
    if found != expected:
        raise InvalidInput(
            f"lake {lake.url}: expected {expected[0]:,} vectors in {expected[1]}, found {found[0]:,} in "
            f"{found[1]}; name another --lake, or the options that it was made with"
        )


def share_found(scores: Sequence[float], exact: np.ndarray) -> float:
    """Return the share of exact scores [K], best first, that answers reach; ties count as found."""
    return float((np.sort(scores)[::-1][:K] >= exact[-1] - 1e-6).sum() / len(exact))


def figures(rounds: Sequence[Round]) -> dict[str, float]:
    """Return percentiles and cold starts in milliseconds: medians of the rounds."""
    found = {
        f"p{percent}_ms": statistics.median(1000 * float(np.percentile(r.seconds, percent)) for r in rounds)
        for percent in (50, 99)
    }
    for side in rounds[0].first_s:
        found[f"cold_start_{side}_ms"] = statistics.median(1000 * r.first_s[side] for r in rounds)
    return found


def floors(rounds: Sequence[Round], scanned: float, index_bytes: float) -> dict[str, float]:
    """Return the least milliseconds, by the bytes that are read at the rate of the rounds' median."""
    rate = statistics.median(r.bytes_per_s for r in rounds)
    return {
        "p50_ms": 1000 * scanned / rate,
        "cold_start_whole_ms": 1000 * index_bytes / rate,
        "scanned_bytes": scanned,
        "gb_per_s": rate / 1e9,
    }


def scanned_bytes(lake: Lake, manifest: Manifest, queries: np.ndarray) -> float:
    """Return the bytes that a query reads: of all vectors, or in the mean of its lists, and the centres.

    Of compressed lists, the true vectors of the candidates as well.
    """
    total: float = 0.0
    coarse: np.ndarray | None = None
    for group in manifest.groups:
        with lake.checked(group.files[ATTRIBUTE]) as path:
            whole = faiss.read_index(str(path), MAPPED)
        index = lists_of(whole)
        if not isinstance(index, faiss.IndexIVF):
            total += index.ntotal * index.code_size
            continue
        if coarse is None:
            _, coarse = index.quantizer.search(queries, index.nprobe)
            total += index.nlist * index.d * 4
            if is_compressed(group.kind):
                total += REFINED * K * index.d * 2  # of all groups together
        lengths = np.array([index.get_list_size(number) for number in range(index.nlist)])
        total += float(lengths[coarse].sum(axis=1).mean()) * (index.code_size + 8)
    return total


def _ask(searcher: Searcher, query: np.ndarray) -> list[float]:
    return [hit.score for hit in searcher.search({ATTRIBUTE: query}, {ATTRIBUTE: 1.0}, K)]


def _measure(lake: Lake, searcher: Searcher, queries: np.ndarray, threads: int) -> Round:
    seconds = []
    for query in queries:
        started = time.perf_counter()
        _ask(searcher, query)
        seconds.append(time.perf_counter() - started)
    first = {side: _in_new_process(lake, side, queries[0], threads) for side in OPENED}
    return Round(np.array(seconds), first, read_rate(threads))


def _in_new_process(lake: Lake, side: str, query: np.ndarray, threads: int) -> float:
    """Return the seconds to a first answer, of a process of its own without a file of the lake in memory."""
    for path in Path(lake.url).rglob("*"):
        if path.is_file():
            _evict(path)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        return pool.submit(_first_answer, lake, side, query, threads).result()


def _first_answer(lake: Lake, side: str, query: np.ndarray, threads: int) -> float:
    faiss.omp_set_num_threads(threads)
    started = time.perf_counter()
    with Searcher(lake, current_manifest(lake), num_threads=threads, **OPENED[side]) as searcher:
        _ask(searcher, query)
        return time.perf_counter() - started


def _evict(path: Path) -> None:
    """Let the page cache forget a file that is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read_rate(threads: int, num_bytes: int = READ_BYTES) -> float:
    """Return the bytes that threads read from memory in a second, the best of three tries."""
    blocks = np.array_split(np.ones(num_bytes // 8), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            started = time.perf_counter()
            list(pool.map(np.max, blocks))
            best = max(best, num_bytes / (time.perf_counter() - started))
    return best


def _sizes(manifest: Manifest, options: Options) -> dict[str, float]:
    """Return bytes on disk, and those that a search holds: all, but of compressed lists the true vectors."""
    files = [group.files[ATTRIBUTE] for group in manifest.groups]
    num_bytes = sum(entry.num_bytes for entry in files)
    on_disk_alone = 2 * options.dim if is_compressed(manifest.groups[0].kind) else 0
    per_vector = num_bytes / options.rows
    return {
        "groups": len(files),
        "index_bytes": num_bytes,
        "bytes_per_vector": per_vector,
        "memory_bytes_per_vector": per_vector - on_disk_alone,
    }


def _table(
    options: Options, manifest: Manifest, found: Mapping[str, float], floor: Mapping[str, float]
) -> Table:
    groups = manifest.groups
    table = Table(
        title=f"{options.rows:,} vectors of {options.dim}, {groups[0].kind} in {len(groups)} groups, "
        f"{options.threads} threads; {options.queries} queries, medians of {options.rounds}"
    )
    for name in ("figure", "found", "floor"):
        table.add_column(name, justify="right" if name != "figure" else "left")
    for name, value in found.items():
        table.add_row(name, f"{value:,.4g}", f"{floor[name]:,.4g}" if name in floor else "")
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
