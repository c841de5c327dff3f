"""Processes that learn from batches together, as Ray Train's workers do: a module that they can import."""

from pathlib import Path

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from agman.model import ModelConfig
from agman.networks import build_network
from agman.trainer import Trainer, TrainerConfig, TrainingBatch, TrainingStep

CONFIG = TrainerConfig(sampling="batch", weighting="learned", lr=1e-12)
"""A step that moves nothing, so that each leaves the gradients of the same weights."""


def make_step() -> TrainingStep:
    """Return the same network everywhere."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return TrainingStep(build_network(ModelConfig(trunk="resnet18", embedding_dim=16), 2), CONFIG)


def gradients(trainer: Trainer) -> list[torch.Tensor]:
    """Return what the last step's backward passes left."""
    return [p.grad for p in trainer.module.parameters() if p.grad is not None]


def learn_as(rank: int, num_ranks: int, batches: list[TrainingBatch], steps: int, folder: Path) -> None:
    """Learn from every num_ranks-th batch as one of several ranks, and leave the gradients in a file."""
    store = torch.distributed.FileStore(str(folder / "store"), num_ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=num_ranks)
    trainer = Trainer(DistributedDataParallel(make_step()), CONFIG, total_steps=20)
    for _ in range(steps):
        trainer.step(*batches[rank::num_ranks], weight=num_ranks / len(batches))
    torch.save(gradients(trainer), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
