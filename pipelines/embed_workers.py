"""Which workers embed: how many, on what, and who decodes for them."""

from dataclasses import dataclass
from typing import Any

import ray

from agman.checkpoint import load_model
from agman.errors import InvalidInput
from pipelines.actors import ActorWorkers
from pipelines.cluster import is_remote, num_cpus, num_gpus
from pipelines.decoding import Decoded, decode_unit
from pipelines.embedding import EmbedOptions, PartEmbedder
from pipelines.lake import Lake
from pipelines.models import fetch_model
from pipelines.scheduling import Receipt, Ref, Unit
from pipelines.workers import QUEUED, ray_task


@dataclass(frozen=True, slots=True)
class Found:
    """What the cluster has now."""

    num_cpus: int
    num_gpus: int
    may_grow: bool
    """Whether what is lacking may still come."""


class EmbedActor:
    """The model in a Ray actor.

    A call loads it, not the constructor: what goes wrong comes to the driver as it is, and what may pass
    is tried again. It works on as many units at once as it is given, so that the next one's pictures are read
    while the model has this one's.
    """

    def __init__(self, lake: Lake, model: str, options: EmbedOptions) -> None:
        """Remember what to load."""
        self._asked = (lake, model, options)

    def load(self) -> None:
        """Load the model."""
        self._embedder = PartEmbedder(*self._asked)

    def run(self, unit: Unit, decoded: Decoded | None = None) -> Receipt:
        """Make a part."""
        return self._embedder.run(unit, decoded)


def embed_workers(lake: Lake, model: str, options: EmbedOptions, num_units: int) -> ActorWorkers:
    """Start the actors that hold the model, never more than there are units.

    Raises:
        InvalidInput: if they can never be placed, or a decoder on the GPU was to work elsewhere.
    """
    found = Found(num_cpus(), num_gpus(), may_grow=is_remote())
    use_gpu = uses_gpu(options, found.num_gpus)
    actor = ray.remote(EmbedActor).options(
        num_cpus=options.threads,
        num_gpus=1 if use_gpu else 0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=QUEUED,
    )
    count = min(num_units, count_workers(options, found))
    asked = f"{options.threads} CPUs" + (" and a GPU" if use_gpu else "")
    if not options.decoders:
        return ActorWorkers(lambda: actor.remote(lake, model, options), count, asked=asked)
    with fetch_model(lake, model) as folder:
        preprocess = load_model(folder).preprocess
    if preprocess.decoder == "nvjpeg":
        raise InvalidInput(
            f"model {model}: expected --embed.decoders 0, since the GPU decodes its pictures, "
            f"found {options.decoders}"
        )
    task: Any = ray_task(decode_unit)

    def decode(unit: Unit) -> Ref:
        ref: Ref = task.remote(lake, unit, preprocess)
        return ref

    return ActorWorkers(
        lambda: actor.remote(lake, model, options),
        count,
        asked=asked,
        prepare=decode,
        num_prepared=options.decoders,
    )


def uses_gpu(options: EmbedOptions, num_gpus: int) -> bool:
    """Tell whether each worker takes a GPU; `auto` goes by those that the cluster has now."""
    return options.accelerator == "gpu" or (options.accelerator == "auto" and num_gpus > 0)


def count_workers(options: EmbedOptions, found: Found) -> int:
    """Return how many workers to start.

    Raises:
        InvalidInput: if they can never be placed; Ray would wait for it without a word.
    """
    use_gpu = uses_gpu(options, found.num_gpus)
    by_cpus = max(1, (found.num_cpus - min(options.decoders, found.num_cpus // 2)) // options.threads)
    wanted = options.num_workers or (max(1, found.num_gpus) if use_gpu else by_cpus)
    needed = wanted * options.threads + (options.decoders > 0)
    if found.may_grow or (needed <= found.num_cpus and wanted <= (found.num_gpus if use_gpu else wanted)):
        return wanted
    beside = " and one CPU for decoders" if options.decoders else ""
    raise InvalidInput(
        f"embedding: {wanted} workers of {options.threads} CPUs{' and a GPU' if use_gpu else ''}{beside} "
        f"expected, found {found.num_cpus} CPUs and {found.num_gpus} GPUs; lower --embed.num-workers or "
        "--embed.threads, or give --embed.accelerator cpu or --embed.decoders 0"
    )
