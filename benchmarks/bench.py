"""The line's figures in one table: every benchmark of speed, small enough to be done within 20 minutes.

    make bench

Each script runs by itself, with fewer pictures and rounds than its own defaults; its command without options
measures what README shows. A figure is printed beside what was asked of it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.reporting import console


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table."""

    script: str
    name: str
    what: str
    against: str
    asked: str
    """A bound in words, "" where none was asked."""


QUICK = {
    "embedder": ("--batch", "16"),
    "sharding": ("--num-images", "2048"),
    "line": ("--num-images", "256", "--images-per-shard", "64"),
    "train": ("--num-images", "160", "--buffer-samples", "96", "--triplets", "8"),
    "index": ("--rows", "50000", "--queries", "100"),
    "search": ("--rows", "300000", "--queries", "100"),
    "parquet": ("--rows", "20000"),
    "growth": ("--num-images", "1000"),
}
"""Options that make a script small, in the order in which they run."""

FIGURES = (
    Figure(
        "embedder", "ratio_float32", "all attributes in one pass, images/s", "the network once for each", ""
    ),
    Figure(
        "sharding", "ratio_as_is", "packing files as they are, images/s", "img2dataset 1.47", "2 and more"
    ),
    Figure("sharding", "share_of_floor_as_is", "the same", "`cat` and `sha256sum`", "0.5 and more"),
    Figure("sharding", "ratio_resize", "packing at 256 pixels, images/s", "img2dataset 1.47", "3 and more"),
    Figure(
        "line",
        "share_of_bare_model",
        "tar to Parquet and FAISS, images/s",
        "the bare embedder",
        "0.9 and more",
    ),
    Figure("line", "ratio_ray_data", "the same with its start, images/s", "Ray Data", "1.2 and more"),
    Figure("line", "peak_gib_4x_over_1x", "peak memory of 4 times the pictures", "once", "about 1"),
    Figure("train", "ratio_plain_loop", "training by batches, images/s", "a plain loop", ""),
    Figure("train", "waiting_share", "share of training that waits for pictures", "none", "below 0.05"),
    Figure("index", "ratio_build_roomy", "building lists, vectors/s", "autofaiss, ample memory", ""),
    Figure("index", "recall_lists", "their recall of the 10 nearest", "exact search", ""),
    Figure("index", "memory_ratio_roomy", "their memory", "autofaiss, ample memory", ""),
    Figure("index", "ratio_build_tight", "building compressed lists, vectors/s", "autofaiss, an eighth", ""),
    Figure("index", "recall_compressed", "their recall of the 10 nearest", "exact search", ""),
    Figure("search", "p50_ms", "a query, ms, median", "", ""),
    Figure("search", "p99_ms", "a query, ms, slowest of 100", "", ""),
    Figure("parquet", "bytes_over_float16", "bytes of the embedding column", "float16", "about 1"),
    Figure("parquet", "duckdb_time_over_default", "DuckDB's time to read it", "default settings", ""),
    Figure("growth", "per_image_8x_over_1x", "time of a picture in 8 times the catalog", "once", "about 1"),
)


def main() -> None:
    """Run every script and print the table."""
    table = Table(title="the line at full speed, measured small")
    for name in ("what", "figure", "found", "asked", "against", "seconds"):
        table.add_column(name, justify="right" if name in ("found", "seconds") else "left")
    failed = []
    for script, options in QUICK.items():
        console.print(f"benchmarks/{script}.py {' '.join(options)}")
        started = time.perf_counter()
        figures = run(script, options)
        taken = f"{time.perf_counter() - started:.0f}"
        if not figures:
            failed.append(script)
        for figure in FIGURES:
            if figure.script == script:
                found = f"{figures[figure.name]:.3g}" if figure.name in figures else "nothing"
                table.add_row(figure.what, figure.name, found, figure.asked, figure.against, taken)
                taken = ""
    console.print(table)
    if failed:
        sys.exit(f"bench: {', '.join(failed)}: expected a last line of JSON, found none; run it alone")


def run(script: str, options: Sequence[str]) -> dict[str, Any]:
    """Run a script in a process of its own; returns its figures, none where it failed."""
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603  our own scripts
    lines = done.stdout.strip().splitlines()
    try:
        figures: dict[str, Any] = json.loads(lines[-1])["figures"] if lines else {}
    except ValueError:
        return {}
    return figures


if __name__ == "__main__":
    main()
