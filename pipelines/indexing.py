"""The index stage of a night: decide what is kept, train lists where they are needed, build the rest."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow.parquet as pq

from pipelines.index import IndexOptions, build_group, group_of, plan_groups
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
    parts: Sequence[Part],
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
        parts: those that hold a live picture.
        parent: last night's snapshot, if it is of the same model.
        live: part -> its live pictures.
        spent: names of units of which a file is damaged.
        options: bounds.
        run: runs units.
    """
    if not parts:
        return Indexed()
    groups, template = (parent.groups, parent.template) if parent else ((), None)
    dim = _dimension(lake, parts[0]) if options.max_memory_gib else 0
    found = decide(groups, template, live, spent, options, dim)
    template = found.template
    is_new = found.kind != "flat" and template is None
    if is_new:
        units = [_fresh(plan_template(model, name, parts, found.kind), spent) for name in parts[0].files]
        template = _train(lake, units, found.kind, sum(live.values()), run)

    def work(unit: Unit) -> Receipt:
        return build_group(lake, unit)

    covered = {name for group in found.kept for name in group.parts}
    rest = [part for part in parts if part.name not in covered]
    units = [_fresh(unit, spent) for unit in plan_groups(model, rest, options, template)]
    total = sum(unit.num_images for unit in units)
    made = [receipt for _, receipt in run("index", total, units, TaskWorkers(work))]
    built = sorted(map(group_of, made), key=lambda group: group.name)
    if template and is_new:
        template = replace(template, imbalance=mean_imbalance(built))
    return Indexed((*found.kept, *built), template, found.reasons)


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
