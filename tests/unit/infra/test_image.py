"""What goes into an image and what a submitted job uploads, without building or uploading."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "infra" / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"
UPLOAD_BYTES = 2_000_000


def lint(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, "-"], input=text, capture_output=True, text=True, timeout=60)


def test_the_dockerfile_lints() -> None:
    found = lint(DOCKERFILE.read_text())
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "rule"),
    [("RUN cd /tmp", "DL3003"), ("RUN sudo true", "DL3004"), ("RUNN true", "missing whitespace")],
)
def test_the_linter_refuses_a_broken_one(line: str, rule: str) -> None:
    found = lint(f"{DOCKERFILE.read_text()}{line}\n")
    assert found.returncode == 1
    assert rule in found.stdout + found.stderr


def test_the_image_runs_as_nobody_in_particular_with_the_tested_versions() -> None:
    text = DOCKERFILE.read_text()
    stages = dict(re.findall(r"^FROM (\S+) AS (\w+)$", text, flags=re.MULTILINE))
    assert set(stages.values()) >= {"cpu", "cuda"}
    assert re.findall(r"^USER (.*)$", text, flags=re.MULTILINE) == ["1000"]
    for install in re.findall(r"pip install(?:[^\n]*\\\n)*[^\n]*", text):
        assert "--constraint constraints.txt" in install or "--no-deps" in install


def test_the_image_is_built_from_what_the_package_is_made_of() -> None:
    listed = (ROOT / "infra" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in listed if line.startswith("!")}
    assert "*" in listed
    copied = {
        word
        for words in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
        for word in words.split()
    }
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert kept == copied
    assert {package.split(".")[0] for package in packages} <= kept


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what is committed, and beside it what a person's checkout holds that no job needs."""
    work = tmp_path / "work"
    for name in [".gitignore", ".rayignore", "README.md", "pyproject.toml"]:
        (work / name).parent.mkdir(exist_ok=True, parents=True)
        (work / name).write_bytes((ROOT / name).read_bytes())
    for package in ("agman", "pipelines", "jobs", "tests", "infra"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = work / path.relative_to(ROOT)
                copy.parent.mkdir(exist_ok=True, parents=True)
                copy.write_bytes(path.read_bytes())
    for heavy in (
        *("demo-lake/shards/catalog/a.tar", "lake/shards/catalog/a.tar", "pictures/shirts/1.jpg"),
        *(".venv/lib/torch.so", ".git/objects/pack/a.pack"),
    ):
        (work / heavy).parent.mkdir(parents=True)
        (work / heavy).write_bytes(bytes(UPLOAD_BYTES))
    return work


def test_a_submitted_job_uploads_the_code_alone(checkout: Path, tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=[])
    with zipfile.ZipFile(package) as uploaded:
        names = uploaded.namelist()
        tops = {name.split("/")[0] for name in names}
        size = sum(entry.file_size for entry in uploaded.infolist())
    assert tops == {"agman", "pipelines", "jobs"}
    assert {"jobs/nightly.py", "pipelines/morning/templates/report.html.j2"} <= set(names)
    assert size < UPLOAD_BYTES


def test_ray_accepts_the_runtime_environment() -> None:
    written = yaml.safe_load((ROOT / "infra" / "runtime_env.yaml").read_text())
    assert RuntimeEnv(**{**written, "working_dir": str(ROOT)}).env_vars() == {"AGMAN_LOG": "json"}
