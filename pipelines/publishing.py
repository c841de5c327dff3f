"""From a finished night to a published snapshot: files, gates, report, manifest, one swap."""

import getpass
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from pipelines import quality
from pipelines.code import code_version
from pipelines.condemned import condemn
from pipelines.drift import has_drifted
from pipelines.errors import CorruptShard
from pipelines.lake import bytes_sha256, digest_of, snapshot_file, to_json, unit_of
from pipelines.morning.report import write_report
from pipelines.night import Night
from pipelines.probe import Probe, plan_probe, start_probe
from pipelines.quality import Gate
from pipelines.redaction import redacted, shown_uri
from pipelines.repair import parts_of, unit_names
from pipelines.scheduling import result_of
from pipelines.storage.objects import FileEntry, store_file
from pipelines.storage.snapshots import (
    Group,
    Manifest,
    Verdict,
    new_snapshot_id,
    publish,
    put_manifest,
)
from pipelines.tables import same_rows
from pipelines.views import put_views

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "webdataset", "duckdb", "numpy", "pillow")
CHECK_THREADS = 16
CATALOG, QUARANTINE = "catalog.parquet", "quarantine.parquet"
# What changes from night to night although nothing happened to the record.
SEEN_COLUMNS = ("first_seen", "last_seen", "attempts")


def publish_night(night: Night) -> Manifest | None:
    """Write the snapshot's files, pass the gates, swap the pointer.

    Returns:
        The published manifest; None where the catalog, the quarantine and the model are the published ones.

    Raises:
        GateFailed: the new snapshot is not good enough; the old one goes on serving.
        StaleSnapshot: somebody else published meanwhile.
        CorruptShard: a file that tonight needs is gone.
    """
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    catalog, quarantine = night.folder / CATALOG, night.folder / QUARANTINE
    night.tonight.write(catalog, quarantine, now)
    if _is_unchanged(night):
        return None
    counts = _count(night, catalog, quarantine)
    probe = _plan_probe(night)
    gates = _judge(night, counts, probe)
    manifest = _manifest(night, now, counts, gates, probe)
    with night.run.stage("report", 1) as stage:
        manifest = _add_report(night, manifest)
        stage.advance(1)
    night.run.results.update(counts=counts, snapshot=manifest.id, model=night.model)
    if manifest.forced:
        night.run.say(
            f"  published against a failed gate by {manifest.forced['who']}, {manifest.forced['why']}"
        )
    elif not all(gate.passed for gate in gates):
        if has_drifted(gates):
            condemn(night.lake, night.model, _made_tonight(night), manifest.id)
        # A refused snapshot stays readable for who must find out why.
        put_manifest(night.lake, manifest)
        quality.check_gates(gates, f"{night.lake.url}/{snapshot_file(manifest.id, 'report.html')}")
    _check_stored(night, manifest)
    put_views(night.lake)
    publish(night.lake, manifest, night.pointer)
    return manifest


def _made_tonight(night: Night) -> set[str]:
    """Return the units of the new parts' files: an extended part has files of an earlier model too."""
    before = {entry.name for entry in night.parent.entries()} if night.parent else set()
    made = [e.name for part in night.new_parts for e in part.files.values() if e.name not in before]
    return set(unit_names(made))


def _is_unchanged(night: Night) -> bool:
    if night.parent is None or night.parent.model != night.model or night.damaged:
        return False
    # Published although nothing changed: the next look at the bytes is then another night's, with a new name.
    if night.is_fetched_on_trust:
        return False
    parents = night.folder / f"parent-{CATALOG}", night.folder / f"parent-{QUARANTINE}"
    return same_rows(night.catalog, night.folder / CATALOG, parents[0]) and same_rows(
        night.catalog, night.folder / QUARANTINE, parents[1], ignore=SEEN_COLUMNS
    )


def _count(night: Night, catalog: Path, quarantine: Path) -> dict[str, int]:
    found = night.tonight.count_published(catalog)
    return {
        "input": night.difference.input,
        "embedded": found["rows"] - found["reused"],
        "reused": found["reused"],
        "quarantined": night.catalog.count(f"read_parquet('{quarantine}')"),
        **asdict(night.catalog.changes()),
        "duplicate": found["duplicate"],
        "pictures": found["pictures"],
        "images_embedded": night.images_embedded,
    }


def _plan_probe(night: Night) -> Probe:
    return plan_probe(
        night.catalog,
        night.model,
        night.parent,
        night.parts(),
        night.shard_files,
        night.config.gates.probe_images,
        parts_of(night.damaged, night.parent),
    )


def _judge(night: Night, counts: dict[str, int], probe: Probe) -> list[Gate]:
    gates = quality.count_gates(counts, night.tonight.count_twice_embedded(), night.config.gates)
    gates.append(quality.cover_gate(night.tonight.live_rows().keys(), night.indexed.groups))
    attributes = night.attributes if night.indexed.groups else ()
    with night.run.stage("gates", len(attributes), "attributes") as stage:
        probed = start_probe(night.lake, night.model, probe, night.config.embed, night.config.gates)
        for name, verdicts in _verdicts(night, attributes):
            kinds = sorted({group.kind for group in night.indexed.groups})
            gates += quality.index_gates(name, ", ".join(kinds), verdicts, night.config.gates)
            stage.advance(1)
        gates += result_of(probed)
    return gates


