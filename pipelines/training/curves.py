"""A training's figures over its steps, as TensorBoard reads them: `tensorboard --logdir <lake>/runs`.

Each stretch up to a validation becomes one immutable event file, on S3 as on a local disk. So the files tell
as much as the checkpoints: what a crash undoes is not in them.
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from google.protobuf.message import DecodeError
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from pipelines.lake import Lake, working_folder

VALIDATION = "score"
"""Query-weighted MAP, or the share of right triplets where a data set lists them."""
_LENGTH = struct.Struct("<Q")
_CHECKSUM_BYTES = 4
_PROGRESS = frozenset({"step", "images", "waited_s", "worked_s", "best", "num_worse"})


class Curves:
    """What was posted since the last validation, and where it is stored."""

    def __init__(self, lake: Lake, run_name: str) -> None:
        """Store below the run's folder."""
        self.folder = curves_folder(run_name)
        self._lake = lake
        self._pending: list[tuple[float, dict[str, float]]] = []

    def add(self, figures: dict[str, float]) -> None:
        """Take the figures of a step; those of a validation store all so far.

        Workers that start again go back to their checkpoint: what is pending from there on is replaced.
        """
        self._pending = [seen for seen in self._pending if seen[1]["step"] < figures["step"]]
        self._pending.append((time.time(), dict(figures)))
        if VALIDATION in figures:
            self._store()

    def _store(self) -> None:
        first, last = (int(self._pending[place][1]["step"]) for place in (0, -1))
        with working_folder() as folder:
            # TensorBoard then forgets the steps that an earlier attempt stored.
            with SummaryWriter(str(folder), purge_step=first, filename_suffix=f".{last:09d}") as writer:
                for seen_at, figures in self._pending:
                    for tag, value in tagged(figures).items():
                        writer.add_scalar(tag, value, int(figures["step"]), seen_at)
            for file in folder.iterdir():
                self._lake.store.upload_if_absent(Path(file), f"{self.folder}/{file.name}")
        self._pending = []


def tagged(figures: dict[str, float]) -> dict[str, float]:
    """Name figures as TensorBoard groups them: losses of training, validation, and the machine's work."""
    named = {
        f"{'valid' if name == VALIDATION else 'train'}/{name}": value
        for name, value in figures.items()
        if name not in _PROGRESS
    }
    worked = max(figures["worked_s"], 1e-9)
    return {
        **named,
        "work/images_per_s": figures["images"] / worked,
        "work/share_waiting_for_pictures": figures["waited_s"] / worked,
    }


def curves_folder(run_name: str) -> str:
    """Name of the folder of a training's event files."""
    return f"runs/{run_name}/tensorboard"


def read_curves(lake: Lake, run_name: str) -> dict[str, list[tuple[float, float]]]:
    """Read a training's figures.

    Args:
        lake: where.
        run_name: the training's.

    Returns:
        By tag, (step, value) in the order of steps, without what a crash undid; empty where there are none.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    names = lake.store.list_names(curves_folder(run_name))
    for name in sorted(names, key=_written_at):
        events = [event for event in _events(lake.store.read(name).body) if event.summary.value]
        first = min((event.step for event in events), default=0)
        for tag, points in curves.items():
            curves[tag] = [point for point in points if point[0] < first]
        for event in events:
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((float(event.step), float(value.simple_value)))
    return curves


def _written_at(name: str) -> tuple[int, str]:
    """Return when an event file was begun, which its name says: events.out.tfevents.<seconds>.<host>…."""
    file = PurePosixPath(name).name
    seconds = file.removeprefix("events.out.tfevents.").partition(".")[0]
    return int(seconds) if seconds.isdigit() else 0, file


def _events(body: bytes) -> Iterator[Event]:
    """Yield the events of a file up to what is damaged.

    Each has 8 bytes of length, a check sum, the event, another check sum.
    """
    place = 0
    while place + _LENGTH.size <= len(body):
        (length,) = _LENGTH.unpack_from(body, place)
        begin = place + _LENGTH.size + _CHECKSUM_BYTES
        if begin + length > len(body):
            return
        try:
            yield Event.FromString(body[begin : begin + length])
        except DecodeError:
            return
        place = begin + length + _CHECKSUM_BYTES
