"""The order in which the suite runs: a file that was renamed must not fall behind unnoticed."""

import pytest
from conftest import LONG, TESTS


@pytest.mark.parametrize("name", LONG)
def test_a_long_file_is_there(name: str) -> None:
    assert (TESTS / name).is_file()
