"""How benchmarks take their sides in turn."""

import pytest

from benchmarks.reporting import in_turn


def test_sides_are_taken_in_turn() -> None:
    taken: list[str] = []
    ticks = iter(range(100))
    seconds = in_turn(
        {"a": lambda: taken.append("a"), "b": lambda: taken.append("b")}, 5, lambda: float(next(ticks) ** 2)
    )
    assert taken == ["a", "b"] * 6
    assert seconds["b"] > seconds["a"]
    with pytest.raises(ValueError, match="at least 5, found 3"):
        in_turn({}, 3)
