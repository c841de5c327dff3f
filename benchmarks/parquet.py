"""The embedding column as the lake stores it against float16 and against default settings: bytes and reading.

    python benchmarks/parquet.py

Four files of the same vectors: the lake's (float32 rounded to float16's precision, byte-stream-split, zstd),
a float16 column (zstd), float32 unrounded under the lake's encoding, and float32 rounded under pyarrow's
default settings. Each is read whole, by pyarrow into NumPy and by DuckDB into the nearest neighbours of a
query, in turn, medians of the rounds. Floor of the bytes: 2 a component, which float16 needs uncompressed.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.table import Table

from benchmarks.made_up import MadeUp
from benchmarks.reporting import MIN_ROUNDS, in_turn, report
from pipelines.parts import write_embeddings

OURS, HALF, EXACT, DEFAULT = "lake", "float16", "unrounded", "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    rows: int = 50_000
    """Vectors."""
    dim: int = 512
    """Components of each."""
    rounds: int = MIN_ROUNDS
    """Rounds, of which the median is taken, after one to warm up."""
    results: Path | None = None
    """File for the figures."""


def main(options: Options) -> None:
    """Write the files, read each in turn, and report."""
    made_up = MadeUp(num_rows=options.rows, dim=options.dim)
    vectors = np.concatenate([made_up.part(number) for number in range(made_up.num_parts)])
    query = made_up.queries(1)[0]
    with tempfile.TemporaryDirectory(prefix="parquet-") as folder:
        paths = write_all(Path(folder), vectors)
        sides: dict[str, Callable[[], object]] = {}
        for name, path in paths.items():
            sides[f"pyarrow {name}"] = partial(read_with_pyarrow, path)
            sides[f"duckdb {name}"] = partial(nearest_with_duckdb, path, query)
        seconds = in_turn(sides, options.rounds)
        sizes = {name: path.stat().st_size / vectors.size for name, path in paths.items()}
    found = figures(sizes, seconds)
    report("parquet", _table(options, sizes, seconds), found, {"bytes_per_component": 2.0}, options.results)


def write_all(folder: Path, vectors: np.ndarray) -> dict[str, Path]:
    """Write vectors [N, D] of float16's precision in each way; returns the files by name."""
    paths = {name: folder / f"{name}.parquet" for name in (OURS, HALF, EXACT, DEFAULT)}
    digests = [f"{row:064x}" for row in range(len(vectors))]
    write_embeddings(paths[OURS], digests, vectors)
    rest = np.random.default_rng(0).uniform(-0.5, 0.5, vectors.shape) * 2.0**-11
    write_embeddings(paths[EXACT], digests, (vectors * (1 + rest)).astype(np.float32))
    half = _table_of(digests, vectors.astype(np.float16), pa.float16())
    pq.write_table(half, paths[HALF], compression="zstd", use_dictionary=False)
    pq.write_table(_table_of(digests, vectors, pa.float32()), paths[DEFAULT])
    return paths


def read_with_pyarrow(path: Path) -> np.ndarray:
    """Return the column as [N, D]."""
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    read: np.ndarray = column.flatten().to_numpy().reshape(len(column), -1)
    return read


def nearest_with_duckdb(path: Path, query: np.ndarray) -> list[str]:
    """Return the sha256 of the rows nearest to a query [D]."""
    vector = f"float[{len(query)}]"
    rows = duckdb.execute(
        f"""select sha256 from read_parquet($path)
        order by array_inner_product(embedding::{vector}, $query::{vector}) desc limit 10""",
        {"path": str(path), "query": query.tolist()},
    ).fetchall()
    return [sha256 for (sha256,) in rows]


def figures(sizes: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, float]:
    """Return ratios of bytes, and of the time to read by each engine, against the other ways."""
    found = {f"bytes_over_{name}": sizes[OURS] / sizes[name] for name in (HALF, EXACT, DEFAULT)}
    for engine in ("pyarrow", "duckdb"):
        for name in (HALF, EXACT, DEFAULT):
            found[f"{engine}_time_over_{name}"] = seconds[f"{engine} {OURS}"] / seconds[f"{engine} {name}"]
        found[f"{engine}_s"] = seconds[f"{engine} {OURS}"]
    return found | {"bytes_per_component": sizes[OURS]}


def _table_of(digests: list[str], vectors: np.ndarray, kind: pa.DataType) -> pa.Table:
    components = pa.array(vectors.reshape(-1), kind)
    column = pa.FixedSizeListArray.from_arrays(components, vectors.shape[1])
    return pa.table({"sha256": digests, "embedding": column})


def _table(options: Options, sizes: Mapping[str, float], seconds: Mapping[str, float]) -> Table:
    table = Table(title=f"{options.rows:,} vectors of {options.dim}; medians of {options.rounds}")
    for name in ("file", "bytes a component", "pyarrow, s", "DuckDB, s"):
        table.add_column(name, justify="left" if name == "file" else "right")
    for name, size in sizes.items():
        times = (f"{seconds[f'{engine} {name}']:.3f}" for engine in ("pyarrow", "duckdb"))
        table.add_row(name, f"{size:.3f}", *times)
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
