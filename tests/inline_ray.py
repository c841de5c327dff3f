"""Ray tasks and actors run at once in this process: for hundreds of nights, and for one that kills itself.

Only the calls that a night makes are here. What they do on a real Ray is tested with a real Ray.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import ray


@dataclass(frozen=True, eq=False)
class Ref:
    """A result that is there already."""

    value: Any = None
    error: BaseException | None = None


class Remote:
    """What `ray.remote` gives: a function, a class or an actor's method."""

    def __init__(self, function: Callable[..., Any], num_returns: int = 1) -> None:
        self.function = function
        self.num_returns = num_returns

    def options(self, *, num_returns: int = 1, **_: Any) -> "Remote":
        return Remote(self.function, num_returns)

    def remote(self, *arguments: Any, **named: Any) -> Any:
        values = [each.value if isinstance(each, Ref) else each for each in arguments]
        if isinstance(self.function, type):
            return Actor(self.function(*values, **named))
        try:
            found = self.function(*values, **named)
        except Exception as error:  # noqa: BLE001  raised by `get`, as Ray does
            refs = [Ref(error=error)] * self.num_returns
        else:
            refs = [Ref(found)] if self.num_returns == 1 else [Ref(value) for value in found]
        return refs[0] if self.num_returns == 1 else refs


class Actor:
    """An actor's handle."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self.__ray_ready__ = Remote(lambda: True)

    def __getattr__(self, name: str) -> Remote:
        return Remote(getattr(self.instance, name))


def get(refs: Any) -> Any:
    if isinstance(refs, list):
        return [get(ref) for ref in refs]
    if refs.error is not None:
        raise refs.error
    return refs.value


@contextmanager
def inline_ray() -> Iterator[None]:
    """Put the stand-in in Ray's place for the time of a `with`."""
    calls: dict[str, Any] = {
        "remote": Remote,
        "get": get,
        "put": Ref,
        "wait": lambda refs, **_: (list(refs), []),
        "cancel": lambda ref: None,
        "kill": lambda actor: None,
        "is_initialized": lambda: True,
        "cluster_resources": lambda: {"CPU": 2.0},
    }
    with patch.multiple(ray, **calls):
        yield
