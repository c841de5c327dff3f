"""A training's figures over its steps, as TensorBoard reads them: `tensorboard --logdir <lake>/runs`.

Each stretch up to a validation becomes one immutable event file, on S3 as on a local disk. So the files tell
as much as the checkpoints: what a crash undoes is not in them.
"""

import time
from pathlib import Path

from tensorboardX import SummaryWriter

from pipelines.lake import Lake, working_folder

VALIDATION = "score"
"""Query-weighted MAP, or the share of right triplets where a data set lists them."""
_PROGRESS = frozenset({"step", "images", "waited_s", "worked_s", "best", "num_worse"})


class Curves:
    """What was posted since the last validation, and where it is stored."""

    def __init__(self, lake: Lake, run_name: str) -> None:
        """Store below the run's folder."""
        self.folder = f"runs/{run_name}/tensorboard"
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
