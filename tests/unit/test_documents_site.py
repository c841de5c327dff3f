"""The documents: commands that programs accept, links that lead somewhere, a site without the network."""

import re
from collections import Counter
from pathlib import Path

import pytest
from command_lines import JOB, commands_in, refusal_of
from documents import DOCUMENTS, ROOT, blocks
from mkdocs.commands.build import build
from mkdocs.config import load_config

ASSETS = re.compile(r"""(?:src=|@import |url\(|<link[^>]*href=)["']?((?:https?:)?//[^"')\s>]+)""")
HEADING = re.compile(r"^#+ (.*)$", flags=re.MULTILINE)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
JOBS = {path.name for path in (ROOT / "jobs").glob("*.py")} - {
    "__init__.py",
    "command_line.py",
    "recipes.py",
}
COMMANDS = [
    (block.document, words)
    for block in blocks("")
    if block.document != "infra/README.md"  # has tests of its own
    for words in commands_in(block.text)
]
TARGETS = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def job_words(words: list[str]) -> list[str]:
    """Return a job and what follows it; nothing where the command starts none."""
    first = next((number for number, word in enumerate(words) if JOB.fullmatch(word)), len(words))
    return words[first:]


@pytest.mark.parametrize(
    ("document", "words"), COMMANDS, ids=[f"{name}: {' '.join(words)[:60]}" for name, words in COMMANDS]
)
def test_a_command_is_accepted(document: str, words: list[str]) -> None:
    if words[0] == "make":
        assert set(words[1:]) <= set(TARGETS)
        return
    job = job_words(words)
    assert job, f"{document}: {words} starts no job; a transcript is fenced as text"
    assert words[: len(words) - len(job)] in (
        [".venv/bin/python"],
        ["ray", "job", "submit", "--working-dir", ".", "--", "python"],
    )
    assert refusal_of(job) == ""


def test_a_command_with_a_wrong_word_is_refused() -> None:
    assert "--lakes" in refusal_of(["jobs/search.py", "--lakes", "here"])


def test_every_job_is_documented() -> None:
    text = (ROOT / "docs" / "nightly.md").read_text()
    assert {job for job in JOBS if job not in text} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_page_is_there_and_in_the_menu(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"infra", "options"}
    home = (site / "index.html").read_text()
    for page in pages - {"index"}:
        assert (site / page / "index.html").is_file(), page
        assert f'href="{page}/"' in home, page


def test_a_reader_needs_no_network(site: Path) -> None:
    found = {
        (path.name, address)
        for path in site.rglob("*")
        if path.suffix in (".html", ".css")
        for address in ASSETS.findall(path.read_text())
    }
    assert found == set()


def test_the_options_are_those_of_the_jobs(site: Path) -> None:
    page = (site / "options" / "index.html").read_text()
    assert {job for job in JOBS if f"jobs/{job}" not in page} == set()
    assert "--index.exact-rows" in page
    assert "Memory that a search may take for an attribute." in page
    assert re.search(r"<code>IMAGE</code>", page)
    undocumented = re.findall(r"<code>(--[\w.-]+)</code></td>\s*<td>[^\n]*</td>\s*<td></td>", page)
    assert undocumented == []


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and MkDocs make them."""
    counted: Counter[str] = Counter()
    found = set()
    for title in HEADING.findall(FENCED.sub("", path.read_text())):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        plain = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{plain}-{counted[plain]}" if counted[plain] else plain)
        counted[plain] += 1
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(FENCED.sub("", path.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        made_by_the_site = target in (ROOT / "docs" / "infra.md", ROOT / "docs" / "options.md")
        assert target.exists() or made_by_the_site, link
        if anchor:
            assert anchor in anchors(target), link
