"""The index stage of a night: decide what is kept, train lists where they are needed, build the rest."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow.parquet as pq

from pipelines.index import IndexOptions, build_group, group_of, plan_added, plan_groups
from pipelines.inverted_lists import plan_template, template_of, train_template
from pipelines.lake import Lake
from pipelines.scheduling import Receipt, Unit, fresh_unit
from pipelines.storage.snapshots import Group, Manifest, Part, Template
from pipelines.upkeep import decide, mean_imbalance
from pipelines.workers import TaskWorkers


@dataclass(frozen=True, slots=True)
class Indexed:
    """The index of a snapshot."""

    groups: tuple[Group, ...] = ()
    template: Template | None = None
    """What they were built with; None for exact search."""
    reasons: tuple[str, ...] = ()
    """What was built anew, and why."""


class RunStage(Protocol):
    """Runs units as a stage of a night, with its progress."""

    def __call__(
        self, name: str, total: int, units: Iterable[Unit], workers: TaskWorkers, *, unit: str = "images"
    ) -> Iterable[tuple[Unit, Receipt]]:
        """Yield each unit with its receipt."""
        ...


def index_parts(
    lake: Lake,
    model: str,
    known: Mapping[str, Part],
    parent: Manifest | None,
    live: Mapping[str, int],
    spent: Collection[str],
    options: IndexOptions,
    run: RunStage,
) -> Indexed:
    """Cover every part by one group.

    Args:
        lake: where.
        model: model id.
        known: by name, all parts of tonight and of last night.
        parent: last night's snapshot, if it is of the same model, or of one that it extends.
        live: part -> its live pictures.
        spent: names of units of which a file is damaged.
        options: bounds.
        run: runs units.
    """
    parts = [known[name] for name in sorted(live)]
    if not parts:
        return Indexed()
    groups, template = (parent.groups, parent.template) if parent else ((), None)
    attributes = list(parts[0].files)
    stay = tuple(group for group in groups if _can_stay(group, known, attributes))
    reasons = [f"{len(groups) - len(stay)} groups built anew: dead parts of theirs lack an added attribute"]
    dim = _dimension(lake, parts[0]) if options.max_memory_gib else 0
    found = decide(stay, template, live, spent, options, dim)
    template = found.template
    is_new = found.kind != "flat" and template is None
    if is_new:
        units = [_fresh(plan_template(model, name, parts, found.kind), spent) for name in parts[0].files]
        template = _train(lake, units, found.kind, sum(live.values()), run)
    elif template and (added := [name for name in attributes if name not in template.files]):
        units = [_fresh(plan_template(model, name, parts, template.kind), spent) for name in added]
        trained = _train(lake, units, template.kind, template.num_rows, run)
        # The same lists under more attributes, so what was built with them stays.
        template = replace(template, files={**template.files, **trained.files})

    def work(unit: Unit) -> Receipt:
        return build_group(lake, unit)

    covered = {name for group in found.kept for name in group.parts}
    rest = [part for part in parts if part.name not in covered]
    planned = [*plan_added(model, found.kept, known, template), *plan_groups(model, rest, options, template)]
    units = [_fresh(unit, spent) for unit in planned]
    total = sum(unit.num_images for unit in units)
    made = [(unit.payload.base, receipt) for unit, receipt in run("index", total, units, TaskWorkers(work))]
    extended = {base.name: group_of(receipt, base) for base, receipt in made if base}
    kept = [extended.get(group.name, group) for group in found.kept]
    built = sorted((group_of(receipt) for base, receipt in made if not base), key=lambda group: group.name)
    if template and is_new:
        template = replace(template, imbalance=mean_imbalance(built))
    said = (*(reasons if len(stay) < len(groups) else ()), *found.reasons)
    return Indexed((*kept, *built), template, said)


def _can_stay(group: Group, known: Mapping[str, Part], attributes: Sequence[str]) -> bool:
    """Tell whether a group has every attribute, or its parts, dead ones too, have those that it lacks."""
    wanted = set(attributes) - group.files.keys()
    return all(name in known and wanted <= known[name].files.keys() for name in group.parts)


def _dimension(lake: Lake, part: Part) -> int:
    """Return the components of a vector."""
    with lake.checked(next(iter(part.files.values()))) as path:
        size: int = pq.read_schema(path).field("embedding").type.list_size
    return size


def _train(lake: Lake, units: Sequence[Unit], kind: str, num_rows: int, run: RunStage) -> Template:
    """Train the inverted lists, a unit an attribute."""

    def work(unit: Unit) -> Receipt:
        return train_template(lake, unit)

    total = sum(unit.num_images for unit in units)
    workers = TaskWorkers(work)
    made = {unit.name: receipt for unit, receipt in run("train index", total, units, workers, unit="vectors")}
    return template_of(kind, num_rows, {unit.payload.attribute: made[unit.name] for unit in units})


def _fresh(unit: Unit, spent: Collection[str]) -> Unit:
    """Return the unit under a name of which no file is damaged."""
    return fresh_unit(unit, lambda named: named.name in spent)
