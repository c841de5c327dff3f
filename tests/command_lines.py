"""Command lines that documents and manifests give, read as the jobs themselves read them."""

import io
import re
import shlex
import sys
from contextlib import redirect_stderr
from importlib import import_module
from typing import Any
from unittest.mock import patch

from jobs.command_line import read_config

JOB = re.compile(r"jobs[./](\w+)(?:\.py)?")
"""A job as a module or as a file."""


class _Read(Exception):
    """Ends a job once it has read its command line."""

    def __init__(self, config: Any) -> None:
        self.config = config


def config_of(words: list[str]) -> Any:
    """Return what a job makes of its name and the words after it; SystemExit where it refuses."""
    module = import_module(f"jobs.{JOB.fullmatch(words[0])[1]}")

    def read(recipes: Any, doc: str | None) -> Any:
        raise _Read(read_config(recipes, doc))

    with patch.object(module, "read_config", read), patch.object(sys, "argv", words):
        try:
            module.main()
        except _Read as found:
            return found.config
    raise AssertionError(f"{words[0]} reads no command line")


def refusal_of(words: list[str]) -> str:
    """Return what a job says against its words; empty where it takes them."""
    said = io.StringIO()
    with redirect_stderr(said):
        try:
            config_of(words)
        except SystemExit:
            return said.getvalue() or "refused"
    return ""


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each command of a shell block: without comments, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]
