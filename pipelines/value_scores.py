"""How often a model names the right value of held-out pictures, and knows where none applies."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agman.fitting import Evidence, weigh
from agman.prototypes import ABSENT, UNKNOWN, most_values
from agman.taxonomy import Taxonomy
from pipelines.held_out import HeldOut, Positions

Figures = dict[str, float | int | None]
"""Of one attribute, or of all:

- value_accuracy: of the pictures that have the attribute, the share whose row names a value that they show;
  one that is said not to have it counts as wrong
- most_common: what naming the attribute's most common value every time would give
- num_having, num_said_having: pictures that have the attribute, and whose row names a value of it, among
  those of which labels tell; where no probe tells who has it, a value is named of all but what looks like
  nothing that was learned from
- num_lacking: pictures that labels tell not to have it
- absent_precision, absent_recall: of "does not apply"; None where there is nothing to divide by
"""


def score_values(
    held_out: HeldOut, positions: Positions, said: NDArray[np.int64], taxonomy: Taxonomy
) -> dict[str, Any] | None:
    """Judge what a model says of held-out pictures.

    Args:
        held_out: the lines that tell what P pictures show.
        positions: [N] in `held_out.pictures`.
        said: [N, A] positions among an attribute's values, ABSENT or UNKNOWN.
        taxonomy: the model's A attributes.

    Returns:
        {"attributes": {name: figures}, "overall": figures}; None where no picture has a value.
    """
    evidence = weigh(_labels(held_out, taxonomy)[torch.from_numpy(positions)], taxonomy)
    counts = {
        name: _count(evidence, said[:, index], index)
        for index, name in enumerate(taxonomy.names)
        if bool(evidence.has[:, index].any()) and (said[:, index] != UNKNOWN).any()
    }
    if not counts:
        return None
    pooled = {name: sum(count[name] for count in counts.values()) for name in next(iter(counts.values()))}
    return {
        "attributes": {name: _figures(count) for name, count in counts.items()},
        "overall": _figures(pooled),
    }


def _labels(held_out: HeldOut, taxonomy: Taxonomy) -> torch.Tensor:
    """Return what the lines say: [P, A, V] bool."""
    labels = torch.zeros(len(held_out.pictures), len(taxonomy), most_values(taxonomy), dtype=torch.bool)
    for attribute, sides in held_out.lists.items():
        for lines in sides:
            labels[torch.from_numpy(lines.pictures), attribute, torch.from_numpy(lines.values)] = True
    return labels


def _count(evidence: Evidence, said: NDArray[np.int64], attribute: int) -> dict[str, int]:
    shown, lacks = evidence.shown[:, attribute].numpy(), evidence.lacks[:, attribute].numpy()
    has = shown.any(axis=1)
    absent = said == ABSENT
    named = said >= 0
    return {
        "right": int(shown[named, said[named]].sum()),
        "common": int(shown.sum(axis=0).max()),
        "having": int(has.sum()),
        "said_having": int((named & (has | lacks)).sum()),
        "lacking": int(lacks.sum()),
        "said_absent": int((absent & (has | lacks)).sum()),
        "rightly_absent": int((absent & lacks).sum()),
    }


def _figures(counts: Mapping[str, int]) -> Figures:
    return {
        "value_accuracy": _share(counts["right"], counts["having"]),
        "most_common": _share(counts["common"], counts["having"]),
        "num_having": counts["having"],
        "num_said_having": counts["said_having"],
        "num_lacking": counts["lacking"],
        # Where labels never tell of absence there is nothing that could be right or wrong.
        "absent_precision": _share(
            counts["rightly_absent"], counts["said_absent"] if counts["lacking"] else 0
        ),
        "absent_recall": _share(counts["rightly_absent"], counts["lacking"]),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
