"""Shards of drawn pictures and a model of random weights, for benchmarks of what follows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from agman.checkpoint import save_model
from agman.model import AGMAN, ModelConfig
from agman.taxonomy import FASHIONAI
from agman.transforms import Preprocess
from pipelines.lake import Lake
from pipelines.models import import_model
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.scheduling import Receipt
from pipelines.shards.plan import ShardOptions
from pipelines.telemetry import Run


@dataclass(frozen=True, slots=True)
class MadeShard:
    """A shard of a lake."""

    receipt: Receipt
    digests: list[str]
    """sha256 of its pictures."""


def make_model(lake: Lake, folder: Path, trunk: str, preprocess: Preprocess) -> str:
    """Publish a model of random weights for FashionAI's attributes; returns its id."""
    torch.manual_seed(0)
    network = AGMAN(ModelConfig(trunk=trunk), len(FASHIONAI)).eval()
    save_model(network, FASHIONAI, preprocess, folder)
    return import_model(lake, folder)


def make_shards(lake: Lake, source: str, images_per_shard: int, benchmark: str) -> list[MadeShard]:
    """Fetch and pack a source's pictures, on a connected Ray.

    Args:
        lake: where.
        source: as `--source` of a night.
        images_per_shard: of a tar.
        benchmark: names the run.
    """
    shards = ShardOptions(images_per_shard=images_per_shard)
    config = NightConfig(lake=lake.url, source=source, shards=shards)
    build_shards(config, Run(benchmark, config, lake))
    return list(_made(lake))


def _made(lake: Lake) -> Iterator[MadeShard]:
    for name in sorted(lake.store.list_names("receipts/shards")):
        receipt = Receipt.from_json(json.loads(lake.store.read(name).body))
        with lake.checked(receipt.files[1]) as path:
            yield MadeShard(receipt, pq.read_table(path, columns=["sha256"])["sha256"].to_pylist())
