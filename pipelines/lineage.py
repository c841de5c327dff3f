"""Whether a snapshot still is what it was when it was published: every file against its digest."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agman.errors import CheckpointMismatch
from pipelines.lake import Lake, model_folder
from pipelines.storage.objects import FileEntry, file_sha256
from pipelines.storage.snapshots import Manifest

READ_THREADS = 8  # reading and hashing release the GIL
NEEDED_MODEL_FILES = ("weights.safetensors", "config.json")


@dataclass(frozen=True, slots=True)
class Damage:
    """A stored object that is not what a manifest says."""

    name: str
    expected: str
    found: str


def find_damage(lake: Lake, manifest: Manifest) -> list[Damage]:
    """Read every file that a manifest lists and compare size and digest.

    Returns:
        What differs or is gone, sorted by name.
    """
    found = check_files(lake, manifest.entries())
    return sorted((damage for _, damage in found if damage), key=lambda damage: damage.name)


def check_files(lake: Lake, entries: Iterable[FileEntry]) -> Iterator[tuple[FileEntry, Damage | None]]:
    """Read files, several at a time, and yield each with what is wrong with it, in the order given."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from pool.map(lambda entry: (entry, _damage(lake, entry)), entries)


def find_absent(lake: Lake, entries: Iterable[FileEntry]) -> Iterator[Damage]:
    """Yield the files that are not in the lake with their size, in the order given; reads none of them."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        sizes = pool.map(lambda entry: (entry, lake.store.size(entry.name)), entries)
        for entry, size in sizes:
            if size != entry.num_bytes:
                found = "nothing" if size is None else f"{size} bytes"
                yield Damage(entry.name, f"{entry.num_bytes} bytes", found)


def absent_model_files(lake: Lake, model: str) -> list[Damage]:
    """Return the files that a model cannot do without and that are gone."""
    names = [f"{model_folder(model)}/{file}" for file in NEEDED_MODEL_FILES]
    return [Damage(name, "a file of the model", "nothing") for name in names if lake.store.size(name) is None]


def find_model_damage(lake: Lake, model: str) -> list[Damage]:
    """Load a model and compare it with its id: the digest of its tensors, taxonomy and preprocessing."""
    if absent := absent_model_files(lake, model):
        return absent
    # torch takes seconds to import: only who looks into a model waits.
    from agman.checkpoint import load_model
    from pipelines.models import fetch_model

    folder = model_folder(model)
    try:
        with fetch_model(lake, model) as local:
            load_model(local)
    except CheckpointMismatch as error:
        return [Damage(folder, f"a model with digest {model}", str(error))]
    return []


def _damage(lake: Lake, entry: FileEntry) -> Damage | None:
    expected = f"{entry.num_bytes} bytes with sha256 {entry.sha256[:12]}…"
    try:
        with lake.store.local_copy(entry.name) as path:
            num_bytes, sha256 = path.stat().st_size, file_sha256(path)
    except FileNotFoundError:
        return Damage(entry.name, expected, "nothing")
    if (num_bytes, sha256) == (entry.num_bytes, entry.sha256):
        return None
    return Damage(entry.name, expected, f"{num_bytes} bytes with sha256 {sha256[:12]}…")
