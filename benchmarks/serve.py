"""What the service answers in a second, how long it takes, how it refuses, and what a publication costs.

    python benchmarks/serve.py

`jobs/serve.py` runs as people start it, over a drawn catalog and a network of random weights, on the same
machine as its callers, which take a part of the cores. Callers ask one after the other without a pause, and
their number doubles until requests are refused (429). `requests_s` is the most that was answered in a second
without a refusal, by searches with a key, and `p99_ms` how long the slowest of a hundred took then;
`uploads_s` and `uploads_p99_ms` are the same of searches with a picture that is sent. While half as many
callers go on, another snapshot is published, and the first again: `failed_during_publish` counts all that is
not answered with 200 meanwhile. `refused_share` is of the last load, and `failed` counts what was neither
answered nor refused cleanly.

Floor: `/healthz`, which does nothing, through the same proxy with as many callers; and one search in this
process, without a service around it. `share_of_floor` is what both take, one caller alone, of what a request
by key takes then (`p50_ms_alone`).
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import numpy as np
import tyro
from rich.table import Table

from agman.transforms import Preprocess
from benchmarks.made_shards import make_model
from benchmarks.reporting import report
from pipelines.asking import Question, ask, query_of_product
from pipelines.cluster import connected
from pipelines.lake import Lake, bytes_sha256, snapshot_file
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.search import Searcher
from pipelines.storage.snapshots import current_manifest, read_pointer, swap_pointer
from pipelines.telemetry import Run, quiet

ATTRIBUTE = "neckline_design"
K = 24
JOB = Path(__file__).parents[1] / "jobs" / "serve.py"
READY_S = 300.0
OK, REFUSED = 200, 429


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the work."""

    images: int = 1000
    """Pictures of the catalog."""
    trunk: str = "resnet50"
    """Of the network."""
    image_size: int = 224
    """Pixels that it looks at."""
    replicas: int = 1
    """Processes that answer."""
    seconds: float = 6.0
    """Of each load; a publication gets as many before and after."""
    most_callers: int = 512
    """Where the climb ends although nothing was refused."""
    port: int = 8977
    """That the service listens at, on 127.0.0.1."""
    results: Path | None = None
    """File for the figures."""


@dataclass(slots=True)
class Load:
    """What a number of callers got."""

    callers: int
    seconds: float = 0.0
    codes: Counter[int] = field(default_factory=Counter)
    """Answers by status; 0: none."""
    times: list[float] = field(default_factory=list)
    """Seconds that each answer of 200 took."""

    @property
    def rate(self) -> float:
        """Answers of 200 in a second."""
        return self.codes[OK] / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """What was neither answered nor refused."""
        return self.codes.total() - self.codes[OK] - self.codes[REFUSED]

    def percentile(self, percent: float) -> float:
        """Return how long answers took, milliseconds."""
        return 1000 * float(np.percentile(self.times, percent)) if self.times else float("nan")


@dataclass(frozen=True, slots=True)
class Target:
    """A service, and what is asked of it."""

    url: str
    lake: Lake
    snapshots: tuple[str, str]
    """The one that is served, and another."""
    keys: Sequence[str]
    """Of products of both."""
    pictures: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


Ask = Callable[[aiohttp.ClientSession, int], Any]


