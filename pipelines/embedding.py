"""Embed one shard into one part: a Parquet file per attribute, with vectors and what they say in words.

`parts.py` says what such a file looks like; here is how the pictures get there.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray
import torch

from agman.checkpoint import LoadedModel, load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.transforms import normalise, read_pixels
from pipelines.cluster import is_remote, num_cpus, num_gpus
from pipelines.errors import CorruptShard
from pipelines.lake import Lake, short_digest
from pipelines.models import fetch_model
from pipelines.parts import NORM_TOLERANCE, round_to_half, write_part
from pipelines.scheduling import ActorWorkers, Receipt, Unit
from pipelines.shards.read import read_pictures
from pipelines.storage.objects import FileEntry
from pipelines.values import said_of

PART_STAGE = "embeddings"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedOptions:
    """How embedding runs; none of it is part of a model's identity."""

    batch_size: int = 32
    """Pictures per forward pass."""
    num_workers: int = 0
    """Ray actors, each with the model; 0 takes one per GPU of the cluster, or per `threads` CPUs."""
    threads: int = 1
    """CPU threads of the model in each actor, which are the CPUs it reserves."""
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the processor computes in it."""

    def __post_init__(self) -> None:
        """Refuse what would fail later on a worker."""
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision: expected auto, float32 or bfloat16, found {self.precision}")
        if self.batch_size < 1 or self.threads < 1 or self.num_workers < 0:
            raise ValueError("batch_size and threads: expected at least 1; num_workers: at least 0")

    @property
    def dtype(self) -> torch.dtype | None:
        """The embedder's argument."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(self.precision)


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Which pictures of a shard become a part under a model."""

    shard: str
    files: tuple[FileEntry, ...]
    """The shard's tar and index."""
    model: str
    digests: tuple[str, ...]


def plan_part(shard: str, files: Sequence[FileEntry], model: str, digests: Sequence[str]) -> Unit:
    """Return the unit that embeds some pictures of a shard; a part of a whole shard has the shard's name.

    Args:
        shard: its name.
        files: its tar and index, as a manifest or a receipt lists them.
        model: model id.
        digests: sha256 of the pictures.
    """
    whole_shard = files[0].num_rows == len(digests)
    name = shard if whole_shard else f"{shard}-{short_digest(list(digests))[:8]}"
    return Unit(
        stage=f"{PART_STAGE}/{model}",
        name=name,
        payload=PartPlan(shard, tuple(files), model, tuple(digests)),
        num_images=len(digests),
    )


class PartEmbedder:
    """A model in memory that makes parts; wrapped as a Ray actor, or called directly in a test."""

    def __init__(self, lake: Lake, model: str, options: EmbedOptions) -> None:
        """Load the model once."""
        torch.set_num_threads(options.threads)
        self.lake = lake
        self.options = options
        with fetch_model(lake, model) as folder:
            self.loaded: LoadedModel = load_model(folder)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.embedder = Embedder(self.loaded.model.to(self.device), dtype=options.dtype)

    def run(self, unit: Unit) -> Receipt:
        """Make the part of a unit whose payload is a `PartPlan`."""
        plan: PartPlan = unit.payload
        seconds = dict.fromkeys(("read", "decode", "model", "write"), 0.0)
        digests: list[str] = []
        refused: list[dict[str, str]] = []
        blocks: list[np.ndarray] = []
        for batch, pixels in self._batches(plan, refused, seconds):
            started = time.perf_counter()
            blocks.append(self.embed(pixels))
            digests.extend(batch)
            seconds["model"] += time.perf_counter() - started
        started = time.perf_counter()
        names = self.loaded.taxonomy.names
        dim = self.loaded.model.config.embedding_dim
        embeddings = np.concatenate(blocks) if blocks else np.zeros((0, len(names), dim), np.float32)
        _check_embeddings(embeddings, digests)
        values = said_of(self.loaded, embeddings)
        files = write_part(self.lake, plan.model, unit.name, names, digests, embeddings, values)
        seconds["write"] = time.perf_counter() - started
        return Receipt(
            unit=unit.name,
            files=tuple(files.values()),
            counts={"input": len(plan.digests), "embedded": len(digests), "quarantined": len(refused)},
            seconds=seconds,
            detail={"shard": plan.shard, "pictures": digests, "refused": refused, "attributes": list(files)},
        )

    def embed(self, pixels: torch.Tensor) -> np.ndarray:
        """Embed uint8 pixels [B, 3, S, S]; returns float32 [B, A, D] rounded to what is stored."""
        inputs = normalise(pixels.to(self.device), self.loaded.preprocess)
        return round_to_half(self.embedder.embed(inputs).cpu().numpy())

    def _batches(
        self, plan: PartPlan, refused: list[dict[str, str]], seconds: dict[str, float]
    ) -> Iterator[tuple[list[str], torch.Tensor]]:
        digests: list[str] = []
        pixels: list[torch.Tensor] = []
        started = time.perf_counter()
        for digest, encoded in read_pictures(self.lake, plan.files, plan.digests):
            seconds["read"] += time.perf_counter() - started
            started = time.perf_counter()
            try:
                pixels.append(read_pixels(encoded, self.loaded.preprocess))
                digests.append(digest)
            except BadSample as error:
                refused.append({"sha256": digest, "kind": error.kind, "message": error.message})
            seconds["decode"] += time.perf_counter() - started
            if len(pixels) == self.options.batch_size:
                yield digests, torch.stack(pixels)
                digests, pixels = [], []
            started = time.perf_counter()
        if pixels:
            yield digests, torch.stack(pixels)


def embed_workers(lake: Lake, model: str, options: EmbedOptions, num_units: int) -> ActorWorkers:
    """Start the actors that hold the model: one per GPU, or one per `threads` CPUs, never more than units."""
    gpus = num_gpus()
    wanted = options.num_workers or gpus or 1
    if not is_remote() and (wanted * options.threads > num_cpus() or wanted > (gpus or wanted)):
        raise InvalidInput(
            f"embedding: {wanted} workers of {options.threads} CPUs expected, found {num_cpus()} CPUs and "
            f"{gpus} GPUs; lower --embed.num-workers or --embed.threads"
        )
    count = min(num_units, options.num_workers or gpus or max(1, num_cpus() // options.threads))
    actor = ray.remote(PartEmbedder).options(
        num_cpus=options.threads, num_gpus=1 if gpus else 0, max_restarts=-1, max_task_retries=4
    )
    return ActorWorkers([actor.remote(lake, model, options) for _ in range(count)])


def _check_embeddings(embeddings: np.ndarray, digests: Sequence[str]) -> None:
    """Refuse to write what no search could use: a wrong model shows here, not in the shop."""
    norms = np.linalg.norm(embeddings, axis=-1)
    wrong = ~np.isfinite(embeddings).all(axis=-1) | (np.abs(norms - 1) > NORM_TOLERANCE)
    if wrong.any():
        row, attribute = (int(i) for i in np.argwhere(wrong)[0])
        raise CorruptShard(
            f"picture {digests[row][:12]}…, attribute {attribute}: expected a finite embedding of norm 1, "
            f"found norm {norms[row, attribute]}; {int(wrong.sum())} of {wrong.size} are wrong: "
            "the model is broken"
        )
