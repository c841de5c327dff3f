"""infra/README.md: the files that it names are there, and the jobs that it starts accept their words."""

import re
import shlex
from pathlib import Path

import pytest
from command_lines import config_of

INFRA = Path(__file__).parents[3] / "infra"
README = (INFRA / "README.md").read_text()
COMMANDS = [found for found in re.findall(r"(jobs\.\w+ [^`|]*)`", README) if "…" not in found]
"""But for those that are cut short for people."""


def test_every_file_is_told_of_and_there() -> None:
    named: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", README.split("## Once")[0], flags=re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = f"{name.rsplit('/', 1)[0]}/" if "/" in name else folder
            named.add(name if "/" in name else f"{folder}{name}")
    assert all((INFRA / name).is_file() for name in named), named
    own = {str(path.relative_to(INFRA)) for path in INFRA.rglob("*") if path.is_file()}
    assert own - named == {"README.md", "Dockerfile.dockerignore"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_job_accepts_its_command_line(command: str) -> None:
    assert config_of(shlex.split(command)).lake == "s3://shop-data/lake"


def test_commands_are_found() -> None:
    found = {command.split()[0] for command in COMMANDS}
    assert found == {"jobs.nightly", "jobs.train", "jobs.clean_lake", "jobs.rollback"}
