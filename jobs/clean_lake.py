"""Delete what no kept snapshot needs, in steps that a running night survives. A dry run without --apply.

Kept are the last snapshots of the chain, the one that a rollback goes to, and pinned ones (`jobs/pin.py`).
The rest is first only noted; a grace later its receipts go, another grace later its files. Run it once a day;
calls that come late or seldom delete later, never too early.

    python jobs/clean_lake.py --lake ./lake
    python jobs/clean_lake.py --lake ./lake --keep-last 30 --apply
    ray job submit --working-dir . -- python jobs/clean_lake.py --lake s3://shop-lake --apply
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.table import Table

from jobs.command_line import read_config
from pipelines import retention, telemetry
from pipelines.lake import Lake


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanConfig:
    """What is kept, and for how long."""

    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    keep_last: int = 14
    """Snapshots of the chain that are kept, the published one among them."""
    grace_hours: float = 48
    """Time between the steps; longer than any run."""
    apply: bool = False
    """Do it; without this flag nothing is changed."""

    def __post_init__(self) -> None:
        """Refuse what would delete the ground under a run."""
        if self.keep_last < 1:
            raise ValueError(f"keep_last: expected at least 1, found {self.keep_last}")
        if self.grace_hours < 1:
            raise ValueError(
                f"grace_hours: expected at least 1, longer than any run, found {self.grace_hours}"
            )


def main() -> None:
    """Plan, show, and delete where it is asked."""
    config = read_config({"clean": ("", CleanConfig())}, __doc__)
    lake = Lake(config.lake)
    with telemetry.run("clean_lake", config, lake if config.apply else None) as run:
        grace, now = timedelta(hours=config.grace_hours), datetime.now(UTC)
        found = retention.plan(lake, keep_last=config.keep_last, grace=grace, now=now)
        show(run, found, now)
        if config.apply:
            retention.apply(lake, found)
            run.results["deleted"] = dict(found.due_by_folder)
            run.results["deleted_bytes"] = dict(found.due_bytes_by_folder)
            run.say(f"{len(found.due)} objects deleted, {found.due_bytes_by_folder.total() / 1e6:,.1f} MB")
        elif found.seen:
            run.say("nothing was changed: add --apply to note what is not needed and to delete what is due")


def show(run: telemetry.Run, found: retention.Plan, now: datetime) -> None:
    """Print what is kept, what waits, and since when, and what is due."""
    run.say(f"{len(found.kept)} snapshots are kept: {', '.join(found.kept)}")
    if not found.seen:
        run.say("everything in the lake is needed")
        return
    table = Table("not needed", title="Objects that no kept snapshot needs")
    for name in ("waiting", "due now", "MB due", "oldest note"):
        table.add_column(name, justify="right")
    for folder in retention.GOVERNED:
        waiting, due = found.waiting_by_folder[folder], found.due_by_folder[folder]
        if waiting or due:
            oldest = min(since for name, since in found.seen.items() if name.startswith(f"{folder}/"))
            hours = max(now - oldest, timedelta()) / timedelta(hours=1)
            megabytes = found.due_bytes_by_folder[folder] / 1e6
            table.add_row(folder, str(waiting), str(due), f"{megabytes:,.1f}", f"{hours:,.0f} h ago")
    run.show(table)
    if found.ahead:
        run.say(f"{found.ahead} were noted in the future: a clock was set back, they wait until then")


if __name__ == "__main__":
    main()