def _verdicts(night: Night, attributes: Sequence[str]) -> Iterator[tuple[str, list[Verdict]]]:
    """Yield each attribute with the verdicts on all groups, and keep them with the groups.

    Only what has no verdict yet, and what somebody wrote to since, is read.
    """
    options, parts = night.config.gates, {part.name: part for part in night.parts()}
    files = (e for part in parts.values() for e in part.files.values())
    indexes = (entry for group in night.indexed.groups for entry in group.entries())
    models = {unit_of(entry.name)[0].partition("/")[2] for entry in chain(files, indexes)}
    stamps = quality.stamps_of(night.lake, *sorted(models))
    task = ray.remote(quality.judge_groups)
    refs: list[tuple[str, Any]] = []
    for name in attributes:
        groups = night.indexed.groups
        keys = {group.name: quality.judgement(name, group, parts, options, stamps) for group in groups}
        fresh = quality.unjudged(name, groups, keys)
        needed = {part: parts[part] for group in fresh for part in group.parts}
        ref = task.remote(night.lake, name, fresh, needed, keys, options) if fresh else None
        refs.append((name, ref))
    for name, ref in refs:
        judged: dict[str, Verdict] = result_of(ref) if ref is not None else {}
        night.indexed = replace(night.indexed, groups=_with(night.indexed.groups, name, judged))
        yield name, [group.judged[name] for group in night.indexed.groups]


def _with(groups: Sequence[Group], attribute: str, judged: Mapping[str, Verdict]) -> tuple[Group, ...]:
    """Return groups with further verdicts, by group, on one attribute."""
    return tuple(
        replace(group, judged={**group.judged, attribute: judged[group.name]})
        if group.name in judged
        else group
        for group in groups
    )


def _manifest(
    night: Night, now: str, counts: dict[str, int], gates: Sequence[Gate], probe: Probe
) -> Manifest:
    config = redacted(asdict(night.config))
    commit_uuid = uuid4().hex
    snapshot = new_snapshot_id(commit_uuid)
    rows = {CATALOG: counts["input"] - counts["quarantined"], QUARANTINE: counts["quarantined"]}
    parent = night.parent
    return Manifest(
        id=snapshot,
        commit_uuid=commit_uuid,
        parent=parent.id if parent else None,
        parent_sha256=_parent_sha256(night),
        night=parent.night + 1 if parent else 1,
        created=now,
        dataset=night.config.dataset,
        source=shown_uri(night.config.source),
        model=night.model,
        attributes=night.attributes,
        taxonomy_digest=night.taxonomy_digest,
        config=config,
        config_digest=digest_of(config),
        versions={name: version(name) for name in PACKAGES},
        code=code_version(),
        counts=counts,
        gates=[asdict(gate) for gate in gates],
        forced=_forced(night, gates),
        files={name: _store(night, snapshot, name, count) for name, count in rows.items()},
        shards={shard: night.shard_files(shard) for shard in night.tonight.live_shards()},
        parts=night.parts(),
        groups=night.indexed.groups,
        template=night.indexed.template,
        upkeep=tuple(night.upkeep),
        probe=probe.digests,
    )


def _forced(night: Night, gates: Sequence[Gate]) -> dict[str, str] | None:
    """Return who publishes against a failed gate and why; None where no gate failed or nobody does."""
    if not night.config.force or all(gate.passed for gate in gates):
        return None
    return {"who": getpass.getuser(), "why": night.config.force}


def _parent_sha256(night: Night) -> str:
    if night.parent is None:
        return ""
    if night.pointer and night.pointer.snapshot == night.parent.id and night.pointer.manifest_sha256:
        return night.pointer.manifest_sha256
    return bytes_sha256(night.lake.store.read(snapshot_file(night.parent.id, "manifest.json")).body)


def _check_stored(night: Night, manifest: Manifest) -> None:
    """Look a last time whether everything that tonight adds is there: retention runs beside us.

    Raises:
        CorruptShard: naming the first file that is not.
    """
    known = {entry.name for entry in night.parent.entries()} if night.parent else set()
    new = [entry for entry in manifest.entries() if entry.name not in known]
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        sizes = pool.map(night.lake.store.size, [entry.name for entry in new])
        for entry, size in zip(new, sizes, strict=True):
            if size != entry.num_bytes:
                raise CorruptShard(
                    f"{night.lake.url}/{entry.name}: expected {entry.num_bytes} bytes, found "
                    f"{'none' if size is None else size}; run the night again",
                    entry.name,
                )


def _add_report(night: Night, manifest: Manifest) -> Manifest:
    report, page = write_report(
        night.lake,
        manifest,
        night.run.timings(),
        parent=night.parent,
        damaged=sorted(night.damaged),
        allowed=night.source.allowed,
    )
    files = dict(manifest.files)
    for name, body in (("report.json", to_json(report)), ("report.html", page.encode())):
        (night.folder / name).write_bytes(body)
        files[name] = _store(night, manifest.id, name)
    return replace(manifest, files=files)


def _store(night: Night, snapshot: str, name: str, num_rows: int | None = None) -> FileEntry:
    return store_file(night.lake.store, night.folder / name, snapshot_file(snapshot, name), num_rows)
