"""Keep a snapshot from being deleted by `jobs/clean_lake.py`, or no longer.

SNAPSHOT is an id, its beginning, `current` or `previous`.

    python jobs/pin.py current --lake ./lake --name christmas --why "to compare with next year's"
    python jobs/pin.py current --lake ./lake --name search-service --days 7
    python jobs/pin.py 20240131T0212 --lake ./lake --name christmas --remove
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import tyro

from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.lake import Lake
from pipelines.pins import pin, unpin


@dataclass(frozen=True, kw_only=True, slots=True)
class PinConfig:
    """One pin."""

    snapshot: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[SNAPSHOT]")] = "current"
    """Snapshot: an id, its beginning, `current` or `previous`."""
    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    name: str = "pinned"
    """Name of the pin: who reads it, or what it is for."""
    why: str = ""
    """Reason, kept in the pin."""
    days: float = 0
    """Days until it expires; 0: never."""
    remove: bool = False
    """Take the pin away."""


def main() -> None:
    """Pin or unpin."""
    config = read_config({"pin": ("", PinConfig())}, __doc__)
    lake = Lake(config.lake)
    with telemetry.run("pin", config, None) as run:
        if config.remove:
            run.say(f"pin {config.name} taken from snapshot {unpin(lake, config.snapshot, config.name)}")
            return
        made = pin(lake, config.snapshot, config.name, datetime.now(UTC), config.why, config.days)
        run.say(
            f"snapshot {made.snapshot} is kept by pin {made.name} until {made.expires or 'it is removed'}"
        )


if __name__ == "__main__":
    main()
