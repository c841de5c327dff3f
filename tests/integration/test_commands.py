"""Every command of README, and what is quick of docs/, taken out of the text and run in its order.

Options are added that make it small; no word is changed. README's training and service start from a shell on
a Ray of their own, its cluster's night is submitted to a real cluster. The others are called in this process
and Ray's tasks run at once, which saves each of them 20 s of imports.
"""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError

import pyarrow.parquet as pq
import pytest
import requests
import s3fs
from called_jobs import Ended, call
from documented_shop import (
    NUM_PRODUCTS,
    ROOT,
    commands_of,
    copy_shop,
    in_shell,
    job_of,
    make_shop,
    sell_out,
    typed,
)
from inline_ray import inline_ray
from loopback import dies_with_parent, free_ports, wait_until
from ray_head import ray_head

from agman.checkpoint import load_model
from pipelines.lake import Lake
from pipelines.models import fetch_model, import_model, list_models
from pipelines.storage.snapshots import current_manifest, read_pointer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]  # the first waits for all of README

README = commands_of("README.md")
SMALL = {
    "train.py": (
        "--network.trunk=resnet18", "--network.embedding-dim=16", "--preprocess.image-size=32",
        "--optimisation.warmup-steps=1", "--shards.images-per-shard=20", "--triplets-per-step=4",
        "--steps=4", "--validate-every=2",
    ),
    "nightly.py": ("--shards.images-per-shard=20", "--embed.num-workers=1"),
    "evaluate.py": ("--shards.images-per-shard=20",),
    "add_attribute.py": ("--shards.images-per-shard=20", "--rows.steps=20", "--rows.judge-every=10"),
    "promote.py": ("--force", "--why=it learned for four steps"),
    "demo.py": (f"--num-images={NUM_PRODUCTS}",),
}  # fmt: skip
"""Options that each job gets beside the document's own words."""
SAYS = {
    "nightly.py": r"published snapshot \S+, number \d+ of",
    "search.py": r"pictures: search\.png",
    "analyze.py": r"\d tables: \S+/snapshot=",
    "inspect_lake.py": r"SKU-17|counts\.reused",
    "promote.py": r"the next night",
    "rollback.py": r"serves \S+ again",
    "clean_lake.py": r"\d+ snapshots are kept",
    "evaluate.py": r"query-weighted MAP",
    "add_attribute.py": r"heel_height: MAP",
}
"""What a job that worked has said."""
READ_ALONE = {
    "docs/training.md": {"train.py": "nobody's data is here, and README's own trains"},
    "docs/tutorial.md": {
        "train.py": "trains for three minutes, and README's own trains",
        "serve.py": "README's own, which has answered already",
    },
    "docs/datasets.md": {"train.py": "README's own, which has trained already"},
    "docs/serving.md": {"serve.py": "README's own, and services of a cluster with ports open to all"},
}
"""Jobs that a document's commands start and that are not run again: why. Their words are read by
tests/unit/test_documents_site.py."""


@dataclass
class Evening:
    """README's own catalog after its commands."""

    folder: Path
    ended: dict[str, Ended] = field(default_factory=dict)
    """By what was written."""
    answers: dict[str, requests.Response] = field(default_factory=dict)
    """Of the service, by path."""

    @property
    def lake(self) -> Lake:
        return Lake(str(self.folder / "lake"))

    def said(self, *words: str) -> str:
        """Return what the one command with these words said."""
        (found,) = [ended for text, ended in self.ended.items() if set(words) <= set(text.split())]
        return found.stdout


def run_here(words: list[str], cwd: Path, says: str = "") -> Ended:
    """Call a job in this process and see that it ended well and said what it should."""
    job = job_of(words)
    import_module(f"jobs.{job.removesuffix('.py')}")  # with the real Ray, which Ray's own libraries want
    with inline_ray():
        ended = call(job, *words[2:], *SMALL.get(job, ()), cwd=cwd)
    assert ended.returncode == 0, f"{typed(words)}: {ended.stderr}"
    assert re.search(says or SAYS[job], ended.stdout), f"{typed(words)}: {ended.stdout}"
    return ended


