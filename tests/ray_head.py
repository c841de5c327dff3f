"""A Ray head with a dashboard that asks for a token, as a cluster has it, and `ray job submit` to it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

from loopback import free_ports, wait_until
from prometheus_client.parser import text_string_to_metric_families

from pipelines.metrics import METRICS

PROGRAMS = Path(sys.executable).parent
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
         "ray-client-server-port", "metrics-export-port", "runtime-env-agent-port")  # fmt: skip
TOKEN = "a token of these tests alone, as infra/ asks for one"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
}


class Head(NamedTuple):
    """Where it answers."""

    address: str
    metrics: str

    def answers(self, path: str, token: str = TOKEN) -> bool:
        shown = {"Authorization": f"Bearer {token}"} if token else {}
        return bool(urlopen(Request(self.address + path, headers=shown), timeout=5).status == 200)

    def submit(self, words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a document's `ray job submit`, with the code that is uploaded and none of this checkout's."""
        return subprocess.run(
            words,
            env={**ENVIRONMENT, "RAY_API_SERVER_ADDRESS": self.address},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def exported(self) -> dict[tuple[str, ...], float]:
        """Return what Prometheus would be told of us: (name, job, stage or status) -> value."""
        names = {metric.exported for metric in METRICS}
        found = {}
        for family in text_string_to_metric_families(urlopen(self.metrics, timeout=5).read().decode()):
            for name, labels, value, *_ in family.samples:
                if name in names:
                    where = labels.get("stage") or labels.get("status") or ""
                    found[name, labels.get("job_name", ""), where] = value
        return found


@contextmanager
def ray_head(cwd: Path) -> Iterator[Head]:
    """Run a head of 2 logical CPUs until the end of a `with`."""
    chosen = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    folder = Path(f"/tmp/ray-{os.getpid()}h")
    command = [
        "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
        "--num-cpus=2", f"--object-store-memory={200 << 20}", "--disable-usage-stats",
        f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in chosen.items()),
    ]  # fmt: skip
    log = (cwd / "head.log").open("wb")
    process = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=cwd, stdout=log, stderr=log, start_new_session=True
    )
    head = Head(
        f"http://127.0.0.1:{chosen['dashboard-port']}",
        f"http://127.0.0.1:{chosen['metrics-export-port']}/metrics",
    )
    try:
        wait_until("Ray head", lambda: process.poll() is not None or _is_up(head), 120)
        assert process.poll() is None, (cwd / "head.log").read_text()
        yield head
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)  # a node that holds an actor, as ours of the figures, is drained for 30 s
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _is_up(head: Head) -> bool:
    with suppress(OSError):
        return head.answers("/api/version")
    return False
