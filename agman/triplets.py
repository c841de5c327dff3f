"""Seeded draws of triplets from pictures that come and go.

The published law: attribute uniform, value uniform, anchor and positive two different pictures of that value,
negative uniform among the attribute's pictures that lack the value. The published sampler loops for ever on a
value with fewer than two pictures; here what cannot be drawn is left out and told by `unusable`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agman.errors import CheckpointMismatch, InvalidInput
from agman.taxonomy import Taxonomy

NO_PICTURE = "no picture shows it"
"""Reason of an unusable value: nothing to draw."""
NO_POSITIVE = "only one picture shows it, so it has no positive"
"""Reason of an unusable value: an anchor needs a second picture."""
NO_NEGATIVE = "every picture of the attribute shows it, so it has no negative"
"""Reason of an unusable value: the attribute has no other value."""
_REJECTION_ROUNDS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Triplets:
    """N draws; pictures are named by their slots."""

    attribute: NDArray[np.int64]
    """[N], positions in the taxonomy."""
    anchor: NDArray[np.int64]
    """[N]."""
    positive: NDArray[np.int64]
    """[N], another picture that shares a value with the anchor."""
    negative: NDArray[np.int64]
    """[N], a picture that lacks that value and has another one of the attribute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnusableValue:
    """A value that no triplet can be drawn for at present."""

    attribute: str
    """Its attribute's name."""
    value: str
    """Its own name."""
    count: int
    """Pictures that show it."""
    reason: str
    """What is lacking, for a person."""


class _SlotList:
    """A set of slots with O(1) add, remove and access by position; removing swaps with the last."""

    __slots__ = ("_positions", "slots")

    def __init__(self) -> None:
        self.slots: list[int] = []
        self._positions: dict[int, int] = {}

    def add(self, slot: int) -> None:
        self._positions[slot] = len(self.slots)
        self.slots.append(slot)

    def remove(self, slot: int) -> None:
        position, last = self._positions.pop(slot), self.slots.pop()
        if last != slot:
            self.slots[position] = last
            self._positions[last] = position

    def reorder(self, slots: list[int]) -> None:
        self.slots = slots
        self._positions = {slot: position for position, slot in enumerate(slots)}


