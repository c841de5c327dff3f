"""What a report's figures mean: whether the night is well, what a model beats, which gate is the nearest."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.morning.written import by_size, figure, measure, number_of

Level = Literal["ok", "warn", "bad", "none"]

BASELINES = ("untrained", "pixels", "random")
"""What a model must beat to have learned something, as the evaluation names them."""
GATES_BY_ATTRIBUTE = ("recall@10", "self-query", "unit norm", "probe cosine", "model overlap@10")
"""Kinds of gates that run once per attribute; the page folds each into one row."""
COUNTED = ("num_queries", "num_candidates", "num_triplets")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the first screen: whether a side of the night is well."""

    level: Level
    name: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GateKind:
    """Gates of one kind over all attributes."""

    name: str
    gates: tuple[Mapping[str, Any], ...]
    worst: Mapping[str, Any]
    """The gate nearest to its bound or furthest beyond it."""
    worst_attribute: str
    """Empty where the kind has no attributes."""

    @property
    def failed(self) -> list[Mapping[str, Any]]:
        """The gates of this kind that did not pass."""
        return [gate for gate in self.gates if not gate.get("passed")]


@dataclass(frozen=True, slots=True)
class Measure:
    """What an evaluation measures."""

    key: str
    """Its name among the figures."""
    short: str
    long: str


