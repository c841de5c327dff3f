"""Gates between a finished night and its publication: each has a figure, a bound and a verdict."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import faiss
import numpy as np

from pipelines.errors import GateFailed
from pipelines.index import read_ids, read_index
from pipelines.lake import Lake, digest_of
from pipelines.parts import NORM_TOLERANCE, read_embeddings
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Group, Part, Verdict

NEIGHBOURS = 10
SAMPLE_SEED = 0
JUDGED = 1
"""Version of how a group is judged: verdicts of another one do not hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOptions:
    """Bounds that a snapshot must keep to be published."""

    min_recall: float = 0.95
    """Least share of the exact 10 nearest neighbours that each attribute's index must find."""
    recall_queries: int = 64
    """Vectors of the snapshot itself that are asked, per attribute."""
    max_quarantined: float = 0.2
    """Largest share of the input that may be in quarantine."""
    min_quarantined: int = 100
    """Fewer records than this in quarantine never stop a night."""
    probe_images: int = 64
    """Pictures that every night embeds anew and compares with what is stored; 0: none."""
    min_probe_cosine: float = 0.999
    """Least cosine of each of them to its stored vector of the same model, per attribute."""
    min_model_overlap: float = 0.0
    """On the night of a new model: least share of their 10 nearest among each other that old and new model
    agree on, per attribute; 0 only records it."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One verdict."""

    name: str
    passed: bool
    found: float
    expected: str
    detail: str = ""


def count_gates(counts: Mapping[str, int], duplicates: int, options: GateOptions) -> list[Gate]:
    """Judge the counts of a night.

    Args:
        counts: input, embedded, reused, quarantined.
        duplicates: pictures with more than one live embedding.
        options: bounds.
    """
    found = counts["embedded"] + counts["reused"] + counts["quarantined"]
    share = counts["quarantined"] / max(1, counts["input"])
    few = counts["quarantined"] < options.min_quarantined
    expected = f"<= {options.max_quarantined}, or fewer than {options.min_quarantined} records"
    return [
        Gate(
            "reconciliation", found == counts["input"], found, f"== {counts['input']}", reconciliation(counts)
        ),
        Gate(
            "quarantined share",
            few or share <= options.max_quarantined,
            round(share, 4),
            expected,
        ),
        Gate("no picture embedded twice", duplicates == 0, duplicates, "== 0"),
    ]


def cover_gate(live_parts: Set[str], groups: Sequence[Group]) -> Gate:
    """Judge whether every part that holds a live picture is in exactly one group."""
    covered = [name for group in groups for name in group.parts]
    missing, twice = live_parts - set(covered), len(covered) - len(set(covered))
    return Gate("every live part in one index", not missing and not twice, len(missing) + twice, "== 0")


def reconciliation(counts: Mapping[str, int]) -> str:
    """Return the line that says where every record of the source went."""
    return (
        f"{counts['input']} input = {counts['embedded']} embedded + {counts['reused']} reused "
        f"+ {counts['quarantined']} quarantined"
    )


def stamps_of(lake: Lake, *models: str) -> dict[str, str]:
    """Return what the store tells of every embedding and index file of models, without reading one."""
    folders = [folder for model in models for folder in (f"embeddings/model={model}", f"indexes/{model}")]
    return dict(pair for folder in folders for pair in lake.store.list_stamps(folder))


def judgement(
    attribute: str, group: Group, parts: Mapping[str, Part], options: GateOptions, stamps: Mapping[str, str]
) -> str:
    """Return the key under which a verdict on an attribute of a group holds.

    Args:
        attribute: whose files are judged.
        group: the group.
        parts: by name, at least those of the group.
        options: what is asked of it; bounds are no part of a verdict.
        stamps: as `stamps_of` gives them: a file that anybody wrote to is judged, and so read, again.
    """
    entries = [group.ids, group.files[attribute], *(parts[name].files[attribute] for name in group.parts)]
    seen = [(entry.name, entry.sha256, stamps.get(entry.name, "")) for entry in entries]
    return digest_of([JUDGED, NEIGHBOURS, SAMPLE_SEED, options.recall_queries, attribute, seen])


def unjudged(attribute: str, groups: Sequence[Group], keys: Mapping[str, str]) -> list[Group]:
    """Return the groups of which no verdict holds; `keys` are their judgements by name."""
    return [
        group
        for group in groups
        if attribute not in group.judged or group.judged[attribute].key != keys[group.name]
    ]


