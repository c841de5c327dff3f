"""A Ray of this process, started once and only where a test asks for it."""

from collections.abc import Iterator

import pytest
from inline_ray import inline_ray


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray with 4 logical CPUs that every test of the session shares."""
    from pipelines import cluster  # noqa: F401  sets what Ray reads when it is imported

    import ray  # isort: skip

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 << 20,
        include_dashboard=False,
        namespace="agman",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.fixture
def within_process() -> Iterator[None]:
    """Ray's tasks and actors run at once in this process: for tests of nights, not of Ray."""
    with inline_ray():
        yield
