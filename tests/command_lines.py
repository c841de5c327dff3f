"""Command lines that documents and manifests give, read as the jobs themselves read them."""

import sys
from typing import Any
from unittest.mock import patch

from jobs.clean_lake import CleanConfig
from jobs.command_line import read_config
from jobs.recipes import NIGHT, TRAIN
from jobs.rollback import RollbackConfig

RECIPES: dict[str, dict[str, Any]] = {
    "jobs.nightly": NIGHT,
    "jobs.train": TRAIN,
    "jobs.clean_lake": {"clean": ("", CleanConfig())},
    "jobs.rollback": {"rollback": ("", RollbackConfig())},
}


def config_of(words: list[str]) -> Any:
    """Return what a job makes of its module's name and the words after it; SystemExit where it refuses."""
    with patch.object(sys, "argv", words):
        return read_config(RECIPES[words[0]], "")
