"""Show a lake's snapshots, what changed between two, where a key's embedding came from, and what is damaged.

Without a question it lists the snapshots: the published one and those before it, then the others. SNAPSHOT is
an id, the beginning of one, `current` or `previous`. Nothing in the lake is changed.

    python jobs/inspect_lake.py --lake ./lake
    python jobs/inspect_lake.py --lake ./lake --diff previous current
    python jobs/inspect_lake.py --lake ./lake --key SKU-17
    python jobs/inspect_lake.py --lake s3://shop-lake --verify
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.table import Table

from agman.errors import InvalidInput
from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.differences import Differences, compare
from pipelines.errors import CorruptShard
from pipelines.history import (
    CURRENT_WORD,
    History,
    Snapshot,
    find_chain_damage,
    find_manifest,
    is_current,
    read_history,
)
from pipelines.lake import Lake
from pipelines.lineage import Damage, check_files, find_model_damage
from pipelines.origin import Origin, Quarantined, trace
from pipelines.redaction import shown_uri
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import escaped

COUNTS = ("embedded", "reused", "quarantined")


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectConfig:
    """One question about a lake."""

    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    diff: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OLD NEW")] = ()
    """Two snapshots: what changed from the first to the second."""
    key: str = ""
    """Product of the catalog: where its embedding came from."""
    verify: bool = False
    """Read every file of a snapshot and compare it with its digest; exit code 1 where one is damaged."""
    snapshot: Annotated[str, tyro.conf.arg(metavar="SNAPSHOT")] = CURRENT_WORD
    """Snapshot that --key and --verify are about."""

    def __post_init__(self) -> None:
        """Refuse two questions at once."""
        if len(self.diff) not in (0, 2):
            raise ValueError(f"--diff: expected two snapshots, found {len(self.diff)}")
        if bool(self.diff) + bool(self.key) + self.verify > 1:
            raise ValueError("expected one of --diff, --key and --verify, found more")


def main() -> None:
    """Answer one question."""
    config = read_config({"inspect_lake": ("", InspectConfig())}, __doc__)
    with telemetry.run("inspect_lake", config) as run:
        answer(config, run)


def answer(config: InspectConfig, run: telemetry.Run) -> None:
    """Print what is asked for.

    Raises:
        InvalidInput: if a snapshot or a key is not there.
        CorruptShard: if something that is needed is damaged, or --verify finds anything.
    """
    lake = Lake(config.lake)
    if config.diff:
        old, new = (find_manifest(lake, name) for name in config.diff)
        show_differences(run, old, new, compare(lake, old, new))
    elif config.key:
        manifest = find_manifest(lake, config.snapshot)
        found = trace(lake, manifest, config.key)
        if isinstance(found, Quarantined):
            show_quarantined(run, manifest, found)
        else:
            show_origin(run, manifest, found)
    elif config.verify:
        verify(run, lake, find_manifest(lake, config.snapshot))
    else:
        show_history(run, lake, read_history(lake))


def show_history(run: telemetry.Run, lake: Lake, history: History) -> None:
    """Print the snapshots, those that serve or did before those that do not."""
    if not (history.chain or history.apart or history.trouble):
        raise InvalidInput(f"lake {lake.url}: has no snapshots; is the path right?")
    for line in history.trouble:
        run.say(line)
    pointer = history.pointer
    current, previous = (pointer.snapshot, pointer.previous) if pointer else (None, None)
    chain = [(found, _marks(found, current, previous)) for found in history.chain]
    _show_snapshots(run, f"{lake.url}: the published snapshot and those before it", chain)
    apart = [
        (found, _marks(found, current, previous) or ["never served, or rolled back"])
        for found in history.apart
    ]
    _show_snapshots(run, "apart: refused by a gate, rolled back, or overtaken by another run", apart)
    if history.chain and history.chain[-1].parent:
        run.say(f"{history.chain[-1].parent}, before {history.chain[-1].id}, is retired or cannot be read")
    if pointer and pointer.next_model:
        run.say(f"model {pointer.next_model} is promoted: the next night publishes with it")


def _marks(snapshot: Snapshot, current: str | None, previous: str | None) -> list[str]:
    """Say what is special about a snapshot."""
    marks = [
        word for word, name in (("current", current), ("served before", previous)) if name == snapshot.id
    ]
    if snapshot.forced:
        marks.append(f"forced by {snapshot.forced['who']}: {snapshot.forced['why']}")
    elif snapshot.failed_gates:
        marks.append(f"refused: {', '.join(snapshot.failed_gates)}")
    return marks + [f"pinned: {', '.join(snapshot.pins)}"] * bool(snapshot.pins)


def _show_snapshots(run: telemetry.Run, title: str, found: list[tuple[Snapshot, list[str]]]) -> None:
    if not found:
        return
    table = Table("snapshot", "night", "created", "model", "rows", *COUNTS, "", title=escaped(title))
    for snapshot, marks in found:
        counts = (str(snapshot.counts.get(name, "")) for name in COUNTS)
        cells = (snapshot.id, str(snapshot.night), snapshot.created, snapshot.model, str(snapshot.num_rows))
        table.add_row(*map(escaped, (*cells, *counts, "; ".join(marks))))
    for column in table.columns:
        column.justify = "right" if column.header in ("night", "rows", *COUNTS) else "left"
        column.no_wrap = column.header == "snapshot"
    run.show(table)


def show_differences(run: telemetry.Run, old: Manifest, new: Manifest, found: Differences) -> None:
    """Print what changed from one snapshot to another."""
    table = Table("keys", "count", "such as", title=escaped(f"from {old.id} to {new.id}"))
    table.columns[1].justify = "right"
    for change in found.keys:
        table.add_row(change.kind, str(change.num_keys), escaped(", ".join(change.examples)))
    table.add_section()
    table.add_row("same picture, other embedding", str(found.num_embedded_anew), "")
    run.show(table)
    if found.said:
        values = Table("what else differs", "old", "new")
        for said in found.said:
            values.add_row(*map(escaped, (said.path, said.old, said.new)))
        run.show(values)
    else:
        run.say("config, model, code, versions, gates and counts are the same")


def show_origin(run: telemetry.Run, manifest: Manifest, found: Origin) -> None:
    """Print where a key's embedding came from, and the file of each attribute."""
    row, place, group = found.row, found.index_row, found.group
    size = f"{place['width']} x {place['height']}" if place["width"] else "size not known"
    chain = "" if found.is_chain_whole else "; the snapshots before it are gone or cannot be read"
    facts = {
        "uri": shown_uri(row["uri"]),
        "version token": row["token"] or "none",
        "picture": f"sha256 {row['sha256']}, {place['num_bytes']} bytes, {place['format']}, {size}",
        "since snapshot": f"{found.since.id}, night {found.since.night}{chain}",
        "tar": f"{found.tar.name}, from byte {place['offset']}, member {place['member']}",
        "fetched": f"for key {place['key']} from {shown_uri(place['uri'])}",
        "model": manifest.model,
        "part": f"{found.part.name}, row {row['row']} of {found.part.num_rows}",
        "in this part since": f"{found.embedded_in.id}, night {found.embedded_in.night}",
        "index": f"group {group.name} ({group.kind}), row {found.position} of {group.num_rows}",
        **{f"made, {proof.stage}": f"{proof.name}: {_seconds(proof.seconds)}" for proof in found.proofs},
    }
    _show_facts(run, f"{row['key']} in snapshot {manifest.id}", facts)
    files = Table("attribute", "embedding file", "bytes", "sha256")
    for attribute, entry in found.part.files.items():
        files.add_row(*map(escaped, (attribute, entry.name, str(entry.num_bytes), entry.sha256[:12])))
    run.show(files)


