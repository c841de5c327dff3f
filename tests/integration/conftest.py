"""A Ray of this process, a proxy before the S3 server: each started once, where a test asks for it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from inline_ray import inline_ray
from served_shop import ServedShop, served_shop


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray with 2 logical CPUs that every test of the session shares."""
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


@pytest.fixture(scope="module")
def served_catalog(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[ServedShop]:
    """A shop that `jobs/serve.py` serves, of a Ray of its own; ends with its file: it is never idle."""
    with served_shop(tmp_path_factory.mktemp("served"), tiny_model) as found:
        yield found


@pytest.fixture(scope="session")
def one_proxy(s3_server: str) -> Iterator[FaultyProxy]:
    found = FaultyProxy(int(os.environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))
    yield found
    found.close()


@pytest.fixture
def proxy(one_proxy: FaultyProxy) -> FaultyProxy:
    """A proxy that was told nothing yet."""
    one_proxy.faults, one_proxy.requests, one_proxy.ignores_conditions_of = [], [], ()
    return one_proxy
