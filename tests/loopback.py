"""Fixtures that the tests with real servers share: an S3 server on loopback, lakes on it, waiting.

A plugin and no conftest: two folders that each import a fixture would start the server twice.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipelines.lake import Lake

WEED = Path(sys.executable).parent / "weed"
BUCKET = "shop"
MAX_VOLUMES = 2000
"""Of 64 MiB, made when they are needed: the trainings of the suite alone fill some fifty."""
READY_S = 180.0
"""Long, since a busy machine is no failure; a job that ends too soon ends the waiting."""


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


# Ray's workers get the environment that Ray was started with, so the endpoint is named before either starts.
S3_PORT = free_ports(1)[0]
os.environ.update(
    AWS_ENDPOINT_URL=f"http://127.0.0.1:{S3_PORT}",
    AWS_ACCESS_KEY_ID="test-key",
    AWS_SECRET_ACCESS_KEY="test-secret",
    AWS_DEFAULT_REGION="us-east-1",
)


def dies_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it is gone (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def wait_until(what: str, holds: Callable[[], bool], deadline_s: float = READY_S) -> None:
    """Look again and again until something holds; fail after a deadline."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {deadline_s} s"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def ports() -> Callable[[int], list[int]]:
    """Give `free_ports`."""
    return free_ports


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """Give `wait_until`."""
    return wait_until


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty bucket of a real S3 server, with conditional writes."""
    folder = tmp_path_factory.mktemp("s3")
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    arguments = [
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-filer", "-s3", "-master.telemetry=false",
        f"-s3.port={S3_PORT}", f"-s3.port.grpc={ports['s3.grpc']}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{name}.port={ports[name]}" for name in ("master", "volume", "filer")),
        *(f"-{name}.port.grpc={ports[f'{name}.grpc']}" for name in ("master", "volume", "filer")),
        "-metricsPort=0", f"-volume.max={MAX_VOLUMES}", "-master.volumeSizeLimitMB=64", "-s3.iam=false",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [WEED, "server", *arguments],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            preexec_fn=dies_with_parent,
        )
    try:
        wait_until("S3 server", lambda: server.poll() is not None or _creates_bucket())
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        yield f"s3://{BUCKET}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _creates_bucket() -> bool:
    """Make the bucket and write to it: the server listens before its volumes can hold anything."""
    import s3fs

    with closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.1", S3_PORT)):
            return False
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    try:
        if not files.exists(BUCKET):
            files.call_s3("create_bucket", Bucket=BUCKET)
        files.call_s3("put_object", Bucket=BUCKET, Key="ready", Body=b"yes")
        files.call_s3("delete_object", Bucket=BUCKET, Key="ready")
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def new_lake(s3_server: str) -> Callable[[], Lake]:
    """Give a function that names an empty lake on the S3 server, another one each time."""
    return lambda: Lake(f"{s3_server}/{uuid.uuid4().hex[:8]}/lake")


@pytest.fixture
def lake(new_lake: Callable[[], Lake]) -> Lake:
    """An empty lake on the S3 server, of one test."""
    return new_lake()


@pytest.fixture(params=["local", "s3"])
def lake_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Root of an empty lake: a local folder, then a prefix in a bucket."""
    if request.param == "local":
        return str(tmp_path / "lake")
    return f"{request.getfixturevalue('s3_server')}/{uuid.uuid4().hex[:8]}/lake"
