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
    """Whether what is lacking may still come, as on a cluster."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a training takes of it."""

    min_workers: int
    """Where training begins, and goes on after a loss."""
    max_workers: int
    use_gpu: bool
    said: tuple[str, ...]
    """Lines for a person: why it is not what was asked."""


def place(config: TrainConfig, machines: Machines) -> Placement:
    """Choose how many workers there are, and whether each has a GPU.

    Args:
        config: asks for workers, their CPUs and an accelerator.
        machines: what there is.

    Raises:
        InvalidInput: if it can never be placed; Ray would wait for it without a word.
    """
    use_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and machines.num_gpus > 0)
    if use_gpu and not machines.num_gpus and not machines.may_grow:
        raise InvalidInput("accelerator gpu: expected a GPU, found none; give --accelerator cpu or auto")
    room = machines.num_cpus // config.cpus_per_worker
    most = config.num_workers
    if use_gpu and not (machines.may_grow and (config.accelerator == "gpu" or config.min_workers)):
        most = min(most, machines.num_gpus)
    if config.min_workers and not machines.may_grow:
        most = min(most, room)
    least = config.min_workers or most
    if not machines.may_grow and (most < least or most > room):
        raise InvalidInput(
            f"{least} workers of {config.cpus_per_worker} CPUs{' and a GPU' if use_gpu else ''}: expected to "
            f"fit this machine, found {machines.num_cpus} CPUs and {machines.num_gpus} GPUs; lower "
            "--num-workers, --min-workers or --cpus-per-worker"
        )
    return Placement(least, most, use_gpu, tuple(_said(config, machines, most, use_gpu)))


def _said(config: TrainConfig, machines: Machines, most: int, use_gpu: bool) -> list[str]:
    """Tell a person what is not as it was asked."""
    said = []
    if use_gpu and machines.num_gpus < most:
        needed = config.min_workers or most
        said.append(f"{machines.num_gpus} GPUs found: waiting for {needed}, one for each worker")
    elif use_gpu:
        said.append(f"{machines.num_gpus} GPUs found: one for each worker; --accelerator cpu uses none")
    if most < config.num_workers:
        said.append(
            f"{most} workers, not {config.num_workers}: each step still learns from {config.num_workers} "
            "batches, so it takes longer"
        )
    return said
