import io
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agman.errors import CheckpointMismatch, InvalidInput
from agman.taxonomy import Attribute, Taxonomy
from agman.triplets import NO_NEGATIVE, NO_PICTURE, NO_POSITIVE, TripletBuffer, Triplets

TAXONOMY = Taxonomy((Attribute("neck", ("v", "round", "square")), Attribute("sleeve", ("short", "long"))))
Labels = dict[int, list[int]]
LABELS = st.fixed_dictionaries(
    {}, optional={0: st.lists(st.integers(0, 2), max_size=3), 1: st.lists(st.integers(0, 1), max_size=2)}
)
CHANGES = st.lists(st.tuples(st.integers(0, 11), LABELS), max_size=40)


def replay(changes: list[tuple[int, Labels]], seed: int = 0) -> tuple[TripletBuffer, dict[int, Labels]]:
    """A change removes the slot where it is taken, else adds it."""
    buffer, held = TripletBuffer(TAXONOMY, seed=seed), {}
    for slot, labels in changes:
        if slot in held:
            buffer.remove(slot)
            del held[slot]
        else:
            buffer.add(slot, labels)
            held[slot] = labels
    return buffer, held


def showing(held: dict[int, Labels], attribute: int, value: int) -> set[int]:
    return {slot for slot, labels in held.items() if value in labels.get(attribute, [])}


def labelled(held: dict[int, Labels], attribute: int) -> set[int]:
    return {slot for slot, labels in held.items() if labels.get(attribute)}


def usable(held: dict[int, Labels]) -> set[tuple[int, int]]:
    return {
        (a, v)
        for a, attribute in enumerate(TAXONOMY)
        for v in range(len(attribute.values))
        if len(showing(held, a, v)) >= 2 and labelled(held, a) - showing(held, a, v)
    }


def rows(triplets: Triplets) -> list[tuple[int, int, int, int]]:
    columns = (triplets.attribute, triplets.anchor, triplets.positive, triplets.negative)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(deadline=None)
@given(CHANGES)
def test_every_draw_follows_the_law(changes: list[tuple[int, Labels]]) -> None:
    buffer, held = replay(changes)
    assert len(buffer) == len(held)
    if not usable(held):
        with pytest.raises(InvalidInput, match="no triplet can be drawn"):
            buffer.draw(3)
        return
    for attribute, anchor, positive, negative in rows(buffer.draw(30)):
        assert anchor != positive
        shared = set(held[anchor][attribute]) & set(held[positive][attribute])
        assert held[negative][attribute]
        assert shared - set(held[negative][attribute])


@settings(deadline=None)
@given(CHANGES)
def test_unusable_values_are_told_with_their_reason(changes: list[tuple[int, Labels]]) -> None:
    buffer, held = replay(changes)
    expected = {}
    for a, attribute in enumerate(TAXONOMY):
        for v, name in enumerate(attribute.values):
            if (a, v) not in usable(held):
                count = len(showing(held, a, v))
                expected[attribute.name, name] = (
                    count,
                    {0: NO_PICTURE, 1: NO_POSITIVE}.get(count, NO_NEGATIVE),
                )
    assert {(u.attribute, u.value): (u.count, u.reason) for u in buffer.unusable()} == expected


def chi_square(found: Counter, expected: dict[object, float]) -> float:
    """Per degree of freedom; above 3 has a chance below 1 in 1,000 for the cells used here."""
    assert set(found) == set(expected)
    total = sum(found.values())
    return sum((found[k] - total * p) ** 2 / (total * p) for k, p in expected.items()) / (len(expected) - 1)


def test_draws_are_uniform_at_every_stage() -> None:
    neck = [0] * 5 + [1] * 2 + [2]
    held = {slot: {0: [value]} for slot, value in enumerate(neck)}
    held |= {8 + slot: {1: [value]} for slot, value in enumerate([0, 0, 0, 1, 1])}
    buffer, _ = replay(list(held.items()))
    drawn = rows(buffer.draw(60_000))
    value_of = {slot: next(iter(labels.values()))[0] for slot, labels in held.items()}
    values = Counter((a, value_of[anchor]) for a, anchor, _, _ in drawn)
    # Square is shown by one picture: no anchor, but a negative.
    assert chi_square(values, {(0, 0): 0.25, (0, 1): 0.25, (1, 0): 0.25, (1, 1): 0.25}) < 3
    pairs = Counter((anchor, positive) for a, anchor, positive, _ in drawn if (a, value_of[anchor]) == (0, 0))
    assert chi_square(pairs, {(i, j): 1 / 20 for i in range(5) for j in range(5) if i != j}) < 3
    negatives = Counter(n for a, anchor, _, n in drawn if (a, value_of[anchor]) == (0, 0))
    assert chi_square(negatives, {5: 1 / 3, 6: 1 / 3, 7: 1 / 3}) < 3


def test_a_value_of_nearly_every_picture_still_finds_its_negatives() -> None:
    buffer = TripletBuffer(TAXONOMY, seed=3)
    for slot in range(3000):
        buffer.add(slot, {0: [0] if slot not in (70, 2100) else [2, 1]})
    drawn = buffer.draw(4000)
    frequent = drawn.anchor[(drawn.anchor != 70) & (drawn.anchor != 2100)]
    negatives = Counter(n for n in drawn.negative.tolist() if n in (70, 2100))
    assert sum(negatives.values()) == len(frequent)
    assert chi_square(negatives, {70: 0.5, 2100: 0.5}) < 8


def test_resumes_exactly_through_a_weights_only_file() -> None:
    """Whatever order the pictures came in: a pool that is filled again knows which, not when."""
    held = {slot: {0: [slot % 3], 1: [slot % 2]} for slot in range(12)}
    whole, _ = replay([*held.items(), (3, {}), (7, {}), (7, held[7]), (3, held[3])], seed=5)
    whole.draw(7)
    stream = io.BytesIO()
    torch.save(whole.state_dict(), stream)
    stream.seek(0)
    resumed, _ = replay(list(held.items()), seed=99)
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    assert rows(resumed.draw(50)) == rows(whole.draw(50))
    for buffer in (whole, resumed):
        buffer.remove(3)
        buffer.remove(11)
    assert rows(resumed.draw(50)) == rows(whole.draw(50))


def test_the_state_of_other_pictures_is_refused() -> None:
    state = replay([(0, {0: [0]}), (1, {0: [1]})])[0].state_dict()
    with pytest.raises(CheckpointMismatch, match="other pictures or labels"):
        replay([(0, {0: [1]}), (1, {0: [0]})])[0].load_state_dict(state)


def test_mistakes_are_named() -> None:
    buffer = TripletBuffer(TAXONOMY, seed=0)
    buffer.add(0, {0: [1]})
    for slot, labels, message in [
        (0, {}, "slot 0 is taken"),
        (-1, {}, "slot -1 is negative"),
        (1, {2: [0]}, "attribute 2 is outside"),
        (1, {0: [3]}, "value 3 of neck is outside"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            buffer.add(slot, labels)
    with pytest.raises(InvalidInput, match="slot 1 is empty"):
        buffer.remove(1)
    assert len(buffer) == 1


def test_draw_of_nothing_is_empty() -> None:
    buffer, _ = replay([(0, {0: [0]}), (1, {0: [0]}), (2, {0: [1]})])
    assert buffer.draw(0).negative.shape == (0,)
    assert buffer.draw(4).anchor.dtype == np.int64
