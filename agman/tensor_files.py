"""Files of torch from elsewhere, read as plain tensors and values: nothing in them is executed."""

import codecs
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agman.errors import CheckpointMismatch, InvalidInput

# The authors' "prec" may be a numpy scalar; these rebuild one and can do nothing else.
_REBUILD_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
_NUMPY_SCALAR: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_REBUILD_SCALAR, "numpy.core.multiarray.scalar"),
    (_REBUILD_SCALAR, "numpy._core.multiarray.scalar"),
    (codecs.encode, "_codecs.encode"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]
# What torch's restricted reader raises on files that are damaged or of another kind.
_READ_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AssertionError,
    TypeError, AttributeError, struct.error,
)  # fmt: skip


def read_tensor_file(path: Path, what: str) -> Any:
    """Read a file of `torch.save` on the CPU.

    Args:
        path: the file.
        what: names its kind in errors, such as "trunk weights".

    Raises:
        InvalidInput: if there is no such file.
        CheckpointMismatch: if it is damaged, of another kind, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise InvalidInput(f"no {what} at {path}")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALAR):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        # Not torch's own words: they advise to load it without the restriction.
        raise CheckpointMismatch(
            f"{path}: no {what} of plain tensors: damaged, of another kind, or with code, which is never run"
        ) from error
