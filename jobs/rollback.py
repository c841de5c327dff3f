"""Publish an earlier snapshot again, in one swap; readers that are at work stay on theirs.

SNAPSHOT is an id or its beginning; left out, it is the snapshot that was published before this one. The next
night works from the snapshot that serves then. `jobs/inspect_lake.py` shows what there is.

    python jobs/rollback.py --lake ./lake --why "wrong prices in the feed"
    python jobs/rollback.py 20240131T0212 --lake ./lake
    ray job submit --working-dir . -- python jobs/rollback.py --lake s3://shop-lake
"""

import getpass
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.lake import Lake
from pipelines.rollback import Rollback, roll_back


@dataclass(frozen=True, kw_only=True, slots=True)
class RollbackConfig:
    """One rollback."""

    snapshot: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[SNAPSHOT]")] = ""
    """Snapshot to publish again: its id, or the beginning of it; empty: the one before."""
    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    why: str = ""
    """Reason, kept with your name in the run's report."""


def main() -> None:
    """Roll back."""
    config = read_config({"rollback": ("", RollbackConfig())}, __doc__)
    with telemetry.run("rollback", config, Lake(config.lake)) as run:
        tell(run, config, roll_back(Lake(config.lake), config.snapshot))


def tell(run: telemetry.Run, config: RollbackConfig, done: Rollback) -> None:
    """Say what serves now and how to undo it, and keep who did it and why."""
    now = done.published
    run.results["rollback"] = {
        "from": done.replaced,
        "to": now.id,
        "who": getpass.getuser(),
        "why": config.why,
    }
    run.say(f"snapshot {now.id}, night {now.night}, serves {config.lake} again; model {now.model}")
    if done.replaced:
        run.say(f"  it takes the place of {done.replaced}")
        run.say(f"  to undo this: jobs/rollback.py --lake {config.lake}")
    else:
        run.say("  what served before could not be read: this cannot be undone by name")
    run.say("  the next jobs/nightly.py works from it")


if __name__ == "__main__":
    main()
