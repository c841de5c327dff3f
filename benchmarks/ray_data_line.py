"""Shards embedded as one does it with Ray Data: what `line.py` compares the line with."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext

from agman.checkpoint import LoadedModel
from agman.errors import BadSample
from agman.transforms import Preprocess, read_pixels
from pipelines.embedding import EmbedOptions, PartEmbedder
from pipelines.lake import Lake

Batch = dict[str, np.ndarray]
ACTOR_CPUS = 0.5
"""A pool that holds every CPU waits for ever for its own readers."""


class Embed:
    """The line's embedder in a pool of Ray Data: pixels [B, 3, S, S] in, a column of each attribute out."""

    def __init__(self, lake: Lake, model: str, options: EmbedOptions) -> None:
        """Load the model."""
        self._embedder = PartEmbedder(lake, model, options)

    def __call__(self, batch: Batch) -> pa.Table:
        """Embed a batch."""
        embeddings = self._embedder.embed(torch.from_numpy(batch["pixels"].copy()))
        columns = {"sha256": pa.array(batch["sha256"])}
        for index, attribute in enumerate(self._embedder.loaded.taxonomy.names):
            components = pa.array(np.ascontiguousarray(embeddings[:, index]).reshape(-1), pa.float32())
            columns[attribute] = pa.FixedSizeListArray.from_arrays(components, embeddings.shape[2])
        return pa.table(columns)


def decode(preprocess: Preprocess, batch: Batch) -> Batch:
    """Decode a batch of samples by the line's reading rule; a broken picture is dropped."""
    digests, pixels = [], []
    for digest, encoded in zip(batch["__key__"], batch["jpg"], strict=True):
        try:
            pixels.append(read_pixels(encoded, preprocess).numpy())
        except BadSample:
            continue
        digests.append(digest)
    return {"sha256": np.array(digests), "pixels": np.stack(pixels)}


def ray_data_line(
    tars: Sequence[str],
    lake: Lake,
    model: str,
    loaded: LoadedModel,
    options: EmbedOptions,
    num_workers: int,
    output: Path,
) -> None:
    """Read tars, decode, embed with a pool of actors, and write Parquet with the line's encoding.

    Args:
        tars: local paths.
        lake: where the model is.
        model: its id.
        loaded: the same, for its names and its preprocessing.
        options: how an actor embeds.
        num_workers: actors of the pool.
        output: folder of the Parquet files.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    samples = ray.data.read_webdataset(list(tars), decoder=None)
    decoded = samples.map_batches(partial(decode, loaded.preprocess), batch_size=options.batch_size)
    embedded = decoded.map_batches(
        Embed,
        batch_size=options.batch_size,
        fn_constructor_args=(lake, model, options),
        compute=ActorPoolStrategy(size=num_workers),
        num_cpus=ACTOR_CPUS,
    )
    encodings = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in loaded.taxonomy.names}
    embedded.write_parquet(
        str(output),
        compression="zstd",
        use_dictionary=False,
        column_encoding={**encodings, "sha256": "PLAIN"},
    )
