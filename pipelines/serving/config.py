"""How a service runs: where it listens, how much it takes at once, what it refuses."""

from dataclasses import dataclass
from typing import Literal

MAX_K = 200
TOKEN_VARIABLE = "AGMAN_SERVE_TOKEN"  # noqa: S105  its name, not the token
"""Environment variable with the bearer token that requests must show; unset or empty: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is refused, so that no request costs more than its share."""

    upload_bytes: int = 10 << 20
    """Largest picture that is taken, bytes; the rest of a larger one is not read."""
    pixels: int = 50_000_000
    """Largest width x height of a picture that is taken, judged before it is decoded."""
    ongoing: int = 16
    """Requests that a replica works on at a time."""
    queued: int = 64
    """Requests that wait for a replica; what comes on top is told at once to come again later (429)."""
    request_s: float = 30.0
    """Longest time that a request may take from its first byte to its last, seconds."""

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through."""
        for name in ("upload_bytes", "pixels", "ongoing", "request_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limits.{name}: expected above 0, found {getattr(self, name)}")
        if self.queued < 0:
            raise ValueError(f"limits.queued: expected 0 or more, found {self.queued}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How uploads are brought together for one pass of the network."""

    max_size: int = 8
    """Most pictures of a pass."""
    wait_s: float = 0.005
    """Longest time that a picture waits for others, seconds."""

    def __post_init__(self) -> None:
        """Refuse a pass of nothing."""
        if self.max_size < 1 or self.wait_s < 0:
            raise ValueError(
                f"batching: expected max_size of 1 or more and wait_s of 0 or more, found {self.max_size} "
                f"and {self.wait_s}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """One service over one lake."""

    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 answers other machines too: ask for a token, or put a proxy before it."""
    port: int = 8000
    """Port to listen at."""
    replicas: int = 1
    """Processes that answer, each with the snapshot and the model loaded."""
    accelerator: Literal["cpu", "gpu"] = "cpu"
    """What embeds uploads: a GPU for each replica, or the processor."""
    threads: int = 0
    """Threads of a replica for the network and for a search; 0: its share of the machine's cores."""
    poll_s: float = 3.0
    """Seconds between two looks at what is published."""
    product_column: str = ""
    """Column of the catalog whose value the pictures of one product share; empty: a key is a product."""
    limits: Limits = Limits()
    """What is refused."""
    batching: Batching = Batching()
    """How uploads are brought together."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: expected 1 to 65535, found {self.port}")
        if self.replicas < 1 or self.threads < 0 or not self.poll_s > 0:
            raise ValueError(
                "expected replicas of 1 or more, threads of 0 or more and poll_s above 0, found "
                f"{self.replicas}, {self.threads} and {self.poll_s}"
            )
