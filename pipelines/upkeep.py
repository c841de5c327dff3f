"""Which parts are merged, which FAISS files are built anew, and why: measured rules, each with its line.

A night's new pictures become new parts, and these a new group of FAISS files; what exists is never changed.
That alone would leave files more to open for each night, rows of pictures that are gone, and inverted lists
that were trained on another catalog. So small and thinned parts are merged and small groups joined once there
are too many, a group is built anew where little of it lives, and the lists are trained again when the catalog
has outgrown them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipelines.index import IndexOptions, choose_kind
from pipelines.inverted_lists import is_compressed
from pipelines.repair import unit_names
from pipelines.storage.snapshots import Group, Part, Template

SMALL_SHARE = 4
"""A group of less than a quarter of `parts_per_group` parts is small, a part of so few live pictures too."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What is decided about the index of a snapshot."""

    kind: str
    """`flat`, or FAISS' name of the inverted file that all groups share."""
    template: Template | None
    """The trained lists to go on with; None where `kind` is flat, or they are to be trained."""
    kept: tuple[Group, ...]
    reasons: tuple[str, ...]


def decide(
    groups: Sequence[Group],
    template: Template | None,
    live: Mapping[str, int],
    damaged: Collection[str],
    options: IndexOptions,
    dim: int = 0,
) -> Upkeep:
    """Decide what is kept of last night's index.

    Args:
        groups: last night's, of tonight's model.
        template: what they were built with.
        live: part -> its live pictures tonight, new parts too.
        damaged: names of units (groups, parts, an attribute's trained lists) of which a file is damaged.
        options: bounds.
        dim: of the vectors; needed where `max_memory_gib` bounds them.
    """
    num_rows = sum(live.values())
    kind = choose_kind(num_rows, options, dim)
    reasons: list[str] = []
    if kind == "flat":
        if template is not None:
            reasons.append(f"exact search again: {num_rows} rows, bound {options.exact_rows}")
        template = None
    elif template is not None:
        why = retraining(groups, template, num_rows, options)
        if is_compressed(kind) != is_compressed(template.kind):
            fits = "no longer fit" if is_compressed(kind) else "fit again"
            why = f"inverted lists trained anew: {num_rows} vectors {fits} {options.max_memory_gib:g} GiB"
        if unit_names([entry.name for entry in template.files.values()]) & set(damaged):
            why = f"inverted lists trained anew: a file of {template.name} is damaged"
        if why:
            reasons.append(why)
            template = None
    elif groups:
        reasons.append(f"inverted lists trained: {num_rows} rows, exact search up to {options.exact_rows}")
    name = template.name if template else ""
    kept = [
        group
        for group in groups
        if group.template == name
        and (kind == "flat" or template)
        and any(part in live for part in group.parts)
        and not {group.name, *unit_names([entry.name for entry in group.entries()]), *group.parts}
        & set(damaged)
    ]
    if template:
        kind = template.kind
    kept, thinned = thin(kept, live, options)
    kept, joined = join(kept, options)
    return Upkeep(kind, template, tuple(kept), (*reasons, *thinned, *joined))


def retraining(groups: Sequence[Group], template: Template, num_rows: int, options: IndexOptions) -> str:
    """Return why the lists no longer fit the catalog; empty where they do."""
    growth = num_rows / template.num_rows
    if growth > options.retrain_growth:
        return (
            f"inverted lists trained anew: {num_rows} rows are {growth:.1f} times those of the training, "
            f"bound {options.retrain_growth:g}"
        )
    imbalance = mean_imbalance([group for group in groups if group.template == template.name])
    worse = imbalance / template.imbalance if template.imbalance else 0.0
    if worse > options.retrain_imbalance:
        return (
            f"inverted lists trained anew: their imbalance is {imbalance:.2f}, {worse:.1f} times that of the "
            f"training, bound {options.retrain_imbalance:g}"
        )
    return ""


def mean_imbalance(groups: Sequence[Group]) -> float:
    """Return the imbalance of groups, each counted by its rows; 0 where there are none.

    Groups are compared with groups: each holds a piece of the catalog, and would look unequal beside the
    whole of it, however well the lists fit.
    """
    num_rows = sum(group.num_rows for group in groups)
    return sum(group.imbalance * group.num_rows for group in groups) / num_rows if num_rows else 0.0


def small_parts(
    parts: Sequence[Part], live: Mapping[str, int], rows_per_part: int, options: IndexOptions
) -> list[Part]:
    """Return the parts to merge: all small and thinned ones, none while there are few of them.

    Args:
        parts: those that hold a live picture.
        live: part -> its live pictures.
        rows_per_part: pictures of a full part.
        options: bounds.
    """
    found = [
        part
        for part in parts
        if SMALL_SHARE * live[part.name] < rows_per_part
        or live[part.name] < options.min_live_share * part.num_rows
    ]
    return found if len(found) > options.max_small_parts else []


def thin(
    groups: Sequence[Group], live: Mapping[str, int], options: IndexOptions
) -> tuple[list[Group], list[str]]:
    """Leave out groups of which too little lives; their live parts are grouped anew.

    A group without a dead part stays: of the same parts the same group would be built.
    """
    rows = {group.name: sum(live.get(part, 0) for part in group.parts) for group in groups}
    dead = [
        group
        for group in groups
        if rows[group.name] < options.min_live_share * group.num_rows
        and any(part not in live for part in group.parts)
    ]
    if not dead:
        return list(groups), []
    total, alive = sum(group.num_rows for group in dead), sum(rows[group.name] for group in dead)
    said = (
        f"{len(dead)} groups built anew: {alive} of their {total} rows live, "
        f"bound {options.min_live_share:.0%}"
    )
    return [group for group in groups if group not in dead], [said]


def join(groups: Sequence[Group], options: IndexOptions) -> tuple[list[Group], list[str]]:
    """Leave out small groups where there are too many; their parts are grouped together."""
    small = [group for group in groups if SMALL_SHARE * len(group.parts) < options.parts_per_group]
    if len(small) <= options.max_small_groups:
        return list(groups), []
    rows = sum(group.num_rows for group in small)
    said = (
        f"{len(small)} small groups of {rows} rows joined: each is a file that every search opens, "
        f"bound {options.max_small_groups}"
    )
    return [group for group in groups if group not in small], [said]
