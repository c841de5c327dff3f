"""Where the work runs: the cluster of `ray job submit`, or a Ray of this process on this machine."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Unset, `ray.init()` writes a token file and a later `ray job submit` fails; a cluster sets its own mode.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# A job's progress is the driver's; Ray's usage notes and state messages are noise beside it.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_DEDUP_LOGS": "1",
    # A task that runs out of memory is tried again without end by default.
    "RAY_task_oom_retries": "4",
    "RAY_enable_open_telemetry": "0",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  the variables above are read when Ray is imported

OBJECT_STORE_BYTES = 512 << 20


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, else start a Ray of this process and end it after.

    An explicit address is always given: a stale file of an earlier cluster would mislead `ray.init()`.
    """
    if ray.is_initialized():
        yield
        return
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    address = os.environ.get("RAY_ADDRESS") or "local"
    local = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "log_to_driver": False,
        "_node_ip_address": "127.0.0.1",
    }
    ray.init(
        address=address,
        namespace="agman",
        logging_level=logging.ERROR,
        configure_logging=True,
        **(local if address == "local" else {"log_to_driver": False}),
    )
    try:
        yield
    finally:
        ray.shutdown()


def is_remote() -> bool:
    """Tell whether the work runs on a cluster, which may still grow, and not on this machine alone."""
    return bool(os.environ.get("RAY_ADDRESS"))


def num_cpus() -> int:
    """Return the CPUs of the cluster."""
    return max(1, int(_resource("CPU")))


def num_gpus() -> int:
    """Return the GPUs of the cluster."""
    return int(_resource("GPU"))


def resources_line() -> str:
    """Say what the cluster has and what of it is free."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return " and ".join(
        f"{_resource(name):g} {name}s ({free.get(name, 0.0):g} free)" for name in ("CPU", "GPU")
    )


def _resource(name: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(name, 0.0)
