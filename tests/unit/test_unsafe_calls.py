"""Calls that run what a file says are in none of the packages; ruff's S rules look for others."""

import ast
from collections.abc import Iterator
from pathlib import Path

import agman

ROOT = Path(agman.__file__).parents[1]
NAMES_ALLOWED = {"pickle.UnpicklingError"}
"""What is caught is not called."""


def nodes() -> Iterator[tuple[str, ast.AST]]:
    files = [file for package in ("agman", "pipelines", "jobs") for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 90
    for file in files:
        yield from ((str(file.relative_to(ROOT)), node) for node in ast.walk(ast.parse(file.read_text())))


def test_every_load_of_torch_is_of_weights_alone():
    calls = [
        (file, node)
        for file, node in nodes()
        if isinstance(node, ast.Call) and name_of(node.func) == "torch.load"
    ]
    assert calls
    for file, call in calls:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("weights_only") == "True", file


def test_nothing_unpickles_or_lets_webdataset_open_an_address():
    modules = {"pickle", "cloudpickle", "dill", "shelve", "joblib", "marshal", "subprocess"}
    opening = {"wds.WebDataset", "wds.gopen", "webdataset.gopen", "wds.ShardList", "wds.SimpleShardList"}
    found = {
        (file, name)
        for file, node in nodes()
        if isinstance(node, ast.Attribute) and (name := name_of(node))
        if (name.split(".")[0] in modules and name not in NAMES_ALLOWED) or name in opening
    }
    assert found == set()
    imported = {
        (file, node.module)
        for file, node in nodes()
        if isinstance(node, ast.ImportFrom) and node.module in modules
    }
    assert imported == set()


def name_of(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Attribute) else ""