def judge_groups(
    lake: Lake,
    attribute: str,
    groups: Sequence[Group],
    parts: Mapping[str, Part],
    keys: Mapping[str, str],
    options: GateOptions,
) -> dict[str, Verdict]:
    """Compare an attribute's index with exact search over the Parquet parts, which it was built from.

    Args:
        lake: where.
        attribute: whose files are read.
        groups: those to judge.
        parts: by name, at least those of these groups.
        keys: by group, as `judgement` gives them.
        options: how many queries are asked.

    Returns:
        By group.

    Raises:
        CorruptShard: if a file is not what its entry says.
    """
    return {
        group.name: _judge_group(lake, attribute, group, parts, keys[group.name], options) for group in groups
    }


def index_gates(attribute: str, kind: str, verdicts: Sequence[Verdict], options: GateOptions) -> list[Gate]:
    """Judge one attribute's index by the verdicts on all of its groups; `kind` is theirs."""
    recall = sum(each.recall for each in verdicts) / sum(each.queries for each in verdicts)
    itself = sum(each.found for each in verdicts) / sum(each.selves for each in verdicts)
    norm = max(each.norm for each in verdicts)
    return [
        Gate(
            f"recall@10 {attribute}",
            recall >= options.min_recall,
            round(recall, 4),
            f">= {options.min_recall}",
            kind,
        ),
        Gate(f"self-query {attribute}", itself == 1.0, itself, "== 1.0", "a row's own vector finds it"),
        Gate(f"unit norm {attribute}", norm <= NORM_TOLERANCE, round(norm, 6), f"<= {NORM_TOLERANCE}"),
    ]


def check_gates(gates: Sequence[Gate], report: str) -> None:
    """Let a snapshot pass or not; `report` is where a person reads on.

    Raises:
        GateFailed: naming each gate that failed with its figure.
    """
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        said = "; ".join(f"{gate.name}: expected {gate.expected}, found {gate.found}" for gate in failed)
        raise GateFailed(
            f"{len(failed)} of {len(gates)} gates failed, what was published goes on serving: {said}; "
            f"see {report}"
        )


def _judge_group(
    lake: Lake, attribute: str, group: Group, parts: Mapping[str, Part], key: str, options: GateOptions
) -> Verdict:
    files = {name: parts[name].files[attribute] for name in group.parts}
    vectors, digests = _group_vectors(lake, group, files)
    rows = _sample(len(vectors), options.recall_queries)
    recalls, selves = _recall(read_index(lake, group.files[attribute]), vectors, rows)
    if digests != read_ids(lake, group, ["sha256"])["sha256"].to_pylist():
        selves = np.append(selves, 0.0)
    return Verdict(
        key=key,
        queries=len(recalls),
        recall=float(recalls.sum()),
        selves=len(selves),
        found=float(selves.sum()),
        norm=float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max()),
    )


def _group_vectors(lake: Lake, group: Group, files: Mapping[str, FileEntry]) -> tuple[np.ndarray, list[str]]:
    blocks, digests = [], []
    for name in group.parts:
        with lake.checked(files[name]) as path:
            found, vectors = read_embeddings(path)
        blocks.append(vectors)
        digests += found
    return np.concatenate(blocks), digests


def _sample(num_rows: int, wanted: int) -> np.ndarray:
    return np.sort(np.random.default_rng(SAMPLE_SEED).permutation(num_rows)[:wanted])


def _recall(index: faiss.Index, vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each query's recall@10, by score so that ties count as found, and whether it found itself."""
    k = min(NEIGHBOURS, len(vectors))
    exact = np.sort(vectors[rows] @ vectors.T, axis=1)[:, -k]
    scores, _ = index.search(vectors[rows], k)
    recall = (scores >= exact[:, None] - 1e-6).mean(axis=1)
    if index.ntotal != len(vectors):
        return recall, np.zeros(len(rows))
    # A near-duplicate with a norm longer by rounding may come first: what counts is that the row is its own
    # vector, and that nothing less than it was found.
    aligned = (index.reconstruct_batch(rows) == vectors[rows]).all(axis=1)
    found = scores[:, 0] >= (vectors[rows] ** 2).sum(axis=1) - 1e-5
    return recall, (aligned & found).astype(float)
