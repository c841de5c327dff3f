"""The service on Ray Serve: replicas of one deployment behind its HTTP proxy."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.types import ASGIApp

from agman.errors import AgmanError
from pipelines.serving import metrics
from pipelines.serving.app import build_app
from pipelines.serving.config import ServeConfig
from pipelines.serving.refusals import RETRY_S
from pipelines.serving.service import Service

NAME = "agman"
HEALTH_PERIOD_S = 5.0
LOAD_TRIES = 2
"""Of a replica that cannot load, when the service starts."""


class NotServed(AgmanError):
    """The replicas did not start; the message ends with what the last one said."""


@serve.ingress()
class Replica:
    """One process that answers: loads what is published before Serve sends it a request."""

    def __init__(self, config: ServeConfig, threads: int, token: bytes | None) -> None:
        """Load.

        Args:
            config: of the service.
            threads: of the network and of a search.
            token: digest of the token that requests must show; None: none.
        """
        self._service = Service(config, threads)
        self._token = token

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the app; Serve calls it once this is loaded."""
        return build_app(self._service, self._token)

    def check_health(self) -> None:
        """Raise where the replica must be started anew; Serve asks now and then."""
        self._service.current.check()

    def __del__(self) -> None:
        """End its threads, when Serve lets go of it."""
        self._service.close()


@contextmanager
def serving(
    config: ServeConfig, *, threads: int, cpus: float, token: bytes | None, folder: str
) -> Iterator[None]:
    """Serve a lake for the time of a `with`, on the Ray that is connected; ready when that begins.

    Args:
        config: of the service.
        threads: of a replica.
        cpus: that Ray reserves for a replica.
        token: digest of the token that requests must show; None: none.
        folder: for the replicas' figures, on each machine.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # a job says itself what people need
    serve.start(
        proxy_location="HeadOnly" if config.host == "127.0.0.1" else "EveryNode",
        http_options={
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.limits.request_s,
        },
    )
    options: dict[str, Any] = {
        "num_cpus": cpus,
        "num_gpus": 1 if config.accelerator == "gpu" else 0,
        "runtime_env": {"env_vars": {metrics.FOLDER_VARIABLE: folder}},
    }
    deployment: Any = serve.deployment(
        name="search",
        num_replicas=config.replicas,
        max_ongoing_requests=config.limits.ongoing,
        max_queued_requests=config.limits.queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_S),
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_wait_loop_s=0.2,
        max_constructor_retry_count=LOAD_TRIES,
        ray_actor_options=options,
    )(Replica)
    try:
        try:
            serve.run(deployment.bind(config, threads, token), name=NAME, route_prefix="/")
        except RuntimeError as error:
            raise NotServed(_last_words()) from error
        yield
    finally:
        serve.delete(NAME)


def _last_words() -> str:
    """Return why replicas do not start: the end of what Serve keeps of their traceback."""
    application = serve.status().applications.get(NAME)
    messages = [each.message for each in application.deployments.values()] if application else []
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("File ", "^", "Traceback", "ray::"))]
    return f"no process of the service could start: {said[-1] if said else 'see the log of Ray Serve'}"