def show_quarantined(run: telemetry.Run, manifest: Manifest, found: Quarantined) -> None:
    """Print why a key has no embedding."""
    for row in found.rows:
        _show_facts(run, f"{row['key']} is in quarantine in snapshot {manifest.id}", row)


def _seconds(seconds: dict[str, float] | None) -> str:
    if seconds is None:
        return "gone"
    return ", ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items())


def _show_facts(run: telemetry.Run, title: str, facts: dict[str, Any]) -> None:
    table = Table(title=escaped(title), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escaped(name), escaped("-" if value is None else str(value)))
    run.show(table)


def verify(run: telemetry.Run, lake: Lake, manifest: Manifest) -> None:
    """Read everything that a snapshot is made of and say what is damaged.

    Raises:
        CorruptShard: if anything is.
    """
    entries = list(manifest.entries())
    damaged: list[Damage] = []
    with run.stage("verify", len(entries), "files") as stage:
        for _, damage in check_files(lake, entries):
            damaged += [damage] if damage else []
            stage.advance(1)
    damaged += find_model_damage(lake, manifest.model)
    num_parents, broken = find_chain_damage(lake, manifest)
    damaged += broken
    for line in damage_lines(damaged, serves=is_current(lake, manifest.id)):
        run.say(line)
    num_bytes = sum(entry.num_bytes for entry in entries)
    run.say(
        f"snapshot {manifest.id}: {len(entries)} files with {num_bytes / 1e6:,.1f} MB read, its model, "
        f"its manifest and {num_parents} before it"
    )
    if damaged:
        raise CorruptShard(
            f"lake {lake.url}: {len(damaged)} damaged or missing, first {damaged[0].name}", damaged[0].name
        )
    run.say("all are as they were published")


def damage_lines(damaged: Iterable[Damage], *, serves: bool) -> Iterable[str]:
    """Say of each damaged file what is wrong and what makes it good again."""
    for damage in damaged:
        wrong = f"{damage.name}: expected {damage.expected}, found {damage.found}"
        yield f"{wrong}; {_remedy(damage.name, serves)}"


def _remedy(name: str, serves: bool) -> str:
    if name.startswith("models/"):
        return "delete what is left of it and give its folder to jobs/nightly.py --model"
    if name.endswith("/manifest.json"):
        return "what is before it can be neither traced nor rolled back to; nothing that serves depends on it"
    if serves:
        return "the next jobs/nightly.py --verify-lake makes it again"
    return "only what serves is made again; do not roll back to this snapshot"


if __name__ == "__main__":
    main()
