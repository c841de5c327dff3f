"""What the site has beside the files of this folder: the options of every job, and infra/README.md.

MkDocs calls the functions `on_…`. Links out of docs/ are for who reads the files in the repository; the site
names the file instead.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any, get_type_hints
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BROUGHT = {"infra/README.md": "infra.md"}
"""Files from elsewhere, and what the site calls them."""
OPTIONS = "options.md"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, name in BROUGHT.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    files.append(File.generated(config, OPTIONS, content=options()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/ into the name of the file."""
    here = next((source for source, name in BROUGHT.items() if name == page.file.src_uri), None)
    folder = PurePosixPath(here or f"docs/{page.file.src_uri}").parent
    return LINK.sub(lambda link: _moved(link, str(folder), page.file.src_uri), markdown)


def _moved(link: re.Match[str], folder: str, page: str) -> str:
    """Return a link as the site has it."""
    text, target, anchor = link[1], normpath(f"{folder}/{link[2]}"), link[3] or ""
    inside = BROUGHT.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    if inside:
        return f"[{text}]({relpath(inside, PurePosixPath(page).parent)}{anchor})"
    if not (ROOT / target).exists():
        return link[0]  # so that the build complains
    return (
        f"`{target}`" if text.strip("`") in (target, PurePosixPath(target).name) else f"{text} (`{target}`)"
    )


def options() -> str:
    """Return the page of all jobs' options, asked of the jobs themselves."""
    jobs = [path.stem for path in sorted((ROOT / "jobs").glob("*.py"))]
    said = [_job(name, recipes) for name in jobs if (recipes := _recipes(name))]
    return "\n".join(
        [
            "# Options of every job",
            "",
            "Defaults are those of the first recipe. `--help` says the same of the recipe that it is given.",
            *said,
        ]
    )


class _Asked(Exception):
    """Ends a job at the moment at which it reads its command line."""


def _recipes(job: str) -> Mapping[str, tuple[str, Any]]:
    """Return a job's recipes; none for a module that is no job."""
    module = import_module(f"jobs.{job}")
    if not hasattr(module, "main"):
        return {}
    found: dict[str, tuple[str, Any]] = {}

    def asked(recipes: Mapping[str, tuple[str, Any]], doc: str | None) -> None:
        found.update(recipes)
        raise _Asked

    with patch.object(module, "read_config", asked):
        try:
            module.main()
        except _Asked:
            pass
    return found


def _job(name: str, recipes: Mapping[str, tuple[str, Any]]) -> str:
    doc = inspect.getdoc(import_module(f"jobs.{name}")) or ""
    about, _, usage = doc.partition("\n\n")
    default = next(iter(recipes.values()))[1]
    rows = [f"| `{flag}` | {value} | {does} |" for flag, value, does in _rows(default)]
    listed = [f"- `{recipe}`: {what}" for recipe, (what, _) in recipes.items() if len(recipes) > 1]
    table = ["| option | default | does |", "|---|---|---|", *rows, ""]
    lines = [f"## jobs/{name}.py", "", about, "", "```text", textwrap.dedent(usage), "```", "", *listed, ""]
    return "\n".join([*lines, *table])


def _rows(config: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (flag, default, what it does) of a config and those that are nested in it."""
    docs, hints = _docs(type(config)), get_type_hints(type(config), include_extras=True)
    for each in fields(config):
        value, flag = getattr(config, each.name), f"{prefix}{each.name.replace('_', '-')}"
        if is_dataclass(value):
            yield from _rows(value, f"{flag}.")
            continue
        is_place = any("Positional" in str(extra) for extra in getattr(hints[each.name], "__metadata__", ()))
        shown = f"`{value}`" if value not in ("", (), None) else ""
        does = " ".join(docs.get(each.name, "").split()).replace("|", "\\|")
        yield (flag.upper() if is_place else f"--{flag}"), shown, does


def _docs(config: type) -> dict[str, str]:
    """Return the strings under a dataclass' fields."""
    found: dict[str, str] = {}
    for base in reversed([each for each in config.__mro__ if is_dataclass(each)]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = str(text.value.value)
    return found
