"""Which FAISS files are kept, which are built anew, and why: measured rules, each with a line for the report.

A night's new parts become a new group of FAISS files; what exists is never changed. That alone would leave a
file more to open for each night, rows of pictures that are gone, and inverted lists that were trained on
another catalog. So a group is built anew where little of it lives, small groups are joined once there are too
many, and the lists are trained again when the catalog has outgrown them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipelines.index import IndexOptions, choose_kind
from pipelines.storage.snapshots import Group, Template

SMALL_SHARE = 4
"""A group of less than a quarter of `parts_per_group` parts is small."""


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
) -> Upkeep:
    """Decide what is kept of last night's index.

    Args:
        groups: last night's, of tonight's model.
        template: what they were built with.
        live: part -> its live pictures tonight, new parts too.
        damaged: names of groups, parts and templates of which a file is damaged.
        options: bounds.
    """
    num_rows = sum(live.values())
    kind = choose_kind(num_rows, options)
    reasons: list[str] = []
    if kind == "flat":
        template = None
    elif template is not None:
        why = retraining(groups, template, num_rows, options)
        if template.name in damaged:
            why = f"inverted lists trained anew: a file of template {template.name} is damaged"
        if why:
            reasons.append(why)
            template = None
    name = template.name if template else ""
    kept = [
        group
        for group in groups
        if group.template == name
        and (kind == "flat" or template)
        and any(part in live for part in group.parts)
        and not {group.name, *group.parts} & set(damaged)
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
    built = [group for group in groups if group.template == template.name and group.num_rows]
    rows = sum(group.num_rows for group in built)
    imbalance = sum(group.imbalance * group.num_rows for group in built) / rows if rows else 0.0
    worse = imbalance / template.imbalance if template.imbalance else 0.0
    if worse > options.retrain_imbalance:
        return (
            f"inverted lists trained anew: their imbalance is {imbalance:.2f}, {worse:.1f} times that of the "
            f"training, bound {options.retrain_imbalance:g}"
        )
    return ""


def thin(
    groups: Sequence[Group], live: Mapping[str, int], options: IndexOptions
) -> tuple[list[Group], list[str]]:
    """Leave out groups of which too little lives; their live parts are grouped anew."""
    rows = {group.name: sum(live.get(part, 0) for part in group.parts) for group in groups}
    dead = [group for group in groups if rows[group.name] < options.min_live_share * group.num_rows]
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
