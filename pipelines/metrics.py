"""Figures for Prometheus: one table of their names, and the actor of a cluster that holds them.

A job's driver is gone moments after it published, before anything was scraped, and a counter that begins anew
with each job never shows an increase. So the figures are held by one small actor on the head node, which
outlives the jobs, and Ray exports them from there. Nobody scrapes a Ray of this process (no RAY_ADDRESS):
nothing is recorded then.

Prometheus sees Ray's prefix and the ending of a counter: `agman_images` is `ray_agman_images_total`.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

NAMESPACE = "agman"
ACTOR = "agman-metrics"
WAIT_S = 10.0
"""Longest wait for figures to arrive, at the end of a stage and of a run."""
REPEAT_S = 5.0
MAX_WAITING = 1000
"""Calls that may wait for the actor; what comes on top is dropped, as the night matters more."""

Point = tuple["Metric", float, Mapping[str, str]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: how it is called and what it means."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    tags: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """The name that Prometheus sees."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


# Not `job`, which is Prometheus' own name for what it scrapes.
_STAGE = ("job_name", "stage")

IMAGES = Metric("agman_images", "counter", "images", "Finished, reused and quarantined ones too", _STAGE)
REUSED = Metric("agman_images_reused", "counter", "images", "Of these taken from earlier work", _STAGE)
QUARANTINED = Metric("agman_images_quarantined", "counter", "images", "Of these that cannot be used", _STAGE)
STORED_BYTES = Metric("agman_stored_bytes", "counter", "bytes", "Put into the lake by units of work", _STAGE)
STAGE_SECONDS = Metric("agman_stage_seconds", "counter", "seconds", "From a stage's begin to its end", _STAGE)
WORKER_SECONDS = Metric(
    "agman_worker_seconds",
    "counter",
    "seconds",
    "Time of all workers by part of the work: read, decode, model, write",
    (*_STAGE, "part"),
)
STAGE_RUNNING = Metric("agman_stage_running", "gauge", "bool", "1 from a stage's begin to its end", _STAGE)
PROGRESS_TIME = Metric(
    "agman_progress_timestamp_seconds", "gauge", "seconds since 1970", "When a stage last came on", _STAGE
)
STEP = Metric("agman_training_step", "gauge", "steps", "Of the training that runs", ("job_name",))
VALIDATION = Metric(
    "agman_validation_score",
    "gauge",
    "0 to 1",
    "Of the model trained last: MAP, or right triplets",
    ("job_name",),
)
RUNS = Metric(
    "agman_runs",
    "counter",
    "runs",
    "Ended, by how: published, unchanged, done, unfinished, failed, refused, crashed",
    ("job_name", "lake", "status"),
)
SUCCESS_TIME = Metric(
    "agman_success_timestamp_seconds",
    "gauge",
    "seconds since 1970",
    "When a job last ended well; a night that found nothing to publish did",
    ("job_name", "lake"),
)
FAILURE_TIME = Metric(
    "agman_failure_timestamp_seconds",
    "gauge",
    "seconds since 1970",
    "When a job was last failed, refused or crashed",
    ("job_name", "lake"),
)
PUBLISH_TIME = Metric(
    "agman_publish_timestamp_seconds", "gauge", "seconds since 1970", "When a night last published", ("lake",)
)

METRICS = (
    IMAGES, REUSED, QUARANTINED, STORED_BYTES, STAGE_SECONDS, WORKER_SECONDS, STAGE_RUNNING, PROGRESS_TIME,
    STEP, VALIDATION, RUNS, SUCCESS_TIME, FAILURE_TIME, PUBLISH_TIME,
)  # fmt: skip


ENDED_WELL = ("done", "published", "unchanged")


def of_end(job: str, lake: str, status: str, now: float) -> list[Point]:
    """Return what a run's end changes.

    Args:
        job: its name.
        lake: the lake's URL.
        status: how it ended. `unfinished`, stopped by its own time limit, is neither success nor failure.
        now: seconds since 1970.
    """
    of_job = {"job_name": job, "lake": lake}
    points: list[Point] = [(RUNS, 1, {**of_job, "status": status})]
    if status in ENDED_WELL:
        points.append((SUCCESS_TIME, now, of_job))
    elif status != "unfinished":
        points.append((FAILURE_TIME, now, of_job))
    if status == "published":
        points.append((PUBLISH_TIME, now, {"lake": lake}))
    return points


class Scoreboard:
    """The actor: it holds Ray's own counters and gauges, made as they are first named.

    It may be older than the job that calls it, so it is given plain values and knows no table.
    """

    def __init__(self) -> None:
        """Start empty, and begin to repeat the gauges: Ray forgets one that is not set for 20 s."""
        self._kept: dict[str, Any] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._repeat, daemon=True).start()

    def record(self, points: list[tuple[str, str, str, float, dict[str, str]]]) -> None:
        """Add to counters and set gauges, each as (name, kind, description, value, tags)."""
        from ray.util.metrics import Counter, Gauge

        with self._lock:
            for name, kind, description, value, tags in points:
                if name not in self._kept:
                    made = Counter if kind == "counter" else Gauge
                    self._kept[name] = made(name, description, tag_keys=tuple(tags))
                if kind == "counter":
                    self._kept[name].inc(value, tags=tags)
                else:
                    self._gauges[name, tuple(tags.items())] = value
                    self._kept[name].set(value, tags=tags)

    def _repeat(self) -> None:
        while True:
            time.sleep(REPEAT_S)
            with self._lock:
                for (name, tags), value in self._gauges.items():
                    self._kept[name].set(value, tags=dict(tags))


def record(*points: Point, wait: bool = False) -> None:
    """Hand figures to the cluster's actor; nothing happens where there is no cluster.

    Args:
        points: metric, value, and a value for each of its tags; a counter is not told of a 0.
        wait: until they have arrived, because the connection ends soon; else at once. Trouble is logged and
            never stops the work.
    """
    if not is_kept():
        return
    import ray

    sent = [
        (metric.name, metric.kind, f"{metric.description} ({metric.unit})", float(value), dict(tags))
        for metric, value, tags in points
        if value or metric.kind == "gauge"
    ]
    try:
        if sent and ray.is_initialized():
            arrived = _scoreboard(ray.get_runtime_context().get_job_id()).record.remote(sent)
            if wait:
                ray.get(arrived, timeout=WAIT_S)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        _log.warning("figures for Prometheus were lost: %s", error)


def is_kept() -> bool:
    """Tell whether the work runs on a cluster, whose figures are scraped."""
    return bool(os.environ.get("RAY_ADDRESS"))


@lru_cache(maxsize=1)
def _scoreboard(connection: str) -> Any:
    """Return the cluster's actor, started by the first job that asks; a new connection needs a new handle.

    It sits on the head node, which has no CPUs to give: on a worker it would keep that from being removed.
    """
    import ray

    actor = ray.remote(Scoreboard).options(
        name=ACTOR,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_pending_calls=MAX_WAITING,
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
    )
    return actor.remote()
