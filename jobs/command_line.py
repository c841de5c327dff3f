"""The command line of every job: a recipe's name, then flags that vary it."""

import io
import os
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr
from typing import TypeVar

import tyro

from pipelines import telemetry

Config = TypeVar("Config")


def read_config(recipes: Mapping[str, tuple[str, Config]], doc: str | None) -> Config:
    """Return the recipe that the command line names, varied by its flags; the first one where it names none.

    A flag or a value that no config accepts ends the process with 2 and one line.
    """
    job = os.path.basename(sys.argv[0])
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in recipes else next(iter(recipes))
    default = recipes[name][1]
    listed = "".join(f"\n  {recipe}: {what}" for recipe, (what, _) in recipes.items())
    about = f"{(doc or '').strip()}\n\nRecipes ({name} is shown below):{listed}" if len(recipes) > 1 else doc
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                type(default), default=default, args=arguments, prog=f"{job} [RECIPE]", description=about
            )
    except ValueError as error:
        telemetry.fail(job.removesuffix(".py"), error)
    except SystemExit as ended:
        if not ended.code:  # --help
            raise
        telemetry.fail(job.removesuffix(".py"), ValueError(f"{_one_line(said.getvalue())}; see {job} --help"))
    raise SystemExit(telemetry.EXIT_INVALID_INPUT)


def _one_line(panel: str) -> str:
    """Return what tyro says in a box as one line: its first paragraph, and what it thinks was meant."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", panel)
    lines = [line.strip("│ ") for line in plain.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = re.split(r"\n─+\n", "\n".join(lines))
    meant = re.search(r"Perhaps you meant:\s+(\S+)", plain.replace("│", " "))
    hint = f"; perhaps you meant {meant[1]}" if meant else ""
    return " ".join(paragraphs[0].split()).rstrip(".") + hint
