"""A process that has imported everything and forks one child for each night, which may kill itself.

Reads a line of JSON a night from standard input and answers with a line each. Imports take 5 s, a night of a
few pictures well below one: hundreds of crashes become affordable. The kill is a real SIGKILL.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import s3fs  # noqa: F401  imported once, before the forks
import torch
from inline_ray import inline_ray
from narrow_trunk import narrow

import agman.backbone
from pipelines import nightly  # noqa: F401
from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.morning.page import _environment
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.shards.plan import ShardOptions
from pipelines.storage.local import LocalStore
from pipelines.storage.s3 import S3Store
from pipelines.telemetry import Run

WRITES = ("put_if_absent", "upload_if_absent", "compare_and_swap", "delete")


class Writes:
    """Counts the writes of a night, and kills the process at one of them."""

    def __init__(self, kill_at: int | None, when: str) -> None:
        self.kill_at, self.when = kill_at, when
        self.names: list[str] = []
        self._is_inside = False

    def watch(self) -> None:
        """Count every write of every store of this process."""
        for store in (LocalStore, S3Store):
            for method in WRITES:
                setattr(store, method, self._watched(getattr(store, method)))
        if self.when == "middle":
            self._halve_files()

    def _watched(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def watched(store: Any, *arguments: Any, **options: Any) -> Any:
            if self._is_inside:  # one write calls another
                return write(store, *arguments, **options)
            name = next(str(each) for each in arguments if isinstance(each, str))
            self.names.append(f"{write.__name__} {name}")
            self._is_inside = True
            try:
                self._point("before")
                result = write(store, *arguments, **options)
                self._point("after")
                return result
            finally:
                self._is_inside = False

        return watched

    def _point(self, when: str) -> None:
        if when == self.when and len(self.names) - 1 == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _halve_files(self) -> None:
        """Die with half of the bytes in the temporary file."""
        temporary = LocalStore._temporary

        def halved(store: Any, write: Callable[[Any], object]) -> Any:
            def half(file: Any) -> None:
                write(file)
                if len(self.names) - 1 == self.kill_at:
                    file.truncate(file.tell() // 2)
                    os.kill(os.getpid(), signal.SIGKILL)

            return temporary(store, half)

        LocalStore._temporary = halved  # type: ignore[method-assign]
        link_final = LocalStore._link_final

        def halved_final(store: Any, name: str, local: Path) -> Any:
            if len(self.names) - 1 == self.kill_at:
                os.truncate(local, local.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return link_final(store, name, local)

        LocalStore._link_final = halved_final  # type: ignore[method-assign]


def one_night(asked: dict[str, Any]) -> list[str]:
    """Run a night; returns its writes, unless it dies before."""
    torch.set_num_threads(1)
    writes = Writes(asked["kill_at"], asked["when"])
    writes.watch()
    config = NightConfig(
        lake=asked["lake"],
        source=asked["source"],
        model=asked["model"],
        shards=ShardOptions(images_per_shard=3),
        embed=EmbedOptions(num_workers=1, precision="float32"),
    )
    with inline_ray():
        run_night(config, Run("nightly", config, Lake(config.lake)))
    return writes.names


def fork(asked: dict[str, Any]) -> dict[str, Any]:
    """Run a night in a child and tell how it ended."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            names = one_night(asked)
        with os.fdopen(write, "w") as answer:
            json.dump(names, answer)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "writes": json.loads(said) if said else []}


if __name__ == "__main__":
    agman.backbone.get_model = narrow
    _environment().get_template("report.html.j2")  # compiled once, not in every child
    for line in sys.stdin:
        sys.stdout.write(json.dumps(fork(json.loads(line))) + "\n")
        sys.stdout.flush()
