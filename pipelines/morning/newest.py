"""What the newest pictures of a snapshot show: values counted, and a map of a sample under each attribute.

A night does not read all of its index again, so the page looks at the newest groups.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agman.prototypes import INVISIBLE
from pipelines.morning.drawn import dots, in_map
from pipelines.search import Searcher
from pipelines.storage.snapshots import Manifest

SHOWN_ROWS = 100_000
"""Pictures, the newest, that a page looks at, and more as far as a group has more."""
MAPPED = 600
"""Pictures of a map."""
COLOURS = 9
"""Values that get a colour of their own; the rarer ones share one."""
OTHERS, UNNAMED = "other values", "no value known"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cloud:
    """The pictures of one value."""

    value: str
    count: int
    path: str
    """Of an SVG in a box of `drawn.MAP`."""

    @property
    def has_colour(self) -> bool:
        """Whether it is one value's, and not of those that have no colour of their own."""
        return self.value not in (OTHERS, UNNAMED)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeMap:
    """A sample of pictures by how alike they are under one attribute, in two dimensions."""

    attribute: str
    clouds: tuple[Cloud, ...]
    """Most pictures first."""
    labelled: bool
    """Whether values are those of labels, else they are what the model says."""
    explained: float
    """Share of the pictures' variance that the two dimensions have."""


def newest(manifest: Manifest) -> Manifest:
    """Return a manifest with the newest groups alone, which stand last: of SHOWN_ROWS together at least."""
    groups = manifest.groups
    rows = np.cumsum([group.num_rows for group in reversed(groups)])
    first = int(np.searchsorted(rows[:-1], SHOWN_ROWS)) if groups else 0
    return replace(manifest, groups=groups[-1 - first :] if groups else ())


def count_values(searcher: Searcher) -> dict[str, dict[str, Any]]:
    """Count what the model says of all live pictures.

    Returns:
        By attribute: {"named": {value: pictures}, "absent": pictures that are said not to have it,
        "unknown": pictures of which it says nothing}.
    """
    shows = searcher.shows()
    counted = {}
    for attribute in searcher.attributes:
        said: Any = pc.struct_field(shows, [attribute]) if shows.type.num_fields else pa.nulls(len(shows))
        value, applies = (
            (pc.struct_field(said, [name]) for name in ("value", "applies"))
            if pa.types.is_struct(said.type)
            else (pa.nulls(len(shows)), pa.nulls(len(shows), pa.bool_()))
        )
        found = Counter(value.drop_null().to_pylist())
        absent = int(pc.sum(pc.and_(pc.is_null(value), pc.fill_null(pc.invert(applies), False))).as_py() or 0)
        unknown = len(shows) - found.total() - absent
        counted[attribute] = {"named": dict(found.most_common()), "absent": absent, "unknown": unknown}
    return counted


def draw_maps(searcher: Searcher) -> list[AttributeMap]:
    """Lay out a sample of the live pictures under each attribute: those that have it, as far as is known."""
    positions = searcher.sample(MAPPED)
    if len(positions) < 2:
        return []
    labels = searcher.labels_at(positions)
    shows = searcher.shown_at(positions.tolist())
    maps = []
    for attribute in searcher.attributes:
        said = [each[attribute].value for each in shows]
        given = [label_of(each, attribute) for each in labels]
        labelled = 2 * sum(value is not None for value in given) > sum(value is not None for value in said)
        vectors, values = searcher.vectors_at(attribute, positions), given if labelled else said
        maps.append(_map_of(attribute, vectors, values, labelled=labelled))
    return maps


def label_of(labels: Mapping[str, Sequence[str]], attribute: str) -> str | None:
    """Return the first value that labels give an attribute; None where they name none."""
    return next((value for value in labels.get(attribute) or () if value != INVISIBLE), None)


def _map_of(
    attribute: str, vectors: NDArray[np.float32], values: Sequence[str | None], *, labelled: bool
) -> AttributeMap:
    """Lay out the pictures that have a value; all where none has one."""
    named = np.array([value is not None for value in values])
    if named.sum() < 2:
        named, values = np.ones(len(values), bool), [UNNAMED] * len(values)
    kept = [value for value in values if value is not None]
    most = [value for value, _ in Counter(kept).most_common(COLOURS)]
    flat, explained = principal_plane(vectors[named])
    places = in_map(flat)
    groups = np.array([value if value in most else OTHERS for value in kept])
    clouds = [
        Cloud(value=value, count=int((groups == value).sum()), path=dots(places[groups == value]))
        for value in (*most, OTHERS)
        if (groups == value).any()
    ]
    return AttributeMap(attribute=attribute, clouds=tuple(clouds), labelled=labelled, explained=explained)


def principal_plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Project vectors [N, D] onto their first two principal components.

    Returns:
        [N, 2], of a sign that does not depend on the machine, and the share of the variance that they have.
    """
    left, strengths, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    plane = np.zeros((len(vectors), 2), np.float32)
    width = min(2, len(strengths))
    plane[:, :width] = left[:, :width] * strengths[:width]
    plane *= np.where(np.take_along_axis(plane, np.abs(plane).argmax(axis=0)[None], axis=0) < 0, -1, 1)
    total = float((strengths**2).sum())
    return plane, float((strengths[:2] ** 2).sum()) / total if total else 1.0


def moved(counted: Mapping[str, Any], before: Mapping[str, Any]) -> float | None:
    """Return which share of the named pictures would have to change their value to be named as before.

    Args:
        counted: of one attribute, as `count_values` gives it.
        before: the same of another night.

    Returns:
        In [0, 1], the total variation distance; None where either names nothing.
    """
    now, then = shares_of(counted), shares_of(before)
    if not now or not then:
        return None
    return sum(abs(now.get(value, 0) - then.get(value, 0)) for value in now.keys() | then.keys()) / 2


def shares_of(counted: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of each value among the pictures that one is named of."""
    named = counted.get("named") or {}
    total = sum(named.values())
    return {value: number / total for value, number in named.items()} if total else {}
