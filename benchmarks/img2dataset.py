"""The other side of `sharding.py`: img2dataset, in an environment of its own, on files of this machine.

Its maintainers advise a web server on loopback for local files (its issue 428). urllib, by which it
downloads, reads `file://` addresses as well, at less cost, so these are what it is given.
"""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import environments

FOLDER = Path(".benchmarks/img2dataset")
REQUIREMENTS = ("img2dataset==1.47.0", "pyarrow<20")
"""With pyarrow 20 and later its reader fails."""
AS_IS = ("--resize_mode", "no", "--disable_all_reencoding", "True")


@dataclass(frozen=True, slots=True)
class Packed:
    """What one run of it took."""

    seconds: float
    """By the clock, from the start of its first shard to the end of its last."""
    start_s: float
    """All else: starting Python three times, imports, reading the list."""


def install(folder: Path) -> Path:
    """Return the command, from an environment that is made where it is missing.

    Raises:
        NotInstalled: where pip could not.
    """
    return environments.install(folder, REQUIREMENTS, "img2dataset") / "img2dataset"


def resize(side: int) -> tuple[str, ...]:
    """Return the options that scale the short side down to `side` pixels, at its own quality of 95."""
    return ("--resize_mode", "keep_ratio", "--resize_only_if_bigger", "True", "--image_size", str(side))


def pack(
    command: Path, pictures: Sequence[Path], output: Path, how: Sequence[str], *, processes: int, shard: int
) -> Packed:
    """Pack pictures into tars.

    Args:
        command: as `install` gives it.
        pictures: absolute paths.
        output: a folder that is not there yet; the list of pictures is written beside it.
        how: `AS_IS` or `resize(...)`.
        processes: at work at once.
        shard: pictures of a tar.

    Raises:
        RuntimeError: if it failed, or did not pack every picture.
    """
    listed = output.with_name(f"{output.name}.txt")
    listed.write_text("".join(f"{path.as_uri()}\n" for path in pictures))
    sizes = {"processes_count": processes, "thread_count": 16, "number_sample_per_shard": shard}
    places = {"url_list": listed, "output_folder": output}
    options = {"input_format": "txt", "output_format": "webdataset", **sizes, **places}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [str(command), *arguments, *how],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": ""},
        check=False,
    )
    seconds = time.perf_counter() - started
    shards = [json.loads(path.read_text()) for path in sorted(output.glob("*_stats.json"))]
    packed = sum(each["successes"] for each in shards)
    if done.returncode or packed != len(pictures):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"img2dataset packed {packed} of {len(pictures)} pictures: {last}")
    span = max(each["end_time"] for each in shards) - min(each["start_time"] for each in shards)
    return Packed(span, seconds - span)
