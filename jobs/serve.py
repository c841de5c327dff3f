"""Serve a published snapshot: a search page for people, an API for programs.

python jobs/serve.py --lake ./lake
python jobs/serve.py --lake s3://shop-lake --replicas 4 --host 0.0.0.0    # with AGMAN_SERVE_TOKEN set
    ray job submit --working-dir . -- python jobs/serve.py --lake s3://shop-lake --replicas 8 --host 0.0.0.0
"""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from agman.errors import InvalidInput
from jobs.command_line import read_config
from pipelines import cluster, telemetry
from pipelines.lake import Lake
from pipelines.serving.config import TOKEN_VARIABLE, ServeConfig
from pipelines.storage.snapshots import current_manifest

LOOK_S = 1.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main() -> None:
    """Serve until the process is told to end."""
    config = read_config({"serve": ("", ServeConfig())}, __doc__)
    with telemetry.run("serve", config) as run:
        serve(config, run)


def serve(config: ServeConfig, run: telemetry.Run) -> None:
    """Serve until the process is told to end."""
    snapshot = current_manifest(Lake(config.lake)).id
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not cluster.is_remote():
        _check_port(config.host, config.port)
        _set_edge()
    with (
        cluster.connected(),
        on_signals(_give_up),  # after Ray, which sets handlers of its own
        tempfile.TemporaryDirectory(prefix="agman-serve-") as folder,
    ):
        from pipelines.serving.deployment import serving  # Serve reads the environment when it is imported
        from pipelines.serving.guards import token_digest

        run.say(f"loading snapshot {snapshot}")
        with serving(
            config,
            threads=_threads(config),
            cpus=1 if cluster.is_remote() else 0,
            token=token_digest(token) if token else None,
            folder=folder,
        ):
            end = threading.Event()
            with on_signals(lambda *_: end.set()):
                run.say(f"snapshot {snapshot} answers at http://{config.host}:{config.port}/ (API: /docs)")
                if not token and config.host not in LOOPBACK:
                    run.say(f"whoever reaches this port can search: {TOKEN_VARIABLE} asks for a token")
                while not end.wait(LOOK_S):
                    pass
            run.say("ending: requests that were begun are answered")


@contextmanager
def on_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Do something at Ctrl-C and at a polite kill, for the time of a `with`."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _give_up(number: int, _: FrameType | None) -> None:
    """End while the service is not up yet."""
    raise SystemExit(128 + number)


def _threads(config: ServeConfig) -> int:
    """Return the threads of a replica: all of this machine's are shared."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.threads or max(1, cores // config.replicas)


def _check_port(host: str, port: int) -> None:
    """Refuse a port that somebody has: Serve would say so in forty lines."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as error:
        raise InvalidInput(
            f"--host {host} --port {port}: {error.strerror or error}; --port takes another one"
        ) from error


def _set_edge() -> None:
    """Let the proxy of a Ray of this process answer in our words; it inherits this environment."""
    from pipelines.serving.edge import IMPORT_PATH

    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", IMPORT_PATH)
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")


if __name__ == "__main__":
    main()
