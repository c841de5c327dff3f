"""A full disk in one line instead of a traceback."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.errors import StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def told_when_full(where: str) -> Iterator[None]:
    """Turn "no space left on device" into `StorageFull`; every other error passes.

    Args:
        where: what was written to, for people.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFull(
            f"{where}: no room left ({error.strerror}); what was published goes on serving; make room, then "
            "run again: it goes on where it was"
        ) from error
