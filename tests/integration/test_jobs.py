"""Every job as a person starts it: with their mistakes, from a shell, and through `ray job submit`.

Most are called in this process: a shell of its own costs each 8 s of imports. One help, one mistake and the
training go the whole way.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from called_jobs import Ended, call
from prometheus_client.parser import text_string_to_metric_families

from agman.checkpoint import load_model
from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.metrics import METRICS
from pipelines.models import fetch_model, list_models
from pipelines.nightly import NightConfig, run_night
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
JOBS = sorted(
    path.name
    for path in (ROOT / "jobs").glob("*.py")
    if path.name not in ("__init__.py", "command_line.py", "recipes.py")
)
LIMIT_S = 200
SMALL = "generated:num_images=12,seed=1,size=48"
PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}


def start(job: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> Ended:
    return subprocess.run(
        [sys.executable, ROOT / "jobs" / job, *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_a_job_does(job: str) -> None:
    found = call(job, "--help")
    assert found.returncode == 0, found.stderr
    assert "--lake" in found.stdout
    assert f"jobs/{job}" in found.stdout
    assert found.stderr == ""


def test_a_shell_sees_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        helped = pool.submit(start, "nightly.py", "--help")
        refused = pool.submit(
            start, "search.py", "--lake", "new", "--key", "a", "--attribute", "b", cwd=tmp_path
        )
    assert (helped.result().returncode, helped.result().stderr) == (0, "")
    assert "--source" in helped.result().stdout
    assert refused.result().returncode == 2
    assert len(refused.result().stderr.strip().splitlines()) == 1, refused.result().stderr
    assert refused.result().stderr.startswith("search: ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    new_lake: Callable[[], Lake],
    local_ray: None,
    tiny_model: Path,
    other_taxonomy_model: Path,
) -> dict[str, str]:
    """Name what the mistakes below are made with: a published lake, an empty folder, a text, models."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("no picture")
    (folder / "table.csv").write_text("sku,url\n1,a.jpg\n")
    config = NightConfig(
        lake=new_lake().url, source=SMALL, model=str(tiny_model), embed=EmbedOptions(num_workers=1)
    )
    run_night(config, Run("nightly", config, Lake(config.lake)))
    return {
        "folder": str(folder),
        "new": str(folder / "new"),
        "lake": config.lake,
        "other": str(other_taxonomy_model),
        "small": SMALL,
    }