MEASURES = {
    "map": Measure("map", "MAP", "Mean average precision"),
    "triplet_accuracy": Measure("triplet_accuracy", "Right triplets", "Share of right triplets"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """MAP of one attribute, or of all, beside what needs no training."""

    name: str
    figures: Mapping[str, float | None]
    """By map (or what stands in its place, see `Measure`), untrained, pixels and random."""
    details: Mapping[str, Any]
    """The other figures of the evaluation, such as recall_at_1 and num_queries."""
    before: float | None = None
    """What the last model had on the same pictures; None where that is not known."""

    @property
    def factor(self) -> float | None:
        """MAP as a multiple of a random ranking's."""
        found, random = self.figures["map"], self.figures["random"]
        return found / random if found is not None and random else None

    @property
    def gained(self) -> float | None:
        """How much more than the last model's."""
        found = self.figures["map"]
        return found - self.before if found is not None and self.before is not None else None

    @property
    def not_beaten(self) -> list[str]:
        """The baselines that are as good as the model."""
        found = self.figures["map"]
        rivals = ((name, self.figures[name]) for name in BASELINES)
        return [name for name, rival in rivals if found is not None and rival is not None and rival >= found]


def health(report: Mapping[str, Any], overall: Sequence[ScoreRow]) -> list[Check]:
    """Judge each side of the night in a sentence.

    Args:
        report: without sections that are None.
        overall: the evaluation's means, may be empty.
    """
    model = _model_check(overall, measure_of(report.get("evaluation")))
    return [_gate_check(report), _record_check(report), _quarantine_check(report), model]


def verdict(report: Mapping[str, Any], checks: Sequence[Check]) -> Check:
    """Return what the badge says and the sentence beside it.

    A published snapshot without gates or reconciliation is not called well: nothing shows that it is.
    """
    parent, status = report.get("parent"), str(report.get("status", "status unknown"))
    serving = f"snapshot {parent} goes on serving" if parent else "nothing is serving yet"
    if status != "published":
        level: Level = "bad" if "status" in report else "warn"
        return Check(level=level, name=status, text=f"This snapshot was not published; {serving}.")
    if any(check.level == "bad" for check in checks):
        return Check(
            level="bad", name=status, text="Published, but a check below does not hold. Look at it now."
        )
    if any(check.level == "none" for check in checks[:2]):
        return Check(level="warn", name=status, text="Published, but the report does not show its checks.")
    noted = [check.name.lower() for check in checks if check.level == "warn"]
    said = f"All gates passed. Worth a look: {', '.join(noted)}." if noted else "All is well."
    return Check(level="ok", name=status, text=said)


def fold_gates(gates: Sequence[Mapping[str, Any]]) -> list[GateKind]:
    """Put the gates that run once per attribute under one name, kinds with failures first."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for gate in gates:
        kinds.setdefault(_kind_and_attribute(gate)[0], []).append(gate)
    folded = []
    for name, found in kinds.items():
        worst = min(found, key=lambda gate: (bool(gate.get("passed")), _slack(gate)))
        attribute = _kind_and_attribute(worst)[1]
        folded.append(GateKind(name=name, gates=tuple(found), worst=worst, worst_attribute=attribute))
    return sorted(folded, key=lambda kind: not kind.failed)


def by_attribute(gates: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float]:
    """Return what the gates of a kind found, by attribute."""
    named = ((_kind_and_attribute(gate), number_of(gate.get("found"))) for gate in gates)
    return {attribute: found for (name, attribute), found in named if name == kind and found is not None}


def bound_of(gate: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the sign and the figure of what a gate expects; None where that is no bound."""
    bound = re.fullmatch(r"(>=|<=|==)\s*(\S+)", str(gate.get("expected", "")))
    try:
        return (bound[1], float(bound[2])) if bound else None
    except ValueError:
        return None


def measure_of(evaluation: Mapping[str, Any] | None) -> Measure:
    """Return what an evaluation measures; an older one does not say and is of MAP."""
    return MEASURES.get(str((evaluation or {}).get("measure")), MEASURES["map"])


def judged_on(evaluation: Mapping[str, Any] | None) -> str:
    """Return which pictures an evaluation judged by; an older one does not say."""
    if not evaluation or "dataset" not in evaluation:
        return "held-out products"
    split = evaluation.get("split", "test")
    kind = "held-out products" if split == "test" else "the products that chose the model"
    return f"{kind} of {evaluation['dataset']}, split {split}"


def score_rows(
    evaluation: Mapping[str, Any] | None, before: Mapping[str, Any] | None = None
) -> tuple[list[ScoreRow], list[ScoreRow]]:
    """Return (a row per attribute, the rows over all attributes).

    Args:
        evaluation: of the model, as `evaluation.evaluate` gives it.
        before: of the last model; a figure of it counts where as many queries asked as many candidates.
    """
    evaluation, before = evaluation or {}, before or {}
    key = measure_of(evaluation).key
    means = {"query_weighted": "all queries", "plain": "mean of attributes"}
    attributes, overall = evaluation.get("attributes") or {}, evaluation.get("overall") or {}
    old = before.get("attributes") or {}
    same = bool(attributes) and attributes.keys() == old.keys()
    is_like = {name: _is_like(figures, old.get(name)) for name, figures in attributes.items()}
    old_overall = (before.get("overall") or {}) if same and all(is_like.values()) else {}
    return (
        [
            _score_row(name, figures, key, old[name] if is_like[name] else {})
            for name, figures in attributes.items()
        ],
        [
            _score_row(said, overall[name], key, old_overall.get(name) or {})
            for name, said in means.items()
            if overall.get(name)
        ],
    )


def scale_of(rows: Sequence[ScoreRow]) -> float:
    """Return where the bars end: the next tenth above the largest figure."""
    largest = max(
        (value or 0.0 for row in rows for value in (*row.figures.values(), row.before)), default=0.0
    )
    return max(1, math.ceil(largest * 10 - 1e-9)) / 10


def _gate_check(report: Mapping[str, Any]) -> Check:
    gates = report.get("gates", ())
    failed = [gate for gate in gates if not gate.get("passed")]
    if not gates:
        return Check(level="none", name="Gates", text="No gates are recorded.")
    if not failed:
        return Check(level="ok", name="Gates", text=f"All {len(gates)} passed.")
    said = [
        f"{gate.get('name')} found {measure(gate.get('found'))}, expected {gate.get('expected')}"
        for gate in failed[:3]
    ]
    more = [f"and {len(failed) - 3} more"] if len(failed) > 3 else []
    text = f"{len(failed)} of {len(gates)} failed: {'; '.join(said + more)}."
    return Check(level="bad", name="Gates", text=text)


def _record_check(report: Mapping[str, Any]) -> Check:
    found = report.get("reconciliation")
    if not found:
        return Check(level="none", name="Records", text="No reconciliation is recorded.")
    line = str(found.get("line", "")).rstrip(".")
    if found.get("holds"):
        return Check(level="ok", name="Records", text=f"{line}. Every record is accounted for.")
    return Check(
        level="bad", name="Records", text=f"{line} does not hold: records are lost or counted twice."
    )


def _quarantine_check(report: Mapping[str, Any]) -> Check:
    counts = report.get("counts", {})
    total = report.get("quarantine", {}).get("total", counts.get("quarantined"))
    if total is None:
        return Check(level="none", name="Quarantine", text="Not recorded.")
    if not total:
        return Check(level="ok", name="Quarantine", text="Empty: every record could be used.")
    of = counts.get("input")
    share = f" of {of:,} records ({total / of:.1%})" if of else " records"
    kinds = report.get("quarantine", {}).get("by_kind") or {}
    said = ", ".join(f"{number:,} {kind}" for kind, number in by_size(kinds))
    return Check(level="warn", name="Quarantine", text=f"{total:,}{share}{f': {said}' if said else ''}.")


def _model_check(overall: Sequence[ScoreRow], judged: Measure) -> Check:
    if not overall or overall[0].figures["map"] is None:
        return Check(
            level="none", name="Model", text="Not evaluated: nothing is known about how well it finds."
        )
    row = overall[0]
    text = f"{judged.short} {figure(row.figures['map'])}"
    if row.factor is not None:
        text += f", {row.factor:.1f} times a random ranking"
    if row.gained is not None:
        text += f", {row.gained:+.3f} on the last model"
    if row.not_beaten:
        return Check(level="warn", name="Model", text=f"{text}; no better than {', '.join(row.not_beaten)}.")
    level: Level = "warn" if row.gained is not None and row.gained < 0 else "ok"
    return Check(level=level, name="Model", text=f"{text}.")


def _kind_and_attribute(gate: Mapping[str, Any]) -> tuple[str, str]:
    name = str(gate.get("name", "unnamed"))
    kind = next((kind for kind in GATES_BY_ATTRIBUTE if name.startswith(f"{kind} ")), None)
    return (kind, name.removeprefix(f"{kind} ")) if kind else (name, "")


def _slack(gate: Mapping[str, Any]) -> float:
    """How far a figure is inside its bound, negative outside; 0 where the bound cannot be read."""
    bound, found = bound_of(gate), number_of(gate.get("found"))
    if bound is None or found is None:
        return 0.0
    sign, limit = bound
    return {">=": found - limit, "<=": limit - found, "==": -abs(found - limit)}[sign]


def _is_like(row: Mapping[str, Any], old: Mapping[str, Any] | None) -> bool:
    """Tell whether two rows are of as many queries and candidates."""
    return old is not None and all(row.get(name) == old.get(name) for name in COUNTED)


def _score_row(name: str, row: Mapping[str, Any], key: str, old: Mapping[str, Any]) -> ScoreRow:
    figures = {"map": number_of(row.get(key)), **{kind: number_of(row.get(kind)) for kind in BASELINES}}
    return ScoreRow(name=name, figures=figures, details=row, before=number_of(old.get(key)))
