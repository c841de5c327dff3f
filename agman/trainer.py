"""One training step, and a full state that goes on exactly where it stopped."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agman.embedder import native_dtype
from agman.errors import CheckpointMismatch, InvalidInput
from agman.losses import (
    LearnedWeighting,
    Mining,
    PaperWeighting,
    batch_triplet_loss,
    contrastive_loss,
    triplet_loss,
    type_loss,
    violating_share,
)
from agman.model import Network
from agman.random_state import random_state, restore_random_state
from agman.triplets import Triplets

_PAPER_DECAY = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """How the network learns; the defaults are the paper's."""

    sampling: Literal["paper", "batch"] = "paper"
    """`paper`: the drawn triplets alone; `batch`: every valid triplet among the drawn pictures."""
    loss: Literal["triplet", "contrastive"] = "triplet"
    """Under `batch`: the paper's triplets, or supervised contrastive, which learns sooner from scratch."""
    mining: Mining = "all"
    """Which of a batch's triplets count under `batch`."""
    temperature: float = 0.1
    """Of the contrastive loss: the cosine difference that changes an odds ratio by e."""
    margin: float = 0.2
    """Cosine by which a positive must be nearer than a negative."""
    classification: bool = True
    """Whether naming the attributes of a picture is learned too; False leaves the embedding loss alone."""
    weighting: Literal["paper", "learned"] = "paper"
    """Triplet against type loss: equal, as published, or by learned uncertainty. Under `paper` each picture
    of a drawn triplet is to be named by the drawn attribute alone; else by all that it is labelled with."""
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
    """Of the network's arithmetic: `bfloat16` is mixed precision, `auto` that where the processor has it.
    Weights, losses and optimizer are float32 always."""
    seed: int = 0
    """Of weights, draws and augmentation; read by whoever makes these."""

    def __post_init__(self) -> None:
        """Refuse what cannot be learned with."""
        for name in ("lr", "decay_steps", "temperature"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"expected {name} > 0, found {getattr(self, name)}")
        for name in ("margin", "weight_decay", "warmup_steps", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise InvalidInput(f"expected {name} >= 0, found {getattr(self, name)}")
        if self.loss == "contrastive" and self.sampling == "paper":
            raise InvalidInput(
                "loss contrastive needs a batch's labels: expected sampling batch, found paper; give "
                "--optimisation.sampling batch or --optimisation.loss triplet"
            )
        if self.mining != "all" and (self.sampling == "paper" or self.loss == "contrastive"):
            raise InvalidInput(
                f"mining {self.mining} chooses among a batch's triplets: expected sampling batch with loss "
                f"triplet, found {self.sampling} with {self.loss}; give --optimisation.mining all"
            )


class TrainingBatch(NamedTuple):
    """B pictures and N different (picture, attribute) pairs of them, each embedded once."""

    images: Tensor
    """[B, 3, H, W] normalised."""
    image_index: Tensor
    """[N] int64 in [0, B)."""
    attribute: Tensor
    """[N] int64."""
    targets: Tensor
    """[B, A] in {0, 1}: all attributes each picture is labelled with."""
    triplets: Tensor | None = None
    """[T, 3] pairs of anchor, positive, negative under `paper` sampling; None under `batch`."""
    shown: Tensor | None = None
    """[M, 2] pairs with a value that each shows, under `batch` sampling; None under `paper`."""


class TrainingStep(nn.Module):
    """Network, losses and their weights behind one forward call, which a distributed wrapper needs."""

    def __init__(self, model: Network, config: TrainerConfig) -> None:
        """Keep the model; it is trained in place, and its convolutions move to channels-last."""
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.config = config
        # Weights that nothing uses would get no gradient, and distributed training would wait for it.
        learned = config.weighting == "learned" and config.classification
        self.weighting = LearnedWeighting() if learned else PaperWeighting()
        if not config.classification:
            self.model.freeze_type_classifier()

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and detached scalars: loss, triplet, violating (a share), and type if learned."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        # The losses stay outside: cosines in bfloat16 are 0.004 apart, a fiftieth of the margin.
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_mixed(self.config, images.device)):
            features = self.model.features(images)
            embedded = self.model.embed(features, batch.image_index, batch.attribute).embedding
            logits = self.model.type_logits(features) if self.config.classification else None
        triplet, violating = self._triplet(embedded.float(), batch)
        figures = {"loss": triplet, "triplet": triplet, "violating": violating}
        if logits is not None:
            figures["type"] = self._type(logits.float(), batch)
            figures["loss"] = self.weighting(triplet, figures["type"])
        return figures["loss"], {name: figure.detach() for name, figure in figures.items()}

    def _triplet(self, embedded: Tensor, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        config = self.config
        # index_select, not indexing: its backward adds in a fixed order on a CPU, so runs repeat bitwise.
        if batch.triplets is not None:
            anchor, positive, negative = (embedded.index_select(0, rows) for rows in batch.triplets.unbind(1))
            loss = triplet_loss(anchor, positive, negative, config.margin)
            return loss, violating_share(anchor, positive, negative, config.margin)
        if batch.shown is None:
            raise InvalidInput("a training batch needs triplets or shown values, found neither")
        pairs, value = batch.shown.unbind(1)
        rows = (embedded.index_select(0, pairs), batch.attribute[pairs], value, batch.image_index[pairs])
        if config.loss == "contrastive":
            return contrastive_loss(*rows, temperature=config.temperature)
        return batch_triplet_loss(*rows, margin=config.margin, mining=config.mining)

    def _type(self, logits: Tensor, batch: TrainingBatch) -> Tensor:
        if batch.triplets is None or self.config.weighting == "learned":
            return type_loss(logits, batch.targets)
        # As published: each picture of each triplet against the drawn attribute, the mean over all three.
        members = batch.triplets.flatten()
        drawn = functional.one_hot(batch.attribute[members], logits.shape[1])
        return type_loss(logits.index_select(0, batch.image_index[members]), drawn)


class Trainer:
    """Optimizer, schedule and step count over a `TrainingStep`, wrapped for distribution or not."""

    def __init__(self, module: nn.Module, config: TrainerConfig, total_steps: int) -> None:
        """Build the optimizer.

        Args:
            module: a `TrainingStep`, or a distributed wrapper of one, on its device.
            config: see `TrainerConfig`.
            total_steps: length of the run, for the cosine schedule.
        """
        self.module = module
        self.config = config
        self.total_steps = total_steps
        self.step_count = 0
        inner = _unwrapped(module)
        groups = [
            {
                "params": [weights for weights in inner.model.parameters() if weights.requires_grad],
                "weight_decay": config.weight_decay,
            },
            # Decay would pull learned loss weights back to equal ones.
            {"params": list(inner.weighting.parameters()), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr)

    def step(self, *batches: TrainingBatch, weight: float = 1.0, time_share: float = 0.0) -> dict[str, float]:
        """Learn from one batch, or from several whose gradients are added.

        Args:
            batches: see `TrainingBatch`; at least one.
            weight: of each batch's gradient. A distributed wrapper averages over workers: with M batches on
                N workers, however they are dealt out, N / M makes the step's gradient the mean of all M.
            time_share: share of the run's time limit that is used up, 0 without a limit.

        Returns:
            loss, triplet, violating (share of triplets) and type if learned, as means over these batches; lr,
            gradient_norm (before clipping).

        Raises:
            InvalidInput: if the loss or the gradient's norm is not finite; the weights are those from before
                the step. The norm is of all workers' gradients, so that all refuse together.
        """
        self.module.train()
        step_size = learning_rate(self.config, self.step_count, self.total_steps, time_share)
        for group in self.optimizer.param_groups:
            group["lr"] = step_size
        self.optimizer.zero_grad(set_to_none=True)
        figures = self._add_gradients(batches, weight)
        trained = [weights for weights in self.module.parameters() if weights.grad is not None]
        norm = nn.utils.get_total_norm([weights.grad for weights in trained if weights.grad is not None])
        figures["gradient_norm"] = norm
        # One transfer for all figures: each would wait for the device.
        levels = dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))
        if not math.isfinite(levels["loss"] + levels["gradient_norm"]):
            raise InvalidInput(
                f"loss is {levels['loss']} at step {self.step_count}, the gradient's norm "
                f"{levels['gradient_norm']}: expected finite numbers; lower lr, set clip_norm, or begin with "
                "more warmup_steps"
            )
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(trained, self.config.clip_norm, norm)
        self.optimizer.step()
        self.step_count += 1
        return {**levels, "lr": step_size}

    def _add_gradients(self, batches: Sequence[TrainingBatch], weight: float) -> dict[str, Tensor]:
        """Run batches forward and backward; a distributed wrapper adds the others' at the last one."""
        alone = getattr(self.module, "no_sync", nullcontext)
        all_figures = []
        for place, batch in enumerate(batches, start=1):
            with nullcontext() if place == len(batches) else alone():
                loss, figures = self.module(batch)
                (weight * loss).backward()
            all_figures.append(figures)
        return {
            name: torch.stack([figures[name] for figures in all_figures]).mean() for name in all_figures[0]
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on: tensors and plain values, safe to read weights-only.

        The schedule is a pure function of the step; the learned loss weights are part of the module.
        """
        return {
            "module": _unwrapped(self.module).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_count,
            "random": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where another trainer was.

        Raises:
            CheckpointMismatch: if the state is another network's or another weighting's.
        """
        try:
            _unwrapped(self.module).load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointMismatch(f"the training state does not fit this training: {error}") from error
        self.step_count = state["step"]
        restore_random_state(state["random"])


def is_mixed(config: TrainerConfig, device: torch.device) -> bool:
    """Tell whether the network computes in bfloat16 on a device."""
    native = config.precision == "auto" and native_dtype(device) is torch.bfloat16
    return native or config.precision == "bfloat16"


def learning_rate(config: TrainerConfig, step: int, total_steps: int, time_share: float = 0.0) -> float:
    """Return Adam's step size at a step, counted from 0.

    The cosine follows steps or time, whichever is further: a run that its time limit ends has come to rest.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "paper":
        return config.lr * _PAPER_DECAY ** (step // config.decay_steps)
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, max(done, time_share))))
    return config.lr


def index_triplets(
    triplets: Triplets,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the distinct pictures and (picture, attribute) rows of T triplets, so that each is computed once.

    Returns:
        slots [B] of the pictures, image_index [N] into them, attribute [N], triplets [T, 3] as rows.
    """
    members = np.stack((triplets.anchor, triplets.positive, triplets.negative), axis=1)
    slots, image_of = np.unique(members, return_inverse=True)
    pairs = np.stack((image_of.reshape(-1), np.repeat(triplets.attribute, 3)), axis=1)
    rows, row_of = np.unique(pairs, axis=0, return_inverse=True)
    return slots, rows[:, 0].copy(), rows[:, 1].copy(), row_of.reshape(-1, 3)


def index_labels(
    labels: Sequence[Mapping[int, Sequence[int]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """List every (picture, attribute) pair that B pictures are labelled with, and the values of each.

    Args:
        labels: by picture, attribute index -> value indices.

    Returns:
        image_index [N], attribute [N], shown [M, 2]: a pair and a value of it.
    """
    pairs = [
        (image, attribute)
        for image, shown in enumerate(labels)
        for attribute, values in shown.items()
        if values
    ]
    values_of = [
        (pair, value)
        for pair, (image, attribute) in enumerate(pairs)
        for value in dict.fromkeys(labels[image][attribute])
    ]
    columns = np.array(pairs, np.int64).reshape(-1, 2).T
    return columns[0].copy(), columns[1].copy(), np.array(values_of, np.int64).reshape(-1, 2)


def _unwrapped(module: nn.Module) -> TrainingStep:
    """Return the step inside a distributed wrapper: a state must load with any number of workers."""
    inner = module if isinstance(module, TrainingStep) else getattr(module, "module", module)
    if not isinstance(inner, TrainingStep):
        raise InvalidInput(f"expected a TrainingStep or a wrapper of one, found {type(inner).__name__}")
    return inner
