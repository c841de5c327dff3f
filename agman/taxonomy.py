"""Ordered attributes with their ordered values: what a model can be asked about."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agman.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One question that can be asked of an image, such as neckline_design."""

    name: str
    """Lower snake case; it becomes a folder name in the lake."""
    values: tuple[str, ...]
    """The answers in label order: value number 3 of a label file is values[3]."""

    def __post_init__(self) -> None:
        """Refuse empty, malformed and repeated names."""
        _check_names([self.name], "attribute name")
        _check_names(self.values, f"value of attribute {self.name!r}")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The ordered attributes of one data set or model; an attribute's position is its row in the network."""

    attributes: tuple[Attribute, ...]
    """In the order of the network's embedding table."""

    def __post_init__(self) -> None:
        """Refuse an empty taxonomy and repeated attributes."""
        _check_names(self.names, "attribute")

    def __len__(self) -> int:
        """Return the number of attributes."""
        return len(self.attributes)

    def __iter__(self) -> Iterator[Attribute]:
        """Iterate over the attributes in order."""
        return iter(self.attributes)

    @property
    def names(self) -> tuple[str, ...]:
        """The attribute names in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def digest(self) -> str:
        """The sha256 in hex of the canonical JSON: changes with any name or order."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def index(self, name: str) -> int:
        """Return the position of an attribute.

        Raises:
            InvalidInput: if there is none of that name; the message lists the known ones.
        """
        return position_in(name, self.names, "attribute")

    def value_index(self, attribute: str, value: str) -> int:
        """Return the position of a value within its attribute.

        Raises:
            InvalidInput: if either name is unknown; the message lists the known ones.
        """
        values = self.attributes[self.index(attribute)].values
        return position_in(value, values, f"value of {attribute}")

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that `from_json` reads back."""
        attributes = [{"name": a.name, "values": list(a.values)} for a in self.attributes]
        return {"attributes": attributes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Taxonomy":
        """Read what `to_json` wrote.

        Raises:
            InvalidInput: if a part is missing, of the wrong type or fails validation.
        """
        try:
            pairs = [(entry["name"], tuple(entry["values"])) for entry in document["attributes"]]
        except (KeyError, TypeError) as error:
            raise InvalidInput(
                'a taxonomy must look like {"attributes": [{"name": ..., "values": [...]}]}; '
                f"reading it failed with {type(error).__name__}: {error}"
            ) from error
        return cls(tuple(Attribute(name, values) for name, values in pairs))


def _check_names(names: Sequence[str], what: str) -> None:
    if not names:
        raise InvalidInput(f"need at least one {what}, found none")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(f"{what} must match [a-z0-9_]+, found {name!r}")
        if name in seen:
            raise InvalidInput(f"{what} {name!r} appears twice")
        seen.add(name)


def position_in(name: str, known: Sequence[str], what: str) -> int:
    """Return where a name stands among the known ones.

    Args:
        name: to look for.
        known: in order.
        what: names the kind of thing in the error.

    Raises:
        InvalidInput: if it is not there; the message lists the known ones and the closest.
    """
    if name in known:
        return known.index(name)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InvalidInput(f"unknown {what} {name!r}; known: {', '.join(known)}.{hint}")


def _attribute(name: str, values: str) -> Attribute:
    return Attribute(name, ("invisible", *values.split()))


FASHIONAI = Taxonomy(
    (
        _attribute("skirt_length", "short knee midi ankle floor"),
        _attribute("sleeve_length", "sleeveless cup short elbow three_quarter wrist long extra_long"),
        _attribute("coat_length", "high_waist regular long micro knee midi ankle_floor"),
        _attribute("pant_length", "short mid three_quarter cropped full"),
        _attribute("collar_design", "shirt_collar peter_pan puritan rib_collar"),
        _attribute("lapel_design", "notched collarless shawl plus_size_shawl"),
        _attribute(
            "neckline_design", "strapless deep_v straight v square off_shoulder round sweetheart one_shoulder"
        ),
        _attribute("neck_design", "turtle ruffle_semi_high low_turtle draped"),
    )
)
"""The eight attributes of FashionAI in label order, 6 9 8 6 5 5 10 5 values; value 0 is invisible."""
