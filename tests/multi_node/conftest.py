"""A Ray cluster of several raylets on loopback, of which a test kills whole nodes.

The head has no CPU, so that work runs on the nodes that a test adds. Drivers are processes of their own, as
people start them: this process may have a Ray of other tests.
"""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
JOB_S = 180.0
STORE_BYTES = 100 << 20
# A dead node is known after three checks of 1.5 s: one that nobody answers lasts as long as its timeout.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """A head and the nodes that come and go."""

    def __init__(self) -> None:
        """Start the head."""
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "_system_config": HEALTH, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={**_COMMON, **head})
        self.address: str = self._cluster.address
        self._alive: list[Any] = []

    def add(self, num_cpus: int = 1, **resources: Any) -> Any:
        """Start a node, from the main thread, and return once it can take work.

        Args:
            num_cpus: logical.
            **resources: further arguments of `Cluster.add_node`, such as num_gpus=1 or resources={"spot": 1}.
        """
        node = self._cluster.add_node(num_cpus=num_cpus, **_COMMON, **resources)
        self._alive.append(node)
        return node

    def kill(self, node: Any) -> None:
        """SIGKILL a node as a machine dies: its raylet, then all that the raylet started."""
        import psutil  # Ray brings it along, and was imported to start the head

        self._alive.remove(node)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        gone = [raylet, *raylet.children(recursive=True)]
        for process in gone:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_all(self) -> None:
        """Kill every node but the head."""
        for node in list(self._alive):
            self.kill(node)

    def start_job(self, job: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `jobs/<job>` on the cluster; what it says comes through its standard output."""
        return subprocess.Popen(
            [sys.executable, ROOT / "jobs" / job, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": self.address, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        """End everything."""
        self.kill_all()
        self._cluster.shutdown()


# On loopback, but not 127.0.0.1: a driver would take that for a name of its host and look there.
_COMMON = {"node_ip_address": "127.0.0.2", "object_store_memory": STORE_BYTES}


@pytest.fixture(scope="session")
def head() -> Iterator[Nodes]:
    """A cluster without nodes, for the session."""
    from pipelines import cluster  # noqa: F401  sets what Ray reads when it is imported

    found = Nodes()
    yield found
    found.close()


@pytest.fixture
def nodes(head: Nodes) -> Iterator[Nodes]:
    """The cluster, to add nodes to and to kill them; those that are left end with the test."""
    yield head
    head.kill_all()


@pytest.fixture
def finish() -> Callable[[subprocess.Popen[str]], str]:
    """Wait for a job that must end well; returns what it said."""

    def wait_for(job: subprocess.Popen[str]) -> str:
        try:
            said, _ = job.communicate(timeout=JOB_S)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            said, _ = job.communicate()
            pytest.fail(f"not within {JOB_S} s:\n{said}")
        assert job.returncode == 0, said
        return said

    return wait_for


@pytest.fixture
def s3_lake(s3_server: str) -> str:
    """Root of an empty lake in a bucket."""
    return f"{s3_server}/{uuid.uuid4().hex[:8]}/lake"
