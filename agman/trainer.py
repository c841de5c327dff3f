"""One training step, and a full state that goes on exactly where it stopped."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agman.embedder import native_dtype
from agman.errors import InvalidInput
from agman.losses import LearnedWeighting, Mining, PaperWeighting, batch_triplet_loss, triplet_loss, type_loss
from agman.model import AGMAN
from agman.triplets import Triplets


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """How the network learns; the defaults are the paper's."""

    sampling: Literal["paper", "batch"] = "paper"
    """`paper`: the drawn triplets alone; `batch`: every valid triplet among the drawn pictures."""
    mining: Mining = "all"
    """Which of a batch's triplets count under `batch`."""
    margin: float = 0.2
    """Cosine by which a positive must be nearer than a negative."""
    weighting: Literal["paper", "learned"] = "paper"
    """Triplet against type loss: equal, or by learned uncertainty."""
    lr: float = 1e-4
    """Adam's step size at its height."""
    weight_decay: float = 0.0
    """Decoupled decay per step, times lr; 0 is plain Adam."""
    schedule: Literal["paper", "cosine", "constant"] = "paper"
    """`paper`: times 0.9 every `decay_steps`; `cosine`: to zero over the run."""
    decay_steps: int = 18_750
    """Steps between decays: 3 epochs of 100,000 triplets at 16 a step."""
    warmup_steps: int = 0
    """Steps of linear rise to `lr`."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """`bfloat16` computes in mixed precision, weights stay float32; `auto` where the processor has it."""
    seed: int = 0
    """Of weights, draws and augmentation."""

    def __post_init__(self) -> None:
        """Refuse what cannot be learned with."""
        if self.lr <= 0 or self.margin < 0 or self.decay_steps < 1 or self.warmup_steps < 0:
            raise InvalidInput(
                f"expected lr > 0, margin >= 0, decay_steps >= 1, warmup_steps >= 0; found {self.lr}, "
                f"{self.margin}, {self.decay_steps}, {self.warmup_steps}"
            )


class TrainingBatch(NamedTuple):
    """B pictures and N (picture, attribute) rows over them."""

    images: Tensor
    """[B, 3, H, W] normalised."""
    image_index: Tensor
    """[N] int64 in [0, B)."""
    attribute: Tensor
    """[N] int64."""
    value: Tensor
    """[N] int64 within the attribute; read under `batch` sampling alone."""
    targets: Tensor
    """[B, A] in {0, 1}: which attributes each picture is labelled with."""
    triplets: Tensor | None
    """[T, 3] rows of anchor, positive, negative under `paper` sampling; None under `batch`."""


class TrainingStep(nn.Module):
    """Network, losses and their weights behind one forward call, which a distributed wrapper needs."""

    def __init__(self, model: AGMAN, config: TrainerConfig) -> None:
        """Keep the model; it is trained in place."""
        super().__init__()
        self.model = model
        self.config = config
        self.weighting = LearnedWeighting() if config.weighting == "learned" else PaperWeighting()

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and figures about it, detached."""
        features = self.model.features(batch.images)
        embedded = self.model.embed(features, batch.image_index, batch.attribute).embedding.float()
        if batch.triplets is None:
            triplet, violating = batch_triplet_loss(
                embedded,
                batch.attribute,
                batch.value,
                batch.image_index,
                margin=self.config.margin,
                mining=self.config.mining,
            )
        else:
            anchor, positive, negative = (embedded[batch.triplets[:, i]] for i in range(3))
            triplet = triplet_loss(anchor, positive, negative, self.config.margin)
            nearer = (anchor * positive).sum(1) - (anchor * negative).sum(1)
            violating = (nearer < self.config.margin).float().mean()
        kind = type_loss(self.model.type_logits(features).float(), batch.targets)
        loss = self.weighting(triplet, kind)
        figures = {"loss": loss, "triplet": triplet, "type": kind, "violating": violating}
        return loss, {name: figure.detach() for name, figure in figures.items()}


class Trainer:
    """Optimizer, schedule and step count over a `TrainingStep`, wrapped for distribution or not."""

    def __init__(self, module: nn.Module, config: TrainerConfig, total_steps: int) -> None:
        """Build the optimizer.

        Args:
            module: a `TrainingStep`, or a wrapper of one.
            config: see `TrainerConfig`.
            total_steps: length of the run, for the cosine schedule.
        """
        self.module = module
        self.config = config
        self.total_steps = total_steps
        self.step_count = 0
        device = next(module.parameters()).device
        native = native_dtype(device) is torch.bfloat16
        self.mixed = config.precision == "bfloat16" or (config.precision == "auto" and native)
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """Learn from one batch and return its figures."""
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step_count, self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            loss, figures = self.module(batch._replace(images=images))
        loss.backward()
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.step_count += 1
        return {name: float(figure) for name, figure in figures.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, as tensors and plain values: loads with weights_only."""
        return {
            "module": _plain(self.module).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_count,
            "random": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where another trainer was."""
        _plain(self.module).load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_count = state["step"]
        restore_random_state(state["random"])


def learning_rate(config: TrainerConfig, step: int, total_steps: int) -> float:
    """Return Adam's step size at a step, counted from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "paper":
        return config.lr * 0.9 ** (step // config.decay_steps)
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr


def index_triplets(triplets: Triplets) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the distinct pictures and (picture, attribute) rows of drawn triplets, so that each is computed once.

    Returns:
        slots [B] of the pictures, image_index [N], attribute [N], triplets [T, 3] as rows.
    """
    members = np.stack((triplets.anchor, triplets.positive, triplets.negative), axis=1)
    slots, image_of = np.unique(members, return_inverse=True)
    pairs = np.stack((image_of.reshape(-1), np.repeat(triplets.attribute, 3)), axis=1)
    rows, row_of = np.unique(pairs, axis=0, return_inverse=True)
    return slots, rows[:, 0].copy(), rows[:, 1].copy(), row_of.reshape(-1, 3)


def index_labels(
    labels: Sequence[Mapping[int, Sequence[int]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List every (picture, attribute, value) that the labels of B pictures say.

    Returns:
        image_index [N], attribute [N], value [N].
    """
    rows = [
        (image, attribute, value)
        for image, shown in enumerate(labels)
        for attribute, values in shown.items()
        for value in values
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return columns[0].copy(), columns[1].copy(), columns[2].copy()


def random_state() -> dict[str, Any]:
    """Return the global random states of torch, numpy and Python as tensors and plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _plain(module: nn.Module) -> nn.Module:
    """Return the module inside a distributed wrapper: a state must load with any number of workers."""
    inner = getattr(module, "module", module)
    assert isinstance(inner, nn.Module)
    return inner