class TripletBuffer:
    """Index from (attribute, value) to the slots of the pictures held now, and the draws from it."""

    def __init__(self, taxonomy: Taxonomy, *, seed: int) -> None:
        """Start empty.

        Args:
            taxonomy: names and counts the values; pictures are labelled by position in it.
            seed: of the draws.
        """
        self.taxonomy = taxonomy
        sizes = [len(attribute.values) for attribute in taxonomy]
        # Values of all attributes are numbered through: value v of attribute a is column offset[a] + v.
        self._offset = np.concatenate([[0], np.cumsum(sizes)])
        self._attribute_of = np.repeat(np.arange(len(sizes)), sizes)
        self._by_attribute = [_SlotList() for _ in sizes]
        self._by_column = [_SlotList() for _ in self._attribute_of]
        self._attribute_counts = np.zeros(len(sizes), np.int64)
        self._counts = np.zeros(len(self._attribute_of), np.int64)
        self._shows = np.zeros((0, len(self._attribute_of)), np.bool_)
        self._labels: dict[int, dict[int, list[int]]] = {}
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return the number of pictures held."""
        return len(self._labels)

    def add(self, slot: int, labels: Mapping[int, Sequence[int]]) -> None:
        """Enter a picture.

        Args:
            slot: its place in the caller's store, at least 0; small numbers keep the index small.
            labels: attribute index -> value indices; an attribute may have several values or be absent.

        Raises:
            InvalidInput: if the slot is taken or negative, or a label is not in the taxonomy.
        """
        if slot < 0 or slot in self._labels:
            raise InvalidInput(
                f"slot {slot} is {'negative' if slot < 0 else 'taken'}; remove it before adding"
            )
        columns = {attribute: self._columns(attribute, values) for attribute, values in labels.items()}
        columns = {attribute: found for attribute, found in columns.items() if found}
        self._grow(slot)
        for attribute, found in columns.items():
            self._by_attribute[attribute].add(slot)
            self._attribute_counts[attribute] += 1
            for column in found:
                self._by_column[column].add(slot)
                self._counts[column] += 1
                self._shows[slot, column] = True
        self._labels[slot] = columns

    def remove(self, slot: int) -> None:
        """Take a picture out.

        Raises:
            InvalidInput: if the slot is empty.
        """
        if slot not in self._labels:
            raise InvalidInput(f"slot {slot} is empty; nothing to remove")
        for attribute, columns in self._labels.pop(slot).items():
            self._by_attribute[attribute].remove(slot)
            self._attribute_counts[attribute] -= 1
            for column in columns:
                self._by_column[column].remove(slot)
                self._counts[column] -= 1
                self._shows[slot, column] = False

    def draw(self, num_triplets: int) -> Triplets:
        """Draw triplets, each independent of the others.

        Raises:
            InvalidInput: if no value of any attribute is usable.
        """
        columns = self._draw_columns(num_triplets)
        anchor_index = self._random.integers(self._counts[columns])
        # A draw from one fewer that skips the anchor's place is uniform over the others.
        positive_index = self._random.integers(self._counts[columns] - 1)
        positive_index += positive_index >= anchor_index
        return Triplets(
            attribute=self._attribute_of[columns],
            anchor=_pick(self._by_column, columns, anchor_index),
            positive=_pick(self._by_column, columns, positive_index),
            negative=self._draw_negatives(columns),
        )

    def unusable(self) -> list[UnusableValue]:
        """Tell which values cannot be drawn now, in the order of the taxonomy."""
        found = []
        usable = self._usable()
        for column in np.flatnonzero(~usable):
            position = self._attribute_of[column]
            attribute, count = self.taxonomy.attributes[position], int(self._counts[column])
            found.append(
                UnusableValue(
                    attribute=attribute.name,
                    value=attribute.values[column - self._offset[position]],
                    count=count,
                    reason=(NO_PICTURE, NO_POSITIVE, NO_NEGATIVE)[min(count, 2)],
                )
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and the order of the pictures within each value and attribute.

        Plain values and int64 tensors, safe to read weights-only.
        """
        return {
            "random": dict(self._random.bit_generator.state),
            "order": [torch.tensor(held.slots, dtype=torch.int64) for held in self._lists()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where `state_dict` was taken; the same pictures must be in the same slots.

        Raises:
            CheckpointMismatch: if other pictures are held.
        """
        orders = [order.tolist() for order in state["order"]]
        if [sorted(order) for order in orders] != [sorted(held.slots) for held in self._lists()]:
            raise CheckpointMismatch(
                "the state of the draws is of other pictures or labels than are held here"
            )
        for held, order in zip(self._lists(), orders, strict=True):
            held.reorder(order)
        self._random.bit_generator.state = dict(state["random"])

    def _lists(self) -> list[_SlotList]:
        return [*self._by_attribute, *self._by_column]

    def _columns(self, attribute: int, values: Sequence[int]) -> list[int]:
        if not 0 <= attribute < len(self.taxonomy):
            raise InvalidInput(f"attribute {attribute} is outside [0, {len(self.taxonomy)})")
        size = len(self.taxonomy.attributes[attribute].values)
        wrong = [value for value in values if not 0 <= value < size]
        if wrong:
            name = self.taxonomy.attributes[attribute].name
            raise InvalidInput(f"value {wrong[0]} of {name} is outside [0, {size})")
        return [int(self._offset[attribute]) + value for value in sorted(set(values))]

    def _grow(self, slot: int) -> None:
        """Make room for a slot; doubling keeps adding O(1) on average."""
        num_slots, num_columns = self._shows.shape
        if slot >= num_slots:
            added = np.zeros((max(slot + 1, 2 * num_slots) - num_slots, num_columns), np.bool_)
            self._shows = np.concatenate([self._shows, added])

    def _usable(self) -> NDArray[np.bool_]:
        """Tell which columns have two pictures and a picture of the attribute without them."""
        usable: NDArray[np.bool_] = self._counts >= 2
        return usable & (self._attribute_counts[self._attribute_of] > self._counts)

    def _draw_columns(self, num_triplets: int) -> NDArray[np.int64]:
        """Draw an attribute, then one of its usable values: [N] columns."""
        usable = np.flatnonzero(self._usable())
        if not len(usable):
            raise InvalidInput(
                f"no triplet can be drawn from {len(self)} pictures: an attribute needs two pictures of one "
                f"value and one of another; attributes: {', '.join(self.taxonomy.names)}"
            )
        _, first, sizes = np.unique(self._attribute_of[usable], return_index=True, return_counts=True)
        attributes = self._random.integers(len(first), size=num_triplets)
        columns: NDArray[np.int64] = usable[first[attributes] + self._random.integers(sizes[attributes])]
        return columns

    def _draw_negatives(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw pictures of each column's attribute that lack the column's value: [N] slots."""
        negatives = np.empty(len(columns), np.int64)
        open_rows = np.arange(len(columns))
        for _ in range(_REJECTION_ROUNDS):
            if not len(open_rows):
                return negatives
            attributes = self._attribute_of[columns[open_rows]]
            drawn = self._random.integers(self._attribute_counts[attributes])
            negatives[open_rows] = _pick(self._by_attribute, attributes, drawn)
            open_rows = open_rows[self._shows[negatives[open_rows], columns[open_rows]]]
        # A value that nearly every picture shows: list the few others instead of trying on.
        for column in np.unique(columns[open_rows]):
            rows = open_rows[columns[open_rows] == column]
            members = np.array(self._by_attribute[self._attribute_of[column]].slots)
            others = members[~self._shows[members, column]]
            negatives[rows] = others[self._random.integers(len(others), size=len(rows))]
        return negatives


def _pick(
    lists: Sequence[_SlotList], which: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Take one slot from each of the N lists named: [N]."""
    pairs = zip(which.tolist(), positions.tolist(), strict=True)
    return np.array([lists[number].slots[position] for number, position in pairs], np.int64)
