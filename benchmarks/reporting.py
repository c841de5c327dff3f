"""How every benchmark measures and reports: sides in turn, medians, a table, one line of JSON."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "ray", "webdataset", "pyarrow", "faiss-gpu")
MIN_ROUNDS = 5
console = Console(highlight=False, width=130)


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    rounds: int = MIN_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time several things in turn, so that a slow minute of the machine meets them all alike.

    Args:
        sides: by name; each is called once to warm up, then once a round.
        rounds: at least 5, since the median is taken.
        clock: in seconds.

    Returns:
        Median seconds by name.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"rounds: expected at least {MIN_ROUNDS}, found {rounds}")
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            started = clock()
            side()
            seconds[name].append(clock() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def matmul_rate(dtype: torch.dtype, device: torch.device, sizes: tuple[int, ...]) -> Callable[[], float]:
    """Return a measurement of the best rate of a square matrix product, FLOP/s: the floor of all of these."""

    def measure() -> float:
        best = 0.0
        for size in sizes:
            left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            left @ right
            synchronise(device)
            started = time.perf_counter()
            left @ right
            synchronise(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
        return best

    return measure


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine() -> str:
    """Name the hardware: processor, cores, instruction set, GPU."""
    processor = platform.processor() or platform.machine()
    names = Path("/proc/cpuinfo")
    if names.exists():
        lines = [line for line in names.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0].split(":", 1)[1].strip() if lines else processor
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    cpu = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return f"{processor}, {cpu}{gpu}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def report(
    benchmark: str,
    table: Table | None,
    figures: Mapping[str, float],
    floor: Mapping[str, float],
    results: Path | None = None,
) -> None:
    """Print the table, then the line of JSON; write that to a file as well where one is named."""
    if table is not None:
        console.print(table)
    record: dict[str, Any] = {
        "benchmark": benchmark,
        "figures": {name: float(f"{value:.6g}") for name, value in figures.items()},
        "floor": {name: float(f"{value:.6g}") for name, value in floor.items()},
        "machine": machine(),
        "versions": versions(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(record, indent=2) + "\n")
        console.print(f"written to {results}")
    console.out(json.dumps(record))
