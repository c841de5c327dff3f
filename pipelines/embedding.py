"""Embed one shard into one part: a Parquet file per attribute, with vectors and what they say in words.

`parts.py` says what such a file looks like; here is how the pictures get there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from agman.checkpoint import LoadedModel, load_model
from agman.embedder import Embedder
from agman.errors import BadSample, InvalidInput
from agman.lanes import Lane, Lanes
from pipelines.decoding import Decoded, Decoding, Extended, PartPlan, read_batch
from pipelines.errors import CorruptShard
from pipelines.lake import Lake, short_digest
from pipelines.models import fetch_model
from pipelines.parts import NORM_TOLERANCE, read_digests, round_to_half, write_part
from pipelines.scheduling import Receipt, Unit
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Part
from pipelines.values import said_of

PART_STAGE = "embeddings"
BATCH_SIZES = {"cuda": 256, "cpu": 32}


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedOptions:
    """How embedding runs; none of it is part of a model's identity."""

    batch_size: int = 0
    """Pictures per forward pass; 0 takes 256 on a GPU and 32 on a CPU."""
    num_workers: int = 0
    """Ray actors, each with the model; 0 takes one per GPU or per `threads` CPUs that there are now."""
    threads: int = 1
    """CPU threads of the model in each actor, which are the CPUs it reserves."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU for each worker where the cluster has any now; `gpu` asks for them also where a cluster
    must first bring them, and refuses to embed without; `cpu` leaves them alone."""
    decoders: int = 0
    """Shards that Ray tasks of a CPU each read and decode ahead of the workers, as on CPU nodes beside GPU
    nodes; 0 decodes in the worker. The object store holds so many and two a worker, 3 x image_size² bytes a
    picture."""
    precision: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the processor computes in it."""
    compiled: bool = False
    """Through `torch.compile`: twice the rate on an H200, after half a minute in each worker. Worth it from
    some hundred thousand pictures a worker."""

    def __post_init__(self) -> None:
        """Refuse what would fail later on a worker."""
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision: expected auto, float32 or bfloat16, found {self.precision}")
        if self.threads < 1:
            raise ValueError("threads: expected at least 1")
        if min(self.batch_size, self.num_workers, self.decoders) < 0:
            raise ValueError("batch_size, num_workers and decoders: expected at least 0")

    @property
    def dtype(self) -> torch.dtype | None:
        """The embedder's argument."""
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(self.precision)


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


def plan_extension(
    part: Part,
    files: Sequence[FileEntry],
    model: str,
    attributes: Sequence[str],
    elsewhere: Sequence[tuple[tuple[FileEntry, ...], tuple[str, ...]]] = (),
) -> Unit:
    """Return the unit that embeds a part's pictures under the attributes that it lacks.

    Args:
        part: the part.
        files: tar and index of its shard; none where all of its pictures are elsewhere.
        model: model id.
        attributes: the model's.
        elsewhere: tar and index of other shards, and the pictures that are read from there.
    """
    lacking = tuple(name for name in attributes if name not in part.files)
    rows = next(iter(part.files.values()))
    extended = Extended(part.name, lacking, rows, tuple(elsewhere))
    return Unit(
        stage=f"{PART_STAGE}/{model}",
        name=f"{part.name}-{short_digest([part.name, lacking])[:8]}",
        payload=PartPlan(part.shard, tuple(files), model, (), extended),
        num_images=part.num_rows,
    )


