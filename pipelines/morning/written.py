"""Figures as a person reads them: with units, with the digits that matter, a dash where there is none."""

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Undefined

NO_FIGURE = "\N{EN DASH}"


def by_size(numbers: Mapping[str, float] | None) -> list[tuple[str, float]]:
    """Return names with their numbers, largest first."""
    return sorted((numbers or {}).items(), key=lambda item: -item[1])


def number_of(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def figure(value: Any, digits: int = 3) -> str:
    """Write a figure; whole ones as counts, a dash where there is none."""
    number = number_of(value)
    if number is None:
        return NO_FIGURE
    return f"{value:,}" if isinstance(value, int) else f"{number:,.{digits}f}"


def measure(value: Any) -> str:
    """Write a figure of unknown scale with four digits that matter: norms err by millionths."""
    number = number_of(value)
    return f"{number:.4g}" if number is not None and isinstance(value, float) else figure(value)


def duration(seconds: Any) -> str:
    """Write seconds in the units that a person counts them in."""
    number = number_of(seconds)
    if number is None:
        return NO_FIGURE
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: Any) -> str:
    """Write a number of bytes."""
    number = number_of(num_bytes)
    if number is None:
        return NO_FIGURE
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def shown(value: Any) -> Any:
    """Return what a template prints: a dash for nothing."""
    return NO_FIGURE if value is None or isinstance(value, Undefined) else value
