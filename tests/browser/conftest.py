"""A Chromium, a served lake and a page for the tests of the search page.

One of each for a file, not for the session: Playwright keeps an event loop in this thread.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from inline_ray import inline_ray
from loopback import dies_with_parent, free_ports, wait_until
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from pipelines.embedding import EmbedOptions
from pipelines.lake import Lake
from pipelines.models import import_model
from pipelines.night import NightConfig
from pipelines.nightly import build_shards, run_night
from pipelines.telemetry import Run
from pipelines.values import with_prototypes

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "screenshots"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    "--no-sandbox",  # its sandbox refuses to start as root, and it sees pages of our own alone
    "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
NUM_PRODUCTS = 96
WAIT_MS = 15_000
PICTURES_SHOWN = """Promise.race([
    new Promise(resolve => setTimeout(resolve, 2000)),
    Promise.all([...document.images].map(image => image.getBoundingClientRect().bottom > 0
        && image.getBoundingClientRect().top < innerHeight && image.decode().catch(() => null))),
])"""
"""For screenshots; a picture that the browser never loads, as nobody sees it, must not hold a test up."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Say after everything else how to get what the skipped tests need."""
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and not CHROMIUM:
        terminal.write_line("browser tests skipped: no Chromium here; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    if not CHROMIUM:
        pytest.skip("no Chromium")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@pytest.fixture(scope="module")
def lake(browser: Browser, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lake:
    """A published lake of drawn products whose model names values; made where there is a browser alone."""
    lake = Lake(str(tmp_path_factory.mktemp("served") / "lake"))
    source = f"generated:num_images={NUM_PRODUCTS},seed=0,night=1,size=128"
    config = NightConfig(lake=lake.url, source=source, embed=EmbedOptions(num_workers=1, precision="float32"))
    run = Run("browser", config, lake)
    with inline_ray():
        with with_prototypes(tiny_model, build_shards(config, run), run) as complete:
            import_model(lake, complete)
        assert run_night(config, run) is not None
    return lake


@pytest.fixture(scope="module")
def address(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `jobs/serve.py` answers, in a process and on a Ray of its own."""
    (port,) = free_ports(1)
    log = tmp_path_factory.mktemp("serve") / "log"
    with started(port, log, ROOT / "jobs" / "serve.py", "--lake", lake.url, "--port", str(port)) as url:
        yield url


@pytest.fixture
def token() -> str:
    return "as-good-as-any"


@pytest.fixture
def guarded_address(lake: Lake, token: str, tmp_path: Path) -> Iterator[str]:
    """Where the service answers to who shows the token."""
    (port,) = free_ports(1)
    script = Path(__file__).with_name("guarded_app.py")
    with started(port, tmp_path / "log", script, lake.url, str(port), token) as url:
        yield url


@contextmanager
def started(port: int, log: Path, *command: str | Path) -> Iterator[str]:
    """Run a Python script that serves at a port until the end of a `with`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=dies_with_parent,
        )
    try:
        wait_until("service", lambda: server.poll() is not None or _answers(port))
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@pytest.fixture
def open_page(
    browser: Browser, address: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Page]]:
    """Give a function that opens an address of the service in a browser that has seen nothing before.

    Errors of the page's own scripts fail the test, and its last state is kept as a picture.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_(path: str = "/", base: str = address, **options: object) -> Page:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(base + path)
        return page

    yield open_
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    for number, context in enumerate(contexts):
        context.pages[-1].evaluate(PICTURES_SHOWN)
        context.pages[-1].screenshot(path=SCREENSHOTS / f"{name}{number or ''}.png")
        context.close()
    assert not errors
