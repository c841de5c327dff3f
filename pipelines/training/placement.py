"""How many workers a training has and what they compute with."""

from dataclasses import dataclass

from agman.errors import InvalidInput
from pipelines.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Machines:
    """What there is to compute with."""

    num_cpus: int
    num_gpus: int
    may_grow: bool
    """Whether CPUs that are lacking may still come, as on a cluster."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a training takes of it."""

    num_workers: int
    use_gpu: bool
    said: tuple[str, ...]
    """Lines for a person: why it is not what was asked."""


def place(config: TrainConfig, machines: Machines, num_shards: int | None) -> Placement:
    """Choose how many workers find work, and whether each has a GPU.

    Args:
        config: asks for workers, their CPUs and an accelerator.
        machines: what there is.
        num_shards: to learn from, each of which feeds one worker; None where every worker reads all of them.

    Raises:
        InvalidInput: if it can never be placed; Ray would wait for it without a word.
    """
    num_workers, said = config.num_workers, []
    if num_shards is not None and num_shards < num_workers:
        said.append(f"{num_shards} shards to learn from feed {num_shards} workers, not {num_workers}")
        num_workers = num_shards
    use_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and machines.num_gpus > 0)
    if use_gpu and not machines.num_gpus:
        raise InvalidInput("accelerator gpu: expected a GPU, found none; give --accelerator cpu or auto")
    if use_gpu:
        asked, num_workers = num_workers, min(num_workers, machines.num_gpus)
        fewer = f", not {asked}" if num_workers < asked else ""
        said.append(
            f"{machines.num_gpus} GPUs found: {num_workers} workers{fewer}, one GPU each; --accelerator cpu "
            "uses none"
        )
    if not machines.may_grow and num_workers * config.cpus_per_worker > machines.num_cpus:
        raise InvalidInput(
            f"{num_workers} workers of {config.cpus_per_worker} CPUs: expected to fit this machine, found "
            f"{machines.num_cpus} CPUs; lower --num-workers or --cpus-per-worker"
        )
    return Placement(num_workers, use_gpu, tuple(said))
