"""A night killed by SIGKILL before and after every one of its writes, on disk and on S3, and started again.

The night is a second one: it deletes, edits, renames, doubles and adds pictures. What is published after the
rerun must equal what an unbroken night publishes, and what a reader sees at the moment of the crash must be
the first night's snapshot or the second's, whole. The same changes are also met by a model with an attribute
added, on disk, killed before the first and the last write of each kind.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import s3fs
from conftest import make_model
from extended_model import extended_model
from inline_ray import inline_ray
from narrow_trunk import narrow
from PIL import Image
from served import Served, served

from agman.taxonomy import FASHIONAI, Taxonomy
from pipelines.lake import Lake
from pipelines.lineage import find_damage
from pipelines.models import import_model, list_models
from pipelines.storage.objects import FileEntry, ObjectStore
from pipelines.storage.snapshots import current_manifest, read_pointer

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ZYGOTES = 2  # one a core
KILLED = -9
# What each write of a night is, as docs/reliability.md calls it.
KINDS = {
    r"upload_if_absent shards/.*\.tar": "tar of a shard",
    r"upload_if_absent shards/.*\.parquet": "index of a tar",
    r"put_if_absent receipts/shards/.*": "receipt of a shard",
    r"upload_if_absent embeddings/.*\.parquet": "part, a file an attribute",
    r"put_if_absent receipts/embeddings/.*": "receipt of a part",
    r"upload_if_absent indexes/.*\.faiss": "FAISS file, one an attribute",
    r"upload_if_absent indexes/.*/ids/.*": "ids of a group",
    r"put_if_absent receipts/indexes/.*": "receipt of a group",
    r"upload_if_absent snapshots/.*/catalog\.parquet": "catalog of the snapshot",
    r"upload_if_absent snapshots/.*/quarantine\.parquet": "quarantine of the snapshot",
    r"upload_if_absent snapshots/.*/report\.json": "report, as JSON",
    r"upload_if_absent snapshots/.*/report\.html": "report, as a page",
    r"put_if_absent snapshots/.*/manifest\.json": "manifest",
    r"compare_and_swap CURRENT\.json": "pointer",
}


def kind_of(write: str) -> str:
    return next((kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, write)), write)


class Zygotes:
    """Processes that fork nights, each busy with one at a time."""

    def __init__(self, count: int) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._processes = [
            subprocess.Popen(
                [sys.executable, ROOT / "tests" / "crash_zygote.py"],
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]
        self._free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for process in self._processes:
            self._free.put(process)

    def night(self, lake: Lake, source: Path, model: str, kill_at: int | None = None, when: str = "") -> Any:
        process = self._free.get()
        try:
            asked = {
                "lake": lake.url,
                "source": str(source),
                "model": model,
                "kill_at": kill_at,
                "when": when,
            }
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        finally:
            self._free.put(process)

    def close(self) -> None:
        for process in self._processes:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


@pytest.fixture(scope="module")
def zygotes() -> Iterator[Zygotes]:
    found = Zygotes(ZYGOTES)
    yield found
    found.close()


def draw(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of the first night and of the second."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    for folder in (first, second):
        for number in range(7):
            draw(folder / f"{number}.png", number)
    (second / "0.png").unlink()
    (second / "1.png").rename(second / "1-renamed.png")
    draw(second / "2.png", 102)
    (second / "3-again.png").write_bytes((second / "3.png").read_bytes())
    (second / "4-broken.png").write_bytes(b"no picture, whatever its name says")
    for number in (7, 8, 9):
        draw(second / f"{number}.png", number)
    return first, second


@dataclass
class Night:
    """The second night of a lake: how it begins, what it writes and what it publishes."""

    begin: ObjectStore
    source: Path
    model: str
    before: Served
    after: Served
    writes: list[str]

    def lake(self, root: str) -> Lake:
        """Return a copy of the lake as the first night left it."""
        copy = Lake(f"{root}/{uuid.uuid4().hex[:8]}")
        if copy.url.startswith("s3://"):
            s3fs.S3FileSystem().copy(f"{self.begin.url}/", f"{copy.url}/", recursive=True)
        else:  # a store never writes into a file that stands, so copies may share theirs
            shutil.copytree(self.begin.url, copy.url, copy_function=os.link)
        return copy


@pytest.fixture(scope="module", params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "local":
        return str(tmp_path_factory.mktemp("crashes"))
    return f"{request.getfixturevalue('s3_server')}/{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def narrow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with patch("agman.backbone.get_model", narrow):
        return make_model(tmp_path_factory.mktemp("narrow"), Taxonomy(FASHIONAI.attributes[:2]))


@pytest.fixture(scope="module")
def night(root: str, zygotes: Zygotes, sources: tuple[Path, Path], narrow_model: Path) -> Night:
    lake = Lake(f"{root}/begin")
    assert zygotes.night(lake, sources[0], str(narrow_model))["status"] == 0
    (model,) = list_models(lake)
    return unbroken_night(lake, root, zygotes, sources[1], model)


@pytest.fixture(scope="module")
def extension(
    zygotes: Zygotes,
    sources: tuple[Path, Path],
    narrow_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Night:
    """The same second night, on disk, under a model that has an attribute added."""
    folder = tmp_path_factory.mktemp("extension")
    lake = Lake(f"{folder}/begin")
    assert zygotes.night(lake, sources[0], str(narrow_model))["status"] == 0
    with patch("agman.backbone.get_model", narrow):
        extended = extended_model(narrow_model, folder / "model", FASHIONAI.attributes[2])
        model = import_model(lake, extended)
    return unbroken_night(lake, str(folder), zygotes, sources[1], model)


def unbroken_night(lake: Lake, root: str, zygotes: Zygotes, source: Path, model: str) -> Night:
    """Run a night to its end on a copy of a lake, to know what it writes and publishes."""
    found = Night(lake.store, source, model, served(lake), {}, [])
    unbroken = found.lake(root)
    told = zygotes.night(unbroken, source, model)
    assert told["status"] == 0
    found.after, found.writes = served(unbroken), told["writes"]
    assert set(found.after) == {
        "1-renamed.png",
        "2.png",
        "3.png",
        "3-again.png",
        *(f"{n}.png" for n in range(4, 10)),
    }
    return found


def points(night: Night, root: str) -> list[tuple[int, str]]:
    """Return every place of the night where it is killed.

    Before each write, which is after the one before it, and after the last; on disk also with half of a file
    of each kind, which S3 cannot leave.
    """
    numbers = range(len(night.writes))
    first_of_kind = {kind_of(write): number for number, write in reversed([*enumerate(night.writes)])}
    halves = [] if root.startswith("s3://") else sorted(first_of_kind.values())
    return [
        *((number, "before") for number in numbers),
        (numbers[-1], "after"),
        *((number, "middle") for number in halves),
    ]


@pytest.mark.timeout(1200)  # some hundred nights: a minute a store on two idle cores
def test_a_night_killed_at_any_write_ends_as_the_unbroken_one(
    night: Night, root: str, zygotes: Zygotes
) -> None:
    tried = points(night, root)
    assert len(tried) >= 25
    assert failures(night, root, zygotes, tried) == []


def failures(night: Night, root: str, zygotes: Zygotes, tried: list[tuple[int, str]]) -> list[str]:
    """Crash at some points, each on a lake of its own, and return what was wrong after any of them."""

    def crash(point: tuple[int, str]) -> str | None:
        try:
            check_point(night, root, zygotes, *point)
        except AssertionError as error:
            return f"{point[1]} {night.writes[point[0]]}: {error}"
        return None

    with inline_ray(), ThreadPoolExecutor(ZYGOTES) as pool:
        return [said for said in pool.map(crash, tried) if said]


def check_point(night: Night, root: str, zygotes: Zygotes, number: int, when: str) -> None:
    lake = night.lake(root)
    killed = zygotes.night(lake, night.source, night.model, number, when)
    assert killed["status"] == KILLED
    is_done = when == "after" and number == len(night.writes) - 1
    assert find_damage(lake, current_manifest(lake)) == []
    assert served(lake) == (night.after if is_done else night.before)

    rerun = zygotes.night(lake, night.source, night.model)
    assert rerun["status"] == 0
    assert served(lake) == night.after
    manifest = current_manifest(lake)
    assert find_damage(lake, manifest) == []
    assert manifest.night == 2
    assert read_pointer(lake).previous == manifest.parent


@pytest.mark.timeout(600)  # some fifty nights: a quarter of a minute on two idle cores
def test_a_killed_night_that_adds_an_attribute_ends_as_the_unbroken_one(
    extension: Night, zygotes: Zygotes, tmp_path: Path
) -> None:
    begin = Lake(extension.begin.url)
    old, added = embedding_files(begin), FASHIONAI.attributes[2].name
    tried = first_and_last(extension.writes)
    names = [extension.writes[number] for number, _ in tried]
    assert {kind_of(name) for name in names} == set(KINDS.values())
    assert any(f"attribute={added}" in name for name in names)
    assert failures(extension, str(tmp_path), zygotes, tried) == []
    for lake in map(Lake, map(str, tmp_path.iterdir())):
        files = embedding_files(lake)
        kept = {key: entry for key, entry in old.items() if (key[0], added) in files}
        assert kept.items() <= files.items()
        assert {part for part, _ in kept} == {part for part, _ in old}


def first_and_last(writes: list[str]) -> list[tuple[int, str]]:
    """Return the points before the first and the last write of each kind."""
    of_kind: dict[str, list[int]] = {}
    for number, write in enumerate(writes):
        of_kind.setdefault(kind_of(write), []).append(number)
    return sorted({(number, "before") for found in of_kind.values() for number in (found[0], found[-1])})


def embedding_files(lake: Lake) -> dict[tuple[str, str], FileEntry]:
    """Return the files of the published parts by part and attribute."""
    return {
        (part.name, name): entry
        for part in current_manifest(lake).parts
        for name, entry in part.files.items()
    }


def test_the_table_of_points_is_the_documents(night: Night) -> None:
    document = (ROOT / "docs" / "reliability.md").read_text()
    table = document[document.index("| write |") :].split("\n\n")[0]
    listed = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert listed[0] == "write"
    # On S3 a night first tries whether the store has conditional writes, on an object of its own.
    writes = [write for write in night.writes if " probes/" not in write]
    written = list(dict.fromkeys(map(kind_of, writes)))
    assert listed[1:] == written
