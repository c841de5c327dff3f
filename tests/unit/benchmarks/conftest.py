"""What the tests of benchmarks share."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _threads_are_given_back() -> Iterator[None]:
    """A benchmark sets PyTorch's threads for its whole process, which here is that of all tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """Give what a benchmark said in its last line."""
    return lambda: json.loads(capsys.readouterr().out.strip().splitlines()[-1])