def main(options: Options) -> None:
    """Make the lake, serve it, and report."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        lake, snapshots = _publish_two(options, Path(folder))
        with Searcher(lake, current_manifest(lake)) as searcher:
            rows = searcher.example_rows(ATTRIBUTE, 64)
            pictures = [searcher.picture_of(row) for row in rows]
            bare_ms = 1000 * _bare_search(searcher, rows)
        url = f"http://127.0.0.1:{options.port}"
        with _served(options, lake, url):
            target = Target(url, lake, snapshots, [row["key"] for row in rows], pictures)
            figures, floor, loads = measure(target, options)
    floor["bare_search_ms"] = bare_ms
    figures["share_of_floor"] = (floor["p50_ms_alone"] + bare_ms) / figures["p50_ms_alone"]
    report("serve", _table(options, loads), figures, floor, options.results)


def measure(
    target: Target, options: Options
) -> tuple[dict[str, float], dict[str, float], dict[str, list[Load]]]:
    """Load a service and return figures, floor, and the loads by what was asked."""
    asked = {"key": by_key(target), "upload": by_upload(target), "healthz": healthz(target)}
    loads = {name: asyncio.run(climb(asked[name], options, target)) for name in ("key", "upload")}
    best = {name: best_of(found) for name, found in loads.items()}
    idle = asyncio.run(_load(asked["healthz"], best["key"].callers, options.seconds, target))
    alone = asyncio.run(_load(asked["healthz"], 1, options.seconds, target))
    during = asyncio.run(_during_publish(asked["key"], max(1, best["key"].callers // 2), options, target))
    every = [load for found in loads.values() for load in found]
    last = loads["key"][-1]
    figures = {
        "requests_s": best["key"].rate,
        "p50_ms_alone": loads["key"][0].percentile(50),
        "p50_ms": best["key"].percentile(50),
        "p99_ms": best["key"].percentile(99),
        "uploads_s": best["upload"].rate,
        "uploads_p99_ms": best["upload"].percentile(99),
        "refused_share": last.codes[REFUSED] / max(1, last.codes.total()),
        "failed": float(sum(load.failed for load in every)),
        "failed_during_publish": float(during.codes.total() - during.codes[OK]),
        "requests_during_publish": float(during.codes.total()),
        "p99_ms_during_publish": during.percentile(99),
    }
    floor = {
        "requests_s": idle.rate,
        "p50_ms_alone": alone.percentile(50),
        "p99_ms": idle.percentile(99),
    }
    return figures, floor, {**loads, "healthz": [alone, idle], "key, publishing": [during]}


def best_of(loads: Sequence[Load]) -> Load:
    """Return the load with the most answers among those without a refusal."""
    return max(
        (load for load in loads if set(load.codes) <= {OK}), key=lambda load: load.rate, default=loads[0]
    )


async def climb(ask: Ask, options: Options, target: Target) -> list[Load]:
    """Double the callers until some are refused, or there are enough."""
    loads: list[Load] = []
    callers = 1
    await _load(ask, 2, options.seconds / 3, target)  # what is opened once is open after this
    while callers <= options.most_callers:
        loads.append(await _load(ask, callers, options.seconds, target))
        if loads[-1].codes[REFUSED]:
            break
        callers *= 2
    return loads


def by_key(target: Target) -> Ask:
    """Return the question for what looks like a product."""

    def ask_one(session: aiohttp.ClientSession, number: int) -> Any:
        key = target.keys[number % len(target.keys)]
        return session.get(f"{target.url}/similar/{key}?attributes={ATTRIBUTE}&k={K}")

    return ask_one


def by_upload(target: Target) -> Ask:
    """Return the question for what looks like a picture that is sent."""

    def ask_one(session: aiohttp.ClientSession, number: int) -> Any:
        form = aiohttp.FormData({"attributes": f'{{"{ATTRIBUTE}": 1}}', "k": str(K)})
        form.add_field("picture", target.pictures[number % len(target.pictures)], filename="query.jpg")
        return session.post(f"{target.url}/search", data=form)

    return ask_one


def healthz(target: Target) -> Ask:
    """Return the question that costs nothing to answer."""
    return lambda session, _: session.get(f"{target.url}/healthz")


async def _load(ask: Ask, callers: int, seconds: float, target: Target) -> Load:
    load = Load(callers)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=target.headers) as session:
        began = time.perf_counter()
        ends = began + seconds
        await asyncio.gather(*(_call(ask, session, load, number, ends) for number in range(callers)))
        load.seconds = time.perf_counter() - began
    return load


async def _call(ask: Ask, session: aiohttp.ClientSession, load: Load, number: int, ends: float) -> None:
    """Be one caller: who is refused waits as long as it was told, but no longer than the load lasts."""
    while (began := time.perf_counter()) < ends:
        try:
            async with ask(session, number) as answer:
                await answer.read()
                load.codes[answer.status] += 1
                if answer.status == OK:
                    load.times.append(time.perf_counter() - began)
                elif answer.status == REFUSED:
                    told = float(answer.headers.get("Retry-After", "1"))
                    await asyncio.sleep(min(told, max(0.0, ends - time.perf_counter())))
        except (aiohttp.ClientError, TimeoutError):
            load.codes[0] += 1
        number += 1


async def _during_publish(ask: Ask, callers: int, options: Options, target: Target) -> Load:
    """Ask while another snapshot is published, and the first one again."""
    seconds = 3 * options.seconds
    going = asyncio.create_task(_load(ask, callers, seconds, target))
    for snapshot in reversed(target.snapshots):
        await asyncio.sleep(options.seconds)
        await asyncio.to_thread(publish_again, target.lake, snapshot)
    load = await going
    await asyncio.to_thread(_wait_for, target, target.snapshots[0])
    return load


def publish_again(lake: Lake, snapshot: str) -> None:
    """Swap the pointer to a snapshot that the lake has."""
    found = read_pointer(lake)
    assert found is not None
    body = lake.store.read(snapshot_file(snapshot, "manifest.json")).body
    pointer = replace(found, snapshot=snapshot, commit_uuid=uuid4().hex, manifest_sha256=bytes_sha256(body))
    swap_pointer(lake, pointer, found.version)


def _publish_two(options: Options, folder: Path) -> tuple[Lake, tuple[str, str]]:
    """Publish two nights, and the first again."""
    lake = Lake(str(folder / "lake"))
    model = make_model(lake, folder / "model", options.trunk, Preprocess(image_size=options.image_size))
    published = []
    with connected():
        for night in (1, 2):
            source = f"generated:num_images={options.images},seed=0,night={night}"
            config = NightConfig(lake=lake.url, source=source, model=model)
            manifest = run_night(config, Run("serve", config, lake))
            assert manifest is not None
            published.append(manifest.id)
    publish_again(lake, published[0])
    return lake, (published[0], published[1])


@contextmanager
def _served(options: Options, lake: Lake, url: str) -> Iterator[None]:
    arguments = ["--lake", lake.url, "--port", str(options.port), "--replicas", str(options.replicas)]
    command = [sys.executable, str(JOB), *arguments, "--poll-s", "0.5"]
    job = subprocess.Popen(command, cwd=Path(lake.url).parent)  # noqa: S603
    try:
        target = Target(url, lake, ("", ""), (), ())
        _wait_for(target, "", lambda: job.poll() is None)
        yield
    finally:
        job.terminate()
        job.wait(timeout=60)


def _wait_for(target: Target, snapshot: str, goes_on: Callable[[], bool] = lambda: True) -> None:
    """Wait until a service answers, with a snapshot if one is named."""

    async def is_there() -> bool:
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{target.url}/healthz") as answer,
            ):
                return answer.status == OK and snapshot in await answer.text()
        except aiohttp.ClientError:
            return False

    ends = time.monotonic() + READY_S
    while not asyncio.run(is_there()):
        if not goes_on() or time.monotonic() > ends:
            raise RuntimeError(f"{target.url}: the service did not answer; see what it printed")
        time.sleep(0.1)


def _bare_search(searcher: Searcher, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the median seconds of a search in this process."""
    searcher.warm()
    seconds = []
    for row in rows:
        began = time.perf_counter()
        question = Question(weights={ATTRIBUTE: 1.0}, k=K, exclude=[row["sha256"]])
        ask(searcher, query_of_product(searcher, row, [ATTRIBUTE]), question)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _table(options: Options, loads: Mapping[str, Sequence[Load]]) -> Table:
    table = Table(
        title=f"{options.images:,} products, {options.trunk} at {options.image_size} pixels, "
        f"{options.replicas} replicas; callers on the same machine"
    )
    for name in ("asked", "callers", "answered/s", "p50 ms", "p99 ms", "refused", "failed"):
        table.add_column(name, justify="left" if name == "asked" else "right")
    for name, found in loads.items():
        for load in found:
            times = (f"{load.percentile(50):.1f}", f"{load.percentile(99):.1f}")
            refused, failed = str(load.codes[REFUSED]), str(load.failed)
            table.add_row(name, str(load.callers), f"{load.rate:.1f}", *times, refused, failed)
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
