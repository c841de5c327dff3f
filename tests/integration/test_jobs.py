"""Every job as a person meets it at first: its help, and what it says to their mistakes.

They are called in this process, with Ray's tasks run at once: a shell of its own costs each 8 s of imports.
One mistake goes the whole way; what jobs do when nothing is wrong is in test_commands.py.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from called_jobs import call
from inline_ray import inline_ray

from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.nightly import NightConfig, run_night
from pipelines.telemetry import Run

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
JOBS = sorted(
    path.name
    for path in (ROOT / "jobs").glob("*.py")
    if path.name not in ("__init__.py", "command_line.py", "recipes.py")
)
SMALL = "generated:num_images=12,seed=1,size=48"


@pytest.mark.parametrize("job", JOBS)
def test_help_says_what_a_job_does(job: str) -> None:
    found = call(job, "--help")
    assert found.returncode == 0, found.stderr
    assert "--lake" in found.stdout
    assert f"jobs/{job}" in found.stdout
    assert found.stderr == ""


def test_a_shell_sees_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ["--lake", "new", "--key", "a", "--attribute", "b"]
    refused = subprocess.run(
        [sys.executable, ROOT / "jobs" / "search.py", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert refused.stderr.startswith("search: ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, other_taxonomy_model: Path
) -> Iterator[dict[str, str]]:
    """Name what the mistakes below are made with: a published lake, an empty folder, a text, models."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("no picture")
    (folder / "table.csv").write_text("sku,url\n1,a.jpg\n")
    config = NightConfig(
        lake=str(folder / "lake"), source=SMALL, model=str(tiny_model), embed=EmbedOptions(num_workers=1)
    )
    places = {
        "folder": str(folder),
        "new": str(folder / "new"),
        "lake": config.lake,
        "other": str(other_taxonomy_model),
        "small": SMALL,
    }
    with inline_ray():
        run_night(config, Run("nightly", config, Lake(config.lake)))
        yield places


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
