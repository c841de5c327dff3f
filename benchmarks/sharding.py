"""Pictures of a local folder into tars: ours against img2dataset, and against what reading and hashing allow.

    python benchmarks/sharding.py

Floor: every byte must be read and hashed, so `cat` and then `sha256sum` of the same files, as many processes
at once as we use; their seconds together bound what anybody packs who knows pictures by their digest. We hash
twice (each picture, and the tar for its receipt), write, and wait until the disk has it; img2dataset hashes
each picture and leaves writing to the system. Where `sha256sum` was built without the processor's SHA
instructions, Python's own hashing is several times as fast, and a share above 1 is no wonder.

Makes its own pictures of 512 x 640 (`photographs.py`), some 75 KB, no two alike.
Ours is the product's own way: `build_shards` of a folder into a new local lake, by Ray tasks. Ray is started
before, and a round to warm up loads the workers. What is compared is packing, from the first unit given to
the last receipt; reading the folder and comparing it with the catalog, which img2dataset does not do, is
shown apart, and so is every start. img2dataset 1.47 gets an environment of its own below `.benchmarks/`, made
where it is missing, the same pictures as `file://` addresses, tars of the same size and as many processes;
its time is that from the start of its first shard to the end of its last.

Then the same with every picture scaled to 256 on its short side, both sides writing JPEGs of quality 95. Ours
decodes a half of each JPEG, so a model is shown other pixels than without: a cosine says how far that moves
the embedding of a drawn garment (`shortcuts.py`).
"""

import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro
from rich.table import Table

from benchmarks import img2dataset
from benchmarks.environments import NotInstalled
from benchmarks.photographs import HEIGHT, WIDTH, write_photographs
from benchmarks.reporting import MIN_ROUNDS, console, report
from benchmarks.shortcuts import cosines
from pipelines.cluster import connected, num_cpus
from pipelines.lake import Lake
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run, quiet

HOW = AS_IS, RESIZE = "as_is", "resize"
OURS, THEIRS = "ours", "img2dataset"
COMMANDS = ("cat", "sha256sum")
"""The floor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    num_images: int = 4096
    """Pictures to pack."""
    images_per_shard: int = 512
    """Pictures of a tar."""
    rounds: int = MIN_ROUNDS
    """Rounds, of which the median is taken, after one to warm up."""
    side: int = 256
    """Short side in pixels of the pictures that are packed smaller."""
    model: Path | None = None
    """Folder of a model for the cosine, trained with `--shards.resize 0`; left out: random weights."""
    trunk: str = "resnet50"
    """torchvision's name, of the random model."""
    embedded: int = 48
    """Drawn garments whose embeddings are compared."""
    img2dataset: Path = img2dataset.FOLDER
    """Environment of the other side; made, by pip, where it is missing."""
    folder: Path = Path(tempfile.gettempdir())
    """Where pictures and tars are written, and removed again: the disk that is measured."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse tars without a picture."""
        if not 1 <= self.images_per_shard <= self.num_images:
            raise ValueError(
                f"images_per_shard: expected 1 to {self.num_images}, found {self.images_per_shard}"
            )


