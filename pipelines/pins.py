"""Pins: what keeps a snapshot from being retired, as a reader or a person asked.

A pin is an object of its own, `pins/<snapshot>/<name>.json`, so that taking one away touches nothing else.
"""

import getpass
import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from agman.errors import InvalidInput
from pipelines.errors import CorruptShard
from pipelines.history import resolve_snapshot
from pipelines.lake import Lake, to_json

FOLDER = "pins"
_NAME = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One pin."""

    snapshot: str
    name: str
    who: str
    why: str
    created: str
    """ISO 8601."""
    expires: str | None
    """ISO 8601; None: never."""

    def holds(self, now: datetime) -> bool:
        """Tell whether it still counts."""
        return self.expires is None or datetime.fromisoformat(self.expires) > now


def pin(lake: Lake, snapshot: str, name: str, now: datetime, why: str = "", days: float = 0) -> Pin:
    """Pin a snapshot.

    Args:
        lake: where.
        snapshot: as for `resolve_snapshot`.
        name: of the pin: who reads it, such as `search-service`.
        now: the time.
        why: for people.
        days: until it expires; 0: never.

    Raises:
        InvalidInput: if there is no such snapshot, the name is no file name, or it stands already.
    """
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise InvalidInput(f"pin {name!r}: expected a name of letters, digits, '.', '_' and '-'")
    made = Pin(
        snapshot=resolve_snapshot(lake, snapshot),
        name=name,
        who=getpass.getuser(),
        why=why,
        created=now.isoformat(),
        expires=(now + timedelta(days=days)).isoformat() if days else None,
    )
    if not lake.store.put_if_absent(_object(made.snapshot, name), to_json(asdict(made))):
        raise InvalidInput(f"pin {name}: snapshot {made.snapshot} has one of this name; remove it first")
    return made


def unpin(lake: Lake, snapshot: str, name: str) -> str:
    """Take a pin away and return the snapshot's id.

    Raises:
        InvalidInput: if there is no such pin.
    """
    found = resolve_snapshot(lake, snapshot)
    if lake.store.size(_object(found, name)) is None:
        known = ", ".join(each.name for each in read_pins(lake) if each.snapshot == found)
        raise InvalidInput(f"pin {name}: snapshot {found} has none of this name; it has {known or 'none'}")
    lake.store.delete(_object(found, name))
    return found


def read_pins(lake: Lake) -> list[Pin]:
    """Return all pins, expired ones too.

    Raises:
        CorruptShard: if one cannot be read: what it keeps is not known.
    """
    found = []
    for name in lake.store.list_names(FOLDER):
        try:
            found.append(Pin(**json.loads(lake.store.read(name).body)))
        except (ValueError, TypeError) as error:
            raise CorruptShard(f"{lake.url}/{name}: not a pin ({error}); write it again", name) from error
    return found


def _object(snapshot: str, name: str) -> str:
    return f"{FOLDER}/{snapshot}/{name}.json"
