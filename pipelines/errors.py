"""What can go wrong around the network, split by what the caller does next.

```
AgmanError
├── InvalidInput          the person's mistake: one line, exit code 2      (agman.errors)
├── BadSample             one image: quarantined and counted               (agman.errors)
├── CheckpointMismatch    the weights do not fit: choose another model     (agman.errors)
├── CorruptShard          stored bytes differ from their digest: make the unit again
├── GateFailed            the new snapshot is not good enough: the old one goes on serving
├── StaleSnapshot         somebody else published meanwhile: plan again
├── OutOfTime             the time that was given is used up: the next run goes on
├── WorkersLost           a unit ends every worker that it is given to: more memory or smaller units
├── StorageFull           no room on a disk: make some, then run again
├── CommitUnknown         a swap whose outcome could not be read back: look before acting
└── StorageUnavailable    transient: the only one that is retried
```
"""

from agman.errors import AgmanError


class CorruptShard(AgmanError):
    """Stored bytes that differ from what their receipt or manifest says.

    Attributes:
        name: the object of the lake, where one is at fault; empty otherwise.
    """

    def __init__(self, message: str, name: str = "") -> None:
        """Say what is wrong, and of which object."""
        super().__init__(message)
        self.name = name

    def __reduce__(self) -> tuple[type["CorruptShard"], tuple[str, str]]:
        """Travel from a worker with the name."""
        return CorruptShard, (str(self), self.name)


class GateFailed(AgmanError):
    """A quality gate refused the new snapshot; the published one goes on serving."""


class StaleSnapshot(AgmanError):
    """The published snapshot changed since this run read it."""


class OutOfTime(AgmanError):
    """The time that the run was given is used up; what is finished stays, and the next run goes on."""


class WorkersLost(AgmanError):
    """Every worker that a unit of work was given to died, mostly for want of memory."""


class CommitUnknown(AgmanError):
    """The reply of a swap was lost and reading back did not settle whether it happened."""


class StorageFull(AgmanError):
    """There is no room left where something must be written; nothing half was left behind."""


class StorageUnavailable(AgmanError):
    """A transient failure of storage or of a source: worth another try."""
