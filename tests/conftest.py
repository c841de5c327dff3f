"""Settings that must stand before Ray is imported, and the model that most tests embed with."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

RAY_FOLDER = Path(f"/tmp/ray-{os.getpid()}")  # short: Ray's sockets live below it, and a path has 107 letters
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_TMPDIR"] = str(RAY_FOLDER)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = "60"
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # a process for each training
os.environ.pop("RAY_ADDRESS", None)
os.environ["XDG_CACHE_HOME"] = str(RAY_FOLDER / "cache")  # what readers remember goes with the tests

import pytest  # noqa: E402
import torch  # noqa: E402

from agman.checkpoint import save_model  # noqa: E402
from agman.model import AGMAN, ModelConfig  # noqa: E402
from agman.taxonomy import FASHIONAI, Taxonomy  # noqa: E402
from agman.transforms import Preprocess  # noqa: E402

pytest_plugins = ["loopback"]
TESTS = Path(__file__).parent
LONG = (
    "integration/test_training.py",
    "multi_node/test_training.py",
    "integration/test_crash_points.py",
    "browser/test_search_page.py",
    "multi_node/test_nights.py",
    "integration/test_nights_state_machine.py",
    "integration/test_serve.py",
    "integration/test_commands.py",
    "integration/test_resume.py",
)
"""Files of a minute or more, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with unit tests, which tell most in a minute, and then with what takes longest.

    Processes take a file at a time: one that began a long file last would work on alone.
    """

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(TESTS).as_posix()
        if name.startswith("unit/"):
            return -1
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _no_ray_left() -> Iterator[None]:
    RAY_FOLDER.mkdir(exist_ok=True)
    yield
    shutil.rmtree(RAY_FOLDER, ignore_errors=True)


def make_model(folder: Path, taxonomy: Taxonomy = FASHIONAI, seed: int = 0) -> Path:
    """Save a random network whose embeddings of different pictures differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AGMAN(ModelConfig(trunk="resnet18", embedding_dim=32), len(taxonomy))
    save_model(model.eval(), taxonomy, Preprocess(image_size=64), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random AG-MAN of the FashionAI taxonomy: 32 dimensions, pictures of 64 pixels."""
    return make_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def other_taxonomy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that knows the first two attributes alone."""
    return make_model(tmp_path_factory.mktemp("other-model"), Taxonomy(FASHIONAI.attributes[:2]))