@dataclass(slots=True)
class Measured:
    """Seconds of all rounds, by what was done."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **seconds: float) -> None:
        """Note what one round took."""
        for name, taken in seconds.items():
            self.seconds.setdefault(name, []).append(taken)

    def median(self, name: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(self.seconds[name])


def main(options: Options) -> None:
    """Make the pictures, run all sides in turn, and report."""
    quiet()
    # Ray's workers are nice to others, by 15, which img2dataset is not: a busy machine would favour it.
    os.environ["RAY_worker_niceness"] = str(os.nice(0))
    command = _command(options)
    with tempfile.TemporaryDirectory(prefix="sharding-", dir=options.folder) as name:
        folder = Path(name)
        pictures = write_photographs(folder / "pictures", options.num_images)
        started = time.perf_counter()
        with connected():
            ray_s = time.perf_counter() - started
            sides = _sides(options, folder, pictures, command)
            measured = _in_turn(sides, options.rounds)
    console.print("comparing embeddings")
    moved = cosines(options.model, options.trunk, options.embedded, options.side)
    found = {**figures(measured, options.num_images), **moved, "ray_start_s": ray_s}
    floor = floors(measured, options.num_images)
    report("sharding", _table(options, found, floor), found, floor, options.results)


def figures(measured: Measured, num_images: int) -> dict[str, float]:
    """Return images/s of each side, our ratio over img2dataset where it ran, and our share of the floor."""
    found = {
        f"images_per_s_{name}": num_images / measured.median(name)
        for name in (*HOW, *(f"{how}_job" for how in HOW), *(f"{how}_{THEIRS}" for how in HOW))
        if name in measured.seconds
    }
    best = floors(measured, num_images)["images_per_s_as_is"]
    found["share_of_floor_as_is"] = found["images_per_s_as_is"] / best
    for how in HOW:
        if f"{how}_{THEIRS}" in measured.seconds:
            found[f"ratio_{how}"] = found[f"images_per_s_{how}"] / found[f"images_per_s_{how}_{THEIRS}"]
            found["img2dataset_start_s"] = measured.median("img2dataset_start")
    return found


def floors(measured: Measured, num_images: int) -> dict[str, float]:
    """Return what reading, hashing, and one after the other allow, images/s."""
    seconds = {name: measured.median(name) for name in COMMANDS}
    alone = {f"images_per_s_{name}": num_images / taken for name, taken in seconds.items()}
    return {**alone, "images_per_s_as_is": num_images / sum(seconds.values())}


def _command(options: Options) -> Path | None:
    try:
        return img2dataset.install(options.img2dataset.absolute())
    except NotInstalled as error:
        console.print(f"img2dataset cannot be installed; nothing is compared with it: {error}", style="red")
        return None


def _sides(
    options: Options, folder: Path, pictures: Sequence[Path], command: Path | None
) -> dict[str, Callable[[], dict[str, float]]]:
    """Return what each side does in a round: it gives its seconds by name."""
    numbers = itertools.count()
    processes = num_cpus()

    sizes = {"processes": processes, "shard": options.images_per_shard}

    def floor(name: str) -> dict[str, float]:
        return {name: _run(name, pictures, processes)}

    def ours(how: str, side: int) -> dict[str, float]:
        with _removed(folder / f"lake-{next(numbers)}") as lake:
            return _build(lake, folder / "pictures", options, how, side)

    def theirs(how: str, asked: Sequence[str]) -> dict[str, float]:
        assert command is not None
        with _removed(folder / f"tars-{next(numbers)}") as output:
            made = img2dataset.pack(command, pictures, output, asked, **sizes)
        return {f"{how}_{THEIRS}": made.seconds, "img2dataset_start": made.start_s}

    sides: dict[str, Callable[[], dict[str, float]]] = {name: partial(floor, name) for name in COMMANDS}
    asked = {AS_IS: img2dataset.AS_IS, RESIZE: img2dataset.resize(options.side)}
    for how, side in {AS_IS: 0, RESIZE: options.side}.items():
        sides[f"{how} {OURS}"] = partial(ours, how, side)
        if command is not None:
            sides[f"{how} {THEIRS}"] = partial(theirs, how, asked[how])
    return sides


def _in_turn(sides: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> Measured:
    """Take the sides in turn, so that a slow minute of the machine meets them all alike."""
    measured = Measured()
    for number in range(rounds + 1):
        console.print(f"round {number} of {rounds}" if number else "warming up")
        for side in sides.values():
            taken = side()
            if number:
                measured.add(**taken)
    return measured


def _build(lake: Path, pictures: Path, options: Options, how: str, side: int) -> dict[str, float]:
    shards = ShardOptions(images_per_shard=options.images_per_shard, resize=side)
    config = NightConfig(lake=str(lake), source=str(pictures), shards=shards)
    run = Run("sharding", config, Lake(config.lake))
    started = time.perf_counter()
    made = build_shards(config, run)
    seconds = time.perf_counter() - started
    if len(made.described) != options.num_images:
        raise RuntimeError(f"packed {len(made.described)} of {options.num_images} pictures")
    (packing,) = (stage.seconds for stage in run.stages if stage.name == "shard")
    return {how: packing, f"{how}_job": seconds}


def _run(command: str, pictures: Sequence[Path], processes: int) -> float:
    """Return the seconds of a command over all pictures, dealt to some processes at once."""
    started = time.perf_counter()
    running = [
        subprocess.Popen([command, *pictures[first::processes]], stdout=subprocess.DEVNULL)  # noqa: S603
        for first in range(processes)
    ]
    if any([process.wait() for process in running]):
        raise RuntimeError(f"{command} failed")
    return time.perf_counter() - started


@contextmanager
def _removed(folder: Path) -> Iterator[Path]:
    """Give a folder's name and remove the folder after, when nobody looks at the clock."""
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _table(options: Options, found: Mapping[str, float], floor: Mapping[str, float]) -> Table:
    table = Table(
        title=f"{options.num_images} pictures of {WIDTH} x {HEIGHT}, {options.images_per_shard} a tar; "
        f"images/s, medians of {options.rounds}"
    )
    for name in ("", "as they are", "share of the floor", f"scaled to {options.side}"):
        table.add_column(name, justify="right" if name else "left")
    best = floor["images_per_s_as_is"]
    for name in COMMANDS:
        table.add_row(f"floor: {name}", *_shares(floor[f"images_per_s_{name}"], best), "")
    table.add_row("floor: one after the other", *_shares(best, best), "")
    sides = {OURS: "", "ours, with reading the folder and comparing": "_job", THEIRS: f"_{THEIRS}"}
    for name, ending in sides.items():
        as_is, resized = (found.get(f"images_per_s_{how}{ending}") for how in HOW)
        table.add_row(name, *_shares(as_is, best), f"{resized:,.0f}" if resized else "")
    if "ratio_as_is" in found:
        table.add_row(
            "ours over img2dataset", f"{found['ratio_as_is']:.2f}", "", f"{found['ratio_resize']:.2f}"
        )
    starts = {"start of Ray": found["ray_start_s"], "start of img2dataset": found.get("img2dataset_start_s")}
    said = [f"{name} {taken:.1f} s" for name, taken in starts.items() if taken is not None]
    for name, shown in (("resize", "packed smaller"), ("oversampling_1", "decoded with oversampling 1")):
        low, mean = (found[f"{kind}_cosine_{name}"] for kind in ("min", "mean"))
        said.append(f"cosine of a picture {shown}: {low:.4f} at least, {mean:.4f} on the average")
    said.append(f"of different pictures: {found['mean_cosine_of_others']:.4f}")
    table.caption = "; ".join(said)
    return table


def _shares(rate: float | None, best: float) -> tuple[str, str]:
    return (f"{rate:,.0f}", f"{rate / best:.2f}") if rate else ("not installed", "")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
