"""Environments of their own, for other sides of benchmarks that want older packages than the product has."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

READY = "installed"
"""File of an environment that is whole; it says of what."""


class NotInstalled(Exception):
    """An environment cannot be made here; the message says why."""


def is_ready(folder: Path, requirements: Sequence[str]) -> bool:
    """Tell whether an environment was made of these requirements, to its end."""
    ready = folder / READY
    return ready.is_file() and ready.read_text().split() == list(requirements)


def install(folder: Path, requirements: Sequence[str], module: str) -> Path:
    """Return the folder of an environment's commands; it is made where it is missing or was broken off.

    Args:
        folder: of the environment.
        requirements: as pip takes them.
        module: what must then be possible to import.

    Raises:
        NotInstalled: where pip could not, or the module fails.
    """
    commands = folder / "bin"
    if is_ready(folder, requirements):
        return commands
    python = str(commands / "python")
    # -I: this folder has files named as the packages are.
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
        [python, "-I", "-c", f"import {module}"],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  no input of others
        except (subprocess.CalledProcessError, OSError) as error:
            said = str(getattr(error, "stderr", None) or error).strip().splitlines()
            raise NotInstalled(f"{' '.join(requirements)} in {folder}: {said[-1]}") from error
    (folder / READY).write_text("\n".join(requirements) + "\n")
    return commands