class PartEmbedder:
    """A model in memory that makes parts; wrapped as a Ray actor, or called directly in a test.

    `run` may be called from several threads: one reads, decodes or writes while another one has the model.
    """

    def __init__(self, lake: Lake, model: str, options: EmbedOptions) -> None:
        """Load the model once.

        Raises:
            InvalidInput: if a GPU is asked for, or the model's decoder needs one, and PyTorch finds none.
        """
        torch.set_num_threads(options.threads)
        self.lake = lake
        self.options = options
        with fetch_model(lake, model) as folder:
            self.loaded: LoadedModel = load_model(folder)
        device = torch.device(choose_device(options.accelerator))
        _check_decoder(self.loaded, device, model)
        embedder = Embedder(self.loaded.model.to(device), dtype=options.dtype, compiled=options.compiled)
        self.batch_size = options.batch_size or BATCH_SIZES[device.type]
        self._device = device
        self._lanes = Lanes(embedder, self.loaded.preprocess, self.batch_size)

    def run(self, unit: Unit, decoded: Decoded | None = None) -> Receipt:
        """Make the part of a unit whose payload is a `PartPlan`.

        Args:
            unit: the work.
            decoded: its pictures, where they were read and decoded elsewhere.
        """
        torch.set_num_threads(self.options.threads)  # of this thread
        plan: PartPlan = unit.payload
        pictures = decoded or Decoding(self.lake, plan, self.loaded.preprocess, self._device)
        digests: list[str] = []
        blocks: list[np.ndarray] = []
        model_s = 0.0
        for batch, pixels in pictures.batches(self.batch_size):
            with self._lanes.free() as lane:
                started = time.perf_counter()
                blocks.append(self.embed_through(lane, pixels))
                model_s += time.perf_counter() - started
            digests.extend(batch)
        started = time.perf_counter()
        names = self.loaded.taxonomy.names
        dim = self.loaded.model.config.embedding_dim
        embeddings = np.concatenate(blocks) if blocks else np.zeros((0, len(names), dim), np.float32)
        _check_embeddings(embeddings, digests)
        files = self._write(plan, unit.name, digests, embeddings, bool(pictures.refused))
        seconds = {**pictures.seconds, "model": model_s, "write": time.perf_counter() - started}
        refused = pictures.refused
        return Receipt(
            unit=unit.name,
            files=tuple(files.values()),
            counts={"input": unit.num_images, "embedded": len(digests), "quarantined": len(refused)},
            seconds=seconds,
            detail={"shard": plan.shard, "pictures": digests, "refused": refused, "attributes": list(files)},
        )

    def read(self, encoded: Sequence[bytes]) -> list[torch.Tensor | BadSample]:
        """Decode files as `read_batch` does, where this model's decoder works."""
        return read_batch(encoded, self.loaded.preprocess, self._device)

    def _write(
        self, plan: PartPlan, name: str, digests: list[str], embeddings: np.ndarray, is_short: bool
    ) -> dict[str, FileEntry]:
        """Write a part's files; an extended part's in the order of its rows, none where one is missing."""
        names, extended = self.loaded.taxonomy.names, plan.extended
        values = said_of(self.loaded, embeddings)
        if extended is None:
            return write_part(self.lake, plan.model, name, names, digests, embeddings, values)
        if is_short:
            return {}
        with self.lake.checked(extended.rows) as path:
            rows = read_digests(path)
        place = {digest: position for position, digest in enumerate(digests)}
        order = [place[digest] for digest in rows]
        columns = [names.index(attribute) for attribute in extended.attributes]
        return write_part(
            self.lake,
            plan.model,
            name,
            extended.attributes,
            rows,
            embeddings[order][:, columns],
            {attribute: table.take(order) for attribute, table in values.items()},
        )

    def embed(self, pixels: torch.Tensor) -> np.ndarray:
        """Embed uint8 pixels [B, 3, S, S]; returns float32 [B, A, D] rounded to what is stored."""
        with self._lanes.free() as lane:
            return self.embed_through(lane, pixels)

    def embed_through(self, lane: Lane, pixels: torch.Tensor) -> np.ndarray:
        """Embed as `embed` does, by a lane that this thread has."""
        return round_to_half(lane.embed(pixels).numpy())


def choose_device(accelerator: str) -> str:
    """Return PyTorch's name of what to compute with.

    Raises:
        InvalidInput: if a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise InvalidInput(
            "accelerator gpu: expected PyTorch to find a GPU where the model is loaded, found none; give "
            "--embed.accelerator cpu or auto"
        )
    return "cuda" if has_gpu and accelerator != "cpu" else "cpu"


def _check_decoder(loaded: LoadedModel, device: torch.device, model: str) -> None:
    if loaded.preprocess.decoder == "nvjpeg" and device.type != "cuda":
        raise InvalidInput(
            f"model {model}: expected a GPU, since it was made for pictures that nvJPEG decodes, found none; "
            "embed on a node with one, or promote a model of --preprocess.decoder pillow"
        )


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