def run_shell(words: list[str], cwd: Path) -> Ended:
    ended = in_shell(words, *SMALL[job_of(words)], cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def serve(words: list[str], cwd: Path, answers: dict[str, requests.Response]) -> Ended:
    """Start the service, ask it for its page and a search, and end it as a machine that shuts down does."""
    (port,) = free_ports(1)
    url, said = f"http://127.0.0.1:{port}", cwd / "serve.log"
    with said.open("wb") as log:
        job = subprocess.Popen(
            [*words, f"--port={port}"], cwd=cwd, stdout=log, stderr=log, preexec_fn=dies_with_parent
        )
        try:
            wait_until("service", lambda: job.poll() is not None or f"answers at {url}/" in said.read_text())
            for path in ("/", "/similar/SKU-17?attributes=neckline_design&include_absent=true"):
                answers[path.split("?")[0]] = requests.get(url + path, timeout=60)
        finally:
            job.terminate()
            code = job.wait(timeout=60)
    ended = Ended(words, code, said.read_text(), "")
    assert ended.returncode == 0, ended.stdout
    return ended


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Evening:
    """Run what README says of a shop's own catalog, in its order."""
    found = Evening(make_shop(tmp_path_factory.mktemp("readme") / "shop"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        for words in (words for words in README if words[0] == ".venv/bin/python"):
            if job_of(words) == "serve.py":
                ended = serve(words, found.folder, found.answers)
            else:
                run = run_shell if job_of(words) == "train.py" else run_here
                ended = run(words, found.folder)
            found.ended[typed(words)] = ended
    return found


def test_no_command_of_the_readme_is_left_out(evening: Evening) -> None:
    kinds = Counter(words[0] for words in README if typed(words) not in evening.ended)
    assert kinds.keys() == {"make", "ray"}  # which the tests below run
    assert {job_of(words) for words in README} >= {"train.py", "nightly.py", "search.py", "serve.py"}


def test_training_publishes_a_model(evening: Evening) -> None:
    said, store = evening.said("jobs/train.py"), evening.lake.store
    assert "not 2" not in said  # both workers find room
    (model,) = list_models(evening.lake)
    with fetch_model(evening.lake, model) as folder:
        load_model(folder)
    metrics = json.loads(store.read(f"models/{model}/metrics/catalog-test.json").body)
    assert {"map", "random", "pixels", "untrained"} <= set(metrics["overall"]["query_weighted"])
    assert re.search(r"query-weighted MAP \d\.\d{4} = ", said)

    left = [PurePosixPath(name) for name in store.list_names("runs")]
    states = {path.parent for path in left if path.match("train-*/*/state.pt")}
    assert states
    assert Counter(path.parent for path in left if path.match("share-*.pt")) == dict.fromkeys(states, 2)
    (curves,) = {path.parent for path in left if path.match("train-*/tensorboard/*")}
    assert len([path for path in left if path.parent == curves]) == 2  # one for each validation
    assert f"tensorboard --logdir {evening.lake.url}/{curves}" in said
    assert "worker 0 waited for pictures" in said


def test_the_night_publishes_the_catalog(evening: Evening) -> None:
    said = evening.said("jobs/nightly.py")
    assert f"{NUM_PRODUCTS} pictures embedded, 0 records reused, 0 quarantined" in said
    (report,) = re.findall(r"report: (\S+html)", said)
    assert "<html" in (evening.folder / report).read_text()


@pytest.mark.parametrize(("words", "num_queried"), [(("query.jpg",), 0), (("SKU-17",), 1)])
def test_a_search_answers_with_a_table_and_pictures(
    evening: Evening, words: tuple[str, ...], num_queried: int
) -> None:
    said = evening.said("jobs/search.py", *words)
    keys = re.findall(r"^│ +\d+ │ (SKU-\d+) ", said, flags=re.MULTILINE)
    left_out = int((re.findall(r"^(\d+) products that the model says lack", said, re.MULTILINE) or ["0"])[0])
    assert len(set(keys)) == len(keys) == min(10, NUM_PRODUCTS - left_out - num_queried)
    assert num_queried == 0 or "SKU-17" not in keys
    assert (evening.folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_the_service_shows_its_page_and_finds(evening: Evening) -> None:
    assert "<title>" in evening.answers["/"].text
    found = evening.answers["/similar/SKU-17"].json()
    assert found["snapshot"] == read_pointer(evening.lake).snapshot
    assert len({result["key"] for result in found["results"]} - {"SKU-17"}) == len(found["results"]) > 0
    assert "Traceback" not in evening.said("jobs/serve.py")


def test_the_tables_are_written(evening: Evening) -> None:
    folder = evening.folder / "analytics" / f"snapshot={read_pointer(evening.lake).snapshot}"
    assert {path.stem for path in folder.iterdir()} == {
        "value_shares", "value_weeks", "coverage", "quarantine", "brand_similarity", "likely_copies",
    }  # fmt: skip
    assert pq.read_metadata(folder / "coverage.parquet").num_rows == 8


def made(target: str, *options: str) -> list[str]:
    """Return the lines that a target of the Makefile would run."""
    asked = ["make", "--dry-run", "--no-print-directory", *options, target]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_make_demo_shows_the_whole_line(evening: Evening, tmp_path: Path) -> None:
    """Its training is README's, which is there already; a person's `make demo` trains here for minutes."""
    assert ["make", "demo"] in README
    words = made("demo")[-1].split()
    assert words[:2] == [".venv/bin/python", "jobs/demo.py"]
    shutil.copytree(evening.lake.store.url + "/models", tmp_path / "demo-lake" / "models")
    said = run_here(words, tmp_path, "5/5 where things are").stdout
    manifest = current_manifest(Lake(str(tmp_path / "demo-lake")))
    assert f"snapshot {manifest.id}, 2 of 2" in said
    assert manifest.counts["reused"] > 0
    for number in (1, 2, 3):
        assert (tmp_path / "demo-lake" / f"search-{number}.png").is_file()
    assert (tmp_path / "demo-lake" / "snapshots" / manifest.id / "report.html").is_file()
    assert (tmp_path / "demo-lake" / "views.sql").is_file()


def test_make_test_runs_every_test() -> None:
    assert ["make", "test"] in README
    (line,) = [line for line in made("test") if " -m pytest " in line]
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    named = [ROOT / word for word in line.split() if word.startswith("tests/")]
    assert named
    assert not [folder for folder in folders if not any(folder.is_relative_to(each) for each in named)]


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("bench", ".venv/bin/python benchmarks/bench.py"),
        ("docs", ".venv/bin/mkdocs build --strict --quiet"),
        (".venv/installed", "touch .venv/installed"),
    ],
)
def test_make_starts_what_the_documents_say(target: str, ends: str) -> None:
    assert f"make {target}" in (ROOT / "README.md").read_text() + (ROOT / "docs/tutorial.md").read_text()
    lines = made(target, "--always-make")
    assert lines[-1].endswith(ends)
    assert any(line.startswith(".venv/bin/pip install") and " -e ." in line for line in lines)


def test_a_job_is_submitted_to_a_cluster_and_its_figures_outlive_it(
    s3_server: str, tiny_model: Path, tmp_path: Path
) -> None:
    """README's line, in this checkout: what it uploads is what .rayignore leaves."""
    (words,) = [words for words in README if words[0] == "ray"]
    shop = make_shop(tmp_path / "shop")
    files = s3fs.S3FileSystem()
    files.call_s3("create_bucket", Bucket="shop-lake")
    files.put(str(shop / "pictures"), "shop/pictures", recursive=True)
    files.put(str(shop / "products.parquet"), "shop/feed.parquet")
    lake = Lake("s3://shop-lake")
    import_model(lake, tiny_model)
    with ray_head(tmp_path) as head:
        with pytest.raises(HTTPError, match="401"):
            head.answers("/api/jobs/", token="")
        submitted = head.submit([*words, *SMALL["nightly.py"]], ROOT)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        assert re.search(SAYS["nightly.py"], submitted.stdout)
        assert "succeeded" in submitted.stdout
        manifest = current_manifest(lake)
        assert manifest.counts["images_embedded"] == NUM_PRODUCTS

        # Ray exports every 10 s, one figure after the other, and the job has ended.
        stages = [
            (f"ray_agman_{name}", "nightly", "shard")
            for name in ("images_total", "stored_bytes_total", "stage_seconds_total", "stage_running")
        ]
        published = ("ray_agman_runs_total", "nightly", "published")
        wait_until("figures", lambda: {*stages, published} <= head.exported().keys())
        found = head.exported()
    images, stored, seconds, running = (found[name] for name in stages)
    shards = list(lake.store.list_names("shards/catalog"))
    assert (found[published], images, running) == (1, NUM_PRODUCTS, 0)
    assert stored == sum(lake.store.size(name) for name in shards)
    assert seconds > 0


DOCUMENTS = sorted({str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")})
WITH_COMMANDS = [
    name
    for name in DOCUMENTS
    if {job_of(words) for words in commands_of(name) if words[0] != "make"} - READ_ALONE.get(name, {}).keys()
]


@pytest.fixture
def next_day(evening: Evening, tmp_path: Path) -> Path:
    """README's shop, copied, on the day after: a product is gone and another one is cheaper."""
    shop = copy_shop(evening.folder, tmp_path / "shop")
    sell_out(shop)
    return shop


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_the_commands_of_a_document(document: str, next_day: Path, tiny_model: Path) -> None:
    lake = Lake(str(next_day / "lake"))
    left_out = READ_ALONE.get(document, {})
    commands = [words for words in commands_of(document) if words[0] == ".venv/bin/python"]
    assert left_out.keys() <= {job_of(words) for words in commands}
    for words in commands:
        if job_of(words) in left_out:
            continue
        if "9f3c" in words:
            others = set(list_models(lake)) - {current_manifest(lake).model}
            candidate = others.pop() if others else import_model(lake, tiny_model)
            words = [candidate[:8] if word == "9f3c" else word for word in words]
        run_here(words, next_day)


def test_a_second_night_of_the_tutorial_has_nothing_to_do(next_day: Path) -> None:
    """Its lake is new but for the model."""
    for name in os.listdir(next_day / "lake"):
        if name != "models":
            path = next_day / "lake" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (words,) = [words for words in commands_of("docs/tutorial.md") if job_of(words) == "nightly.py"]
    said = run_here(words, next_day).stdout
    assert f"{NUM_PRODUCTS} pictures embedded" in said
    run_here(words, next_day, "nothing changed")
