"""The command line of every job: a recipe's name, then flags that vary it."""

import os
import sys
from collections.abc import Mapping
from typing import TypeVar

import tyro

from pipelines import telemetry

Config = TypeVar("Config")


def read_config(recipes: Mapping[str, tuple[str, Config]], doc: str | None) -> Config:
    """Return the recipe that the command line names, varied by its flags; the first one where it names none.

    A value that no config accepts ends the process with 2 and one line.
    """
    job = os.path.basename(sys.argv[0])
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in recipes else next(iter(recipes))
    default = recipes[name][1]
    listed = "".join(f"\n  {recipe}: {what}" for recipe, (what, _) in recipes.items())
    about = f"{(doc or '').strip()}\n\nRecipes ({name} is shown below):{listed}" if len(recipes) > 1 else doc
    try:
        return tyro.cli(
            type(default), default=default, args=arguments, prog=f"{job} [RECIPE]", description=about
        )
    except ValueError as error:
        telemetry.fail(job.removesuffix(".py"), error)
        raise SystemExit(telemetry.EXIT_INVALID_INPUT) from None
