"""Figures of a service for Prometheus: `GET /metrics` of any replica tells those of all on its machine.

Replicas are processes, and a scrape meets one of them. Where PROMETHEUS_MULTIPROC_DIR names a folder, as the
deployment sees to, prometheus_client keeps every process' figures there and adds them up.
"""

import os
import time
from datetime import datetime
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

if folder := os.environ.get(FOLDER_VARIABLE):
    Path(folder).mkdir(parents=True, exist_ok=True)  # figures are put there as soon as they are named

REQUESTS = Counter(
    "agman_serve_requests", "Answered requests, refused ones too", ("route", "method", "status")
)
REQUEST_SECONDS = Histogram(
    "agman_serve_request_seconds", "From a request's begin to its end", ("route",), buckets=_SECONDS
)
ONGOING = Gauge("agman_serve_ongoing_requests", "Being answered now", multiprocess_mode="livesum")
BATCH_PICTURES = Histogram(
    "agman_serve_batch_pictures", "Uploads that one pass of the network took", buckets=(1, 2, 4, 8, 16, 32)
)
SNAPSHOT_LOAD_SECONDS = Histogram(
    "agman_serve_snapshot_load_seconds", "To load a published snapshot", buckets=(0.5, 1, 5, 15, 60, 300)
)
SNAPSHOT_FAILURES = Counter(
    "agman_serve_snapshot_failures", "Looks that found a snapshot which cannot be loaded, or no answer"
)
SNAPSHOT_PUBLISHED = Gauge(
    "agman_serve_snapshot_published_timestamp_seconds",
    "When the snapshot that answers was published, the oldest of all replicas",
    multiprocess_mode="livemin",
)


def exposition() -> bytes:
    """Return all figures as Prometheus reads them."""
    if not os.environ.get(FOLDER_VARIABLE):
        return generate_latest(REGISTRY)
    _forget_dead(Path(os.environ[FOLDER_VARIABLE]))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _forget_dead(folder: Path) -> None:
    """Drop what replicas that ended left of figures that only those alive have; their counts stay."""
    for process in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        if not Path(f"/proc/{process}").exists():
            mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


def seconds_of(moment: str) -> float:
    """Return a moment of a pointer as seconds since 1970; 0 where it is none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0


class Measured:
    """Counts an app's requests by route: the pattern, never the path, of which there is no end."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        ONGOING.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            ONGOING.dec()
            route = getattr(scope.get("route"), "path", "other")
            REQUESTS.labels(route, scope["method"], str(status)).inc()
            REQUEST_SECONDS.labels(route).observe(time.perf_counter() - began)
