"""Two units in one actor: one is read while the model has the other one."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.decoding import Batch, Decoded
from pipelines.embedding import EmbedOptions, PartEmbedder, plan_part
from pipelines.lake import Lake
from pipelines.models import import_model
from pipelines.parts import read_embeddings
from pipelines.storage.objects import FileEntry

READY_S = 60


@dataclass(frozen=True)
class Watched(Decoded):
    """Says when its pictures are taken."""

    is_read: threading.Event = field(default_factory=threading.Event)

    def batches(self, size: int) -> Iterator[Batch]:
        self.is_read.set()
        yield from super().batches(size)


def watched(seed: int) -> Watched:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, 64, 64), np.uint8)
    digests = tuple(f"{seed:x}{number:063x}" for number in range(2))
    return Watched(digests, pixels, [], {"read": 0.0, "decode": 0.0})


def test_a_unit_is_read_while_another_one_has_the_model(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    embedder = PartEmbedder(
        lake, import_model(lake, tiny_model), EmbedOptions(batch_size=1, accelerator="cpu")
    )
    units, pictures = [], [watched(0), watched(1)]
    for number, each in enumerate(pictures):
        entry = FileEntry(f"shards/{number}.tar", 0, "", len(each.digests))
        units.append(plan_part(f"s{number}", (entry,), f"m{number}", each.digests))
    alone = [embedder.embed(torch.from_numpy(each.pixels)) for each in pictures]
    has_model = threading.Lock()
    embed = embedder.embed

    def one_at_a_time(pixels: torch.Tensor) -> np.ndarray:
        assert has_model.acquire(blocking=False), "two threads had the model at once"
        try:
            assert all(each.is_read.wait(READY_S) for each in pictures), "the other unit waits to be read"
            return embed(pixels)
        finally:
            has_model.release()

    monkeypatch.setattr(embedder, "embed", one_at_a_time)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(embedder.run, units, pictures))
    for receipt, each, expected in zip(made, pictures, alone, strict=True):
        with lake.checked(receipt.files[0]) as path:
            digests, found = read_embeddings(path)
        assert digests == list(each.digests)
        np.testing.assert_allclose(found, expected[:, 0], atol=2e-3)
