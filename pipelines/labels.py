"""Labels as a taxonomy's indices: what sources name, translated, and a picture's training uses in one."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agman.taxonomy import Taxonomy
from pipelines.dataset import Description

Labels = dict[int, list[int]]
"""Attribute index -> value indices."""


def label_indices(labels: Mapping[str, Sequence[str]], taxonomy: Taxonomy, unknown: Counter[str]) -> Labels:
    """Translate names to indices; what the taxonomy does not know is counted in `unknown`."""
    found: Labels = {}
    names = taxonomy.names
    for attribute, values in labels.items():
        known = taxonomy.attributes[names.index(attribute)].values if attribute in names else ()
        for value in values:
            if value in known:
                found.setdefault(names.index(attribute), []).append(known.index(value))
            else:
                unknown[f"{attribute}={value}"] += 1
    return found


def taught_labels(uses: Iterable[Description], taxonomy: Taxonomy, unknown: Counter[str]) -> Labels:
    """Return all that a picture's uses of role train show; what the taxonomy does not know is counted."""
    found: Labels = {}
    for use in uses:
        if use.role == "train":
            for attribute, values in label_indices(use.labels, taxonomy, unknown).items():
                found[attribute] = list(dict.fromkeys([*found.get(attribute, ()), *values]))
    return found
