"""What changed between two snapshots: their catalogs by key, and everything that their manifests say."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipelines.lake import Lake, working_folder
from pipelines.storage.snapshots import Manifest

MEMORY_LIMIT = "2GB"
EXAMPLES = 3
KINDS = ("added", "removed", "bytes changed", "uri changed", "columns changed", "unchanged")
# Told as a kind of their own, or, as where a picture lies, no matter of the product.
TOLD_APART = ("key", "uri", "token", "sha256", "shard", "part", "row")


@dataclass(frozen=True, slots=True)
class KeyChange:
    """The keys that changed in one way; each key counts once, in the first way of `KINDS` that fits."""

    kind: str
    num_keys: int
    examples: tuple[str, ...]
    """The first few keys."""


@dataclass(frozen=True, slots=True)
class Said:
    """A value of the manifests that differs, by its dotted path; `-` where one has none."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Differences:
    """What changed from one snapshot to another."""

    keys: tuple[KeyChange, ...]
    """All of `KINDS`, in their order."""
    num_embedded_anew: int
    """Keys whose picture is the same and has its embedding from elsewhere: another model, or another part."""
    said: tuple[Said, ...]


def compare(lake: Lake, old: Manifest, new: Manifest) -> Differences:
    """Compare two snapshots.

    Raises:
        CorruptShard: if a catalog is not what its manifest says.
    """
    with (
        lake.checked(old.files["catalog.parquet"]) as before,
        lake.checked(new.files["catalog.parquet"]) as after,
        working_folder() as folder,
    ):
        keys, num_embedded_anew = _compare_catalogs(before, after, folder, same_model=_keeps_files(old, new))
    return Differences(keys, num_embedded_anew, changed_values(_described(old), _described(new)))


def _keeps_files(old: Manifest, new: Manifest) -> bool:
    """Tell whether equal places hold equal embeddings: of one model, or of one that extends it."""
    before = {entry.name for part in old.parts for entry in part.files.values()}
    after = (entry.name for part in new.parts for entry in part.files.values())
    return old.model == new.model or any(name in before for name in after)


def changed_values(old: Any, new: Any, path: str = "") -> tuple[Said, ...]:
    """Return where two JSON values differ, by dotted path, sorted; a list is one value."""
    if isinstance(old, dict) and isinstance(new, dict):
        return tuple(
            said
            for name in sorted({*old, *new})
            for said in changed_values(
                old.get(name, _ABSENT), new.get(name, _ABSENT), f"{path}.{name}" if path else name
            )
        )
    return () if old == new else (Said(path, _text(old), _text(new)),)


_ABSENT = object()


def _text(value: Any) -> str:
    if value is _ABSENT:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _described(manifest: Manifest) -> dict[str, Any]:
    """Return what is compared of a manifest; tuples become lists, as they are in a stored one."""
    gates = {gate["name"]: f"{gate['found']}{'' if gate['passed'] else ' failed'}" for gate in manifest.gates}
    names = (
        "dataset",
        "source",
        "model",
        "attributes",
        "taxonomy_digest",
        "code",
        "versions",
        "counts",
        "config",
    )
    described = {name: getattr(manifest, name) for name in names}
    plain: dict[str, Any] = json.loads(json.dumps({**described, "gates": gates}, default=str))
    return plain


def _compare_catalogs(
    before: Path, after: Path, folder: Path, *, same_model: bool
) -> tuple[tuple[KeyChange, ...], int]:
    with duckdb.connect() as db:
        db.execute(f"set memory_limit='{MEMORY_LIMIT}'; set enable_progress_bar=false")
        db.execute(f"set temp_directory='{folder / 'spill'}'; set preserve_insertion_order=false")
        for name, path in (("before", before), ("after", after)):
            db.execute(f"create view {name} as from read_parquet('{_quoted(path)}', hive_partitioning=false)")
        found = db.execute(
            _query(_columns(db, "before"), _columns(db, "after"), same_model=same_model)
        ).fetchall()
    by_kind = {kind: (num_keys, tuple(examples), anew) for kind, num_keys, examples, anew in found}
    changes = tuple(KeyChange(kind, *by_kind.get(kind, (0, (), 0))[:2]) for kind in KINDS)
    return changes, sum(anew for _, _, anew in by_kind.values())


def _query(old: list[str], new: list[str], *, same_model: bool) -> str:
    """Return the comparison: one full outer join by key, with at most a few keys of each kind in memory."""
    own = [name.replace('"', '""') for name in old if name in new and name not in TOLD_APART]
    # As text, since a shop's column may have another type tonight.
    differs = " or ".join(f'o."{name}"::varchar is distinct from n."{name}"::varchar' for name in own)
    return f"""
        with compared as (
            select coalesce(o.key, n.key) as key,
                case when o.key is null then 'added' when n.key is null then 'removed'
                     when o.sha256 <> n.sha256 then 'bytes changed'
                     when o.uri <> n.uri then 'uri changed'
                     when {differs or "false"} then 'columns changed' else 'unchanged' end as kind,
                o.sha256 = n.sha256
                    and (not {same_model} or (o.part, o.row) <> (n.part, n.row)) as embedded_anew
            from before o full outer join after n on o.key = n.key)
        select kind, count(*), min(key, {EXAMPLES}), count(*) filter (embedded_anew)
        from compared group by kind"""


def _columns(db: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    return [row[0] for row in db.execute(f"describe {view}").fetchall()]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
