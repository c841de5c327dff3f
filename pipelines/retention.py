"""What of a lake is no longer needed, and how it goes: seen, then its proof, then its bytes.

Needed is what the last snapshots of the chain, the one before the published one, and pinned snapshots list,
with the receipts of their units. Everything else below the governed folders goes in three steps, each a
grace apart, and the grace is longer than any run:

1. An object that nothing needs is seen for the first time and noted.
2. A grace later the receipts and manifests among these, the proofs, are deleted: no run that starts from now
   on takes the unit for done.
3. A grace after the last call that met a proof of a file, the file is deleted: every run that took its unit
   for done has ended by then, however late or seldom the calls come.

Notes are `retention/<number>.json`; the highest number counts. A call that is broken off at any place has
done less, never too much.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.history import ancestry
from pipelines.lake import Lake, receipt, snapshot_file, to_json, unit_of
from pipelines.pins import read_pins
from pipelines.scheduling import Receipt
from pipelines.storage.snapshots import Manifest, read_manifest, read_pointer

GOVERNED = ("shards", "embeddings", "indexes", "receipts", "snapshots")
NOTES = "retention"
LOOK_THREADS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call finds and would do."""

    seen: dict[str, datetime]
    """Every object that nothing needs -> when it was first seen so, and no longer listed by a proof."""
    due: tuple[str, ...]
    """What is deleted now: receipts, then manifests, then files."""
    kept: tuple[str, ...]
    """Snapshots that are kept, newest first."""
    ahead: int
    """Notes from the future: a clock was set back, so they wait."""
    due_by_folder: Counter[str] = field(default_factory=Counter)
    due_bytes_by_folder: Counter[str] = field(default_factory=Counter)
    waiting_by_folder: Counter[str] = field(default_factory=Counter)


def plan(lake: Lake, *, keep_last: int, grace: timedelta, now: datetime) -> Plan:
    """Find what is not needed and what of it is due.

    Args:
        lake: where.
        keep_last: snapshots of the chain to keep, the published one among them.
        grace: longer than any run.
        now: the time, with its zone.

    Raises:
        InvalidInput: if nothing is published here.
        CorruptShard: if a manifest, pin or note cannot be read: what is needed is then not known.
    """
    kept = list(_roots(lake, keep_last, now))
    needed = {name for manifest in kept for name in _needed(manifest)}
    unneeded = [name for folder in GOVERNED for name in lake.store.list_names(folder) if name not in needed]
    noted = _read_notes(lake)
    seen = {name: noted.get(name, now) for name in unneeded}
    for name in _proven(lake, unneeded):
        if name in seen:
            seen[name] = max(seen[name], now)
    due = sorted((name for name in unneeded if now - seen[name] >= grace), key=_order)
    waiting = set(unneeded) - set(due)
    return Plan(
        seen,
        tuple(due),
        tuple(dict.fromkeys(manifest.id for manifest in kept)),
        sum(since > now for since in seen.values()),
        Counter(name.split("/")[0] for name in due),
        _bytes_by_folder(lake, due),
        Counter(name.split("/")[0] for name in waiting),
    )


def apply(lake: Lake, found: Plan) -> None:
    """Note what was seen, then delete what is due, proofs before bytes."""
    numbers = [int(PurePosixPath(name).stem) for name in lake.store.list_names(NOTES)]
    # Without what goes now: where it comes back, somebody made it anew, and its grace begins anew.
    due = set(found.due)
    note = {name: since.isoformat() for name, since in found.seen.items() if name not in due}
    lake.store.put_if_absent(f"{NOTES}/{max(numbers, default=0) + 1:08d}.json", to_json(note))
    for name in found.due:
        lake.store.delete(name)
    for number in numbers:
        lake.store.delete(f"{NOTES}/{number:08d}.json")


def _roots(lake: Lake, keep_last: int, now: datetime) -> Iterator[Manifest]:
    pointer = read_pointer(lake)
    if pointer is None:
        raise InvalidInput(
            f"lake {lake.url}: nothing is published here (no CURRENT.json), so what is needed is unknown; is "
            "the path right? jobs/nightly.py publishes, jobs/rollback.py SNAPSHOT puts a lost pointer back"
        )
    chain = ancestry(lake, pointer.snapshot, pointer.manifest_sha256)
    for manifest, _ in zip(chain, range(max(1, keep_last)), strict=False):
        yield manifest
    named = [pointer.previous or "", *(pin.snapshot for pin in read_pins(lake) if pin.holds(now))]
    for snapshot in filter(None, named):
        if lake.store.size(snapshot_file(snapshot, "manifest.json")) is not None:
            yield read_manifest(lake, snapshot)


def _needed(manifest: Manifest) -> Iterator[str]:
    yield snapshot_file(manifest.id, "manifest.json")
    yield from (entry.name for entry in manifest.entries())
    yield from (receipt(f"shards/{manifest.dataset}", shard) for shard in manifest.shards)
    for part in manifest.parts:
        yield from {receipt(*unit_of(entry.name)) for entry in part.files.values()}
    for group in manifest.groups:
        yield from {receipt(*unit_of(entry.name)) for entry in group.entries()}
    if manifest.template:
        for entry in manifest.template.files.values():
            stage, unit = unit_of(entry.name)
            yield receipt(f"{stage}/templates", unit)


def _read_notes(lake: Lake) -> dict[str, datetime]:
    names = list(lake.store.list_names(NOTES))
    if not names:
        return {}
    try:
        noted: dict[str, str] = json.loads(lake.store.read(max(names)).body)
        return {name: datetime.fromisoformat(since) for name, since in noted.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptShard(
            f"{lake.url}/{max(names)}: not a note of retention ({error}); delete it: the grace begins anew",
            max(names),
        ) from error


def _proven(lake: Lake, unneeded: Iterable[str]) -> Iterator[str]:
    """Yield the files that unneeded receipts and manifests list: a run may have taken their word just now."""
    for name in unneeded:
        try:
            if name.startswith("receipts/"):
                made = Receipt.from_json(json.loads(lake.store.read(name).body))
                yield from (entry.name for entry in made.files)
            elif _is_proof(name):
                yield from (entry.name for entry in read_manifest(lake, name.split("/")[1]).entries())
        except (CorruptShard, InvalidInput, FileNotFoundError, ValueError, TypeError, KeyError):
            continue  # gone meanwhile, or damaged: it proves nothing


def _bytes_by_folder(lake: Lake, names: list[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    with ThreadPoolExecutor(LOOK_THREADS) as pool:
        for name, size in zip(names, pool.map(lake.store.size, names), strict=True):
            found[name.split("/")[0]] += size or 0
    return found


def _is_proof(name: str) -> bool:
    return name.startswith("receipts/") or name.endswith("/manifest.json")


def _order(name: str) -> tuple[int, str]:
    return (0 if name.startswith("receipts/") else 1 if _is_proof(name) else 2, name)
