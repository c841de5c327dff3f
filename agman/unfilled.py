"""Networks as mere shapes, for weights that are put in afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FILLS = frozenset({"normal_", "uniform_", "kaiming_uniform_", "constant_", "fill_", "zero_"})
"""How `torch.nn` gives weights their first values."""


class _Unfilled(TorchFunctionMode):
    """Fills no tensor of device meta: it holds nothing, and PyTorch would import its compiler to fill it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        filled = args[0] if args else named.get("tensor")
        if getattr(func, "__name__", "") in _FILLS and filled is not None and filled.is_meta:
            return filled
        return func(*args, **named)


@contextmanager
def unfilled() -> Iterator[None]:
    """Build networks without memory and without drawing their first weights for the time of a `with`."""
    with torch.device("meta"), _Unfilled():
        yield