SEARCH = "search.py --lake {lake} --attribute skirt_length"
MISTAKES = {
    "source has another path": ("build_shards.py --lake {new} --source {folder}/empti", "did you mean"),
    "source is empty": ("build_shards.py --lake {new} --source {folder}/empty", "at least one picture"),
    "source has no key": (
        "embed_catalog.py --lake {lake} --source {folder}/table.csv",
        "columns key and uri",
    ),
    "model is not there": (
        "build_index.py --lake {lake} --source {small} --model ffff",
        "begins with 'ffff'",
    ),
    "model has another taxonomy": (
        "nightly.py --lake {lake} --source {small} --model {other}",
        "--allow-new-taxonomy",
    ),
    "value is too small": ("nightly.py --lake {lake} --shards.images-per-shard 0", "at least 1, found 0"),
    "value is no number": ("train.py demo --lake {lake} --steps many", "many"),
    "flag is mistyped": ("evaluate.py --lak {lake}", "--lake"),
    "taxonomy is not there": ("train.py demo --lake {new} --taxonomy {folder}/names.json", "names.json"),
    "lake is not there": ("search.py --lake {new} --key a --attribute skirt_length", "nothing is published"),
    "attribute is unknown": (
        "search.py --lake {lake} --key style-000001 --attribute skirt_lenght",
        "Did you mean 'skirt_length'",
    ),
    "key is unknown": (f"{SEARCH} --key style-1", "nearest keys"),
    "query is not there": (
        "search.py {folder}/nothing.jpg --lake {lake} --attribute neck_design",
        "nothing.jpg",
    ),
    "query is no picture": (
        "search.py {folder}/text.jpg --lake {lake} --attribute neck_design",
        "not_an_image",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(shop: dict[str, str], mistake: str) -> None:
    job, *arguments = (word.format(**shop) for word in MISTAKES[mistake][0].split())
    found = call(job, *arguments, cwd=Path(shop["folder"]))
    assert found.returncode == 2, found.stderr
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert MISTAKES[mistake][1] in found.stderr
    assert found.stderr.startswith(MISTAKES[mistake][0].split(".py")[0] + ": ")


def test_a_search_answers_with_a_table_and_pictures(shop: dict[str, str], tmp_path: Path) -> None:
    found = call(
        "search.py", "--lake", shop["lake"], "--key", "style-000003", "--attribute", "skirt_length=2",
        "neck_design=1", "-k", "4", "--grid", str(tmp_path / "grid.png"),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = [line for line in found.stdout.splitlines() if "style-" in line and "like style" not in line]
    assert len(rows) == 4
    assert not any("style-000003" in row for row in rows)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_training_publishes_a_model(lake: Lake) -> None:
    arguments = (
        "demo", f"--lake={lake.url}", "--source=generated:num_images=120,seed=0,size=64", "--name=tiny",
        "--shards.images-per-shard=30", "--preprocess.image-size=64", "--network.embedding-dim=16",
        "--triplets-per-step=4", "--validate-every=2", "--optimisation.warmup-steps=1",
    )  # fmt: skip
    ended = start("train.py", *arguments, "--steps=4")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "not 2" not in ended.stdout  # both workers find room
    (model,) = list_models(lake)
    with fetch_model(lake, model) as folder:
        load_model(folder)
    metrics = json.loads(lake.store.read(f"models/{model}/metrics/catalog-test.json").body)
    assert {"map", "random", "pixels", "untrained"} <= set(metrics["overall"]["query_weighted"])

    left = [PurePosixPath(name) for name in lake.store.list_names("runs")]
    states = {path.parent for path in left if path.match("tiny-*/*/state.pt")}
    assert states
    assert Counter(path.parent for path in left if path.match("share-*.pt")) == dict.fromkeys(states, 2)
    (curves,) = {path.parent for path in left if path.match("tiny-*/tensorboard/*")}
    assert len([path for path in left if path.parent == curves]) == 2  # one for each validation
    assert f"tensorboard --logdir {lake.url}/{curves}" in ended.stdout
    assert "worker 0 waited for pictures" in ended.stdout


WITH_TOKEN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a token of these tests alone, as infra/ asks for one",
}


class Head(NamedTuple):
    """Where a Ray head answers."""

    address: str
    metrics: str


@pytest.fixture
def head(tmp_path: Path, ports: Callable[[int], list[int]], wait: Callable[..., None]) -> Iterator[Head]:
    """Start a Ray head with a dashboard that asks for a token, as a cluster has it."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
             "ray-client-server-port", "metrics-export-port", "runtime-env-agent-port")  # fmt: skip
    chosen = dict(zip(names, ports(len(names)), strict=True))
    folder = Path(f"/tmp/ray-{os.getpid()}h")
    command = [
        PROGRAMS / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1", "--num-cpus=2", f"--object-store-memory={200 << 20}",
        "--disable-usage-stats", f"--temp-dir={folder}",
        *(f"--{name}={port}" for name, port in chosen.items()),
    ]  # fmt: skip
    log = (tmp_path / "head.log").open("wb")
    process = subprocess.Popen(
        command,
        env={**ENVIRONMENT, **WITH_TOKEN},
        cwd=tmp_path,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{chosen['dashboard-port']}"
    try:
        wait("Ray head", lambda: process.poll() is not None or _answers(address), 120)
        assert process.poll() is None, (tmp_path / "head.log").read_text()
        yield Head(address, f"http://127.0.0.1:{chosen['metrics-export-port']}/metrics")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)  # a node that holds an actor, as ours of the figures, is drained for 30 s
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(address: str) -> bool:
    try:
        asked = Request(
            f"{address}/api/version", headers={"Authorization": f"Bearer {WITH_TOKEN['RAY_AUTH_TOKEN']}"}
        )
        return urlopen(asked, timeout=2).status == 200
    except OSError:
        return False


def exported(head: Head) -> dict[tuple[str, ...], float]:
    """Return what Prometheus would be told of us: (name, job, stage or status) -> value."""
    names = {metric.exported for metric in METRICS}
    found = {}
    for family in text_string_to_metric_families(urlopen(head.metrics, timeout=5).read().decode()):
        for name, labels, value, *_ in family.samples:
            if name in names:
                where = labels.get("stage") or labels.get("status") or ""
                found[name, labels.get("job_name", ""), where] = value
    return found


def test_a_job_is_submitted_to_a_cluster_and_its_figures_outlive_it(
    head: Head, lake: Lake, tmp_path: Path, wait: Callable[..., None]
) -> None:
    for package in ("agman", "pipelines", "jobs"):
        shutil.copytree(
            ROOT / package, tmp_path / "work" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{head.address}/api/jobs/", timeout=5)
    submitted = subprocess.run(
        [
            PROGRAMS / "ray", "job", "submit", f"--address={head.address}",
            f"--working-dir={tmp_path / 'work'}", "--", "python", "jobs/build_shards.py",
            f"--lake={lake.url}", f"--source={SMALL}", "--shards.images-per-shard=4",
        ],
        env={name: value for name, value in {**ENVIRONMENT, **WITH_TOKEN}.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "succeeded" in submitted.stdout
    shards = list(lake.store.list_names("shards/catalog"))
    assert len([name for name in shards if name.endswith(".tar")]) == 3
    assert len(list(lake.store.list_names("receipts/shards/catalog"))) == 3

    # Ray exports every 10 s, one figure after the other, and the job has ended.
    of_stage = {
        (f"ray_agman_{name}", "build_shards", "shard")
        for name in ("images_total", "stored_bytes_total", "stage_seconds_total", "stage_running")
    }
    ended = {
        ("ray_agman_runs_total", "build_shards", "done"),
        ("ray_agman_success_timestamp_seconds", "build_shards", ""),
    }
    wait("figures", lambda: of_stage | ended <= exported(head).keys())
    found = exported(head)
    assert found["ray_agman_runs_total", "build_shards", "done"] == 1
    assert found["ray_agman_images_total", "build_shards", "shard"] == 12
    stored = sum(lake.store.size(name) for name in shards)
    assert found["ray_agman_stored_bytes_total", "build_shards", "shard"] == stored
    assert found["ray_agman_stage_running", "build_shards", "shard"] == 0
    assert found["ray_agman_stage_seconds_total", "build_shards", "shard"] > 0
    assert abs(found["ray_agman_success_timestamp_seconds", "build_shards", ""] - time.time()) < LIMIT_S
