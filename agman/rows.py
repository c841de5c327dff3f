"""Learn an attribute's rows on a network that stays as it is.

What every attribute looks at is computed once for each picture; a step then costs two small products, so that
hundreds of steps never touch the trunk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from agman.errors import InvalidInput
from agman.losses import contrastive_loss
from agman.model import AGMAN
from agman.trainer import TrainerConfig, learning_rate

CHUNK = 256
"""Pictures that are embedded at once."""
OPEN = 0.1
"""Least weight of a channel at the start: one that is shut would get no gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsConfig:
    """How an attribute's rows are learned."""

    steps: int = 600
    """Steps of Adam, its step size falling to zero by a cosine."""
    pictures_per_step: int = 128
    """Pictures of a step; rare values are drawn as often as common ones."""
    lr: float = 0.02
    """Step size at its height."""
    temperature: float = 0.1
    """Of the supervised contrastive loss."""
    judge_every: int = 50
    """Steps between validations; the best rows are kept."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        """Refuse what cannot be learned with."""
        for name in ("steps", "pictures_per_step", "lr", "temperature", "judge_every"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"expected {name} > 0, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Rows:
    """What AG-MAN's head knows of one attribute."""

    question: Tensor
    """[D], a row of `attr_embedding`."""
    mask: Tensor
    """[D], a row of `masks`."""

    def embed(self, network: AGMAN, features: Tensor) -> Tensor:
        """Embed pictures under the attribute: [N, D] from features [N, D, H, W] of an `Embedder`."""
        every = torch.arange(len(features), device=features.device)
        rows = (row.expand(len(features), -1) for row in (self.question, self.mask))
        return network.look(features.float(), every, *rows).embedding

    @torch.no_grad()
    def embed_all(self, network: AGMAN, features: Tensor) -> Tensor:
        """Embed many pictures, some at a time."""
        return torch.cat([self.embed(network, chunk) for chunk in torch.split(features, CHUNK)])


@dataclass(frozen=True, slots=True)
class Learned:
    """The rows that were kept."""

    rows: Rows
    step: int
    score: float
    """Of the validation; 0 where nothing judged."""


def learn_rows(
    network: AGMAN,
    features: Tensor,
    shown: Tensor,
    config: RowsConfig,
    judge: Callable[[Rows], float] | None = None,
) -> Learned:
    """Learn an attribute's rows.

    Args:
        network: in eval mode; none of its tensors is changed.
        features: [N, D, H, W] of `Embedder.embed_with_features`, of any floating type.
        shown: [N, V] bool, the values that each picture shows.
        config: see `RowsConfig`.
        judge: scores rows, higher is better; without it the last ones are kept.

    Raises:
        InvalidInput: if no two values are shown, by two pictures at least.
    """
    counts = shown.sum(dim=0)
    if int((counts > 1).sum()) < 2:
        raise InvalidInput(
            "labelled pictures: expected at least two values that two pictures each show, found "
            f"{int((counts > 1).sum())}; nothing can be learned from that"
        )
    network.requires_grad_(False)
    draws = torch.Generator().manual_seed(config.seed)
    chance = (shown / counts.clamp(min=1)).sum(dim=1)

    def draw() -> Tensor:
        drawn = min(config.pictures_per_step, int((chance > 0).sum()))
        return torch.multinomial(chance, drawn, generator=draws)

    start = _best_start(network, features, shown, draw(), config)
    rows = Rows(*(torch.nn.Parameter(row.clone()) for row in (start.question, start.mask)))
    optimiser = torch.optim.Adam([rows.question, rows.mask])
    schedule = TrainerConfig(lr=config.lr, schedule="cosine")
    best = Learned(start, 0, judge(start) if judge else 0.0)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(schedule, step, config.steps)
        optimiser.zero_grad()
        _loss(network, features, shown, draw(), rows, config).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        is_last = step + 1 == config.steps
        if is_last or (judge and (step + 1) % config.judge_every == 0):
            now = Rows(rows.question.detach().clone(), rows.mask.detach().clone())
            score = judge(now) if judge else 0.0
            if score >= best.score:
                best = Learned(now, step + 1, score)
    return best


def set_rows(network: AGMAN, attribute: int, rows: Rows) -> None:
    """Put learned rows into a network's tables."""
    with torch.no_grad():
        network.attr_embedding.weight[attribute] = rows.question
        network.masks.weight[attribute] = rows.mask


def _best_start(network: AGMAN, features: Tensor, shown: Tensor, drawn: Tensor, config: RowsConfig) -> Rows:
    """Return the rows of the known attribute that tells the new one's values best, with no channel shut."""
    with torch.no_grad():
        tables = zip(network.attr_embedding.weight, network.masks.weight, strict=True)
        starts = [Rows(question, mask.clamp(min=OPEN)) for question, mask in tables]
        losses = [float(_loss(network, features, shown, drawn, start, config)) for start in starts]
    return starts[losses.index(min(losses))]


def _loss(
    network: AGMAN, features: Tensor, shown: Tensor, drawn: Tensor, rows: Rows, config: RowsConfig
) -> Tensor:
    """The supervised contrastive loss of drawn pictures [B]; one of several values counts with each."""
    picture, value = shown[drawn].nonzero(as_tuple=True)
    embedded = rows.embed(network, features[drawn]).index_select(0, picture)
    attribute = torch.zeros_like(value)
    return contrastive_loss(embedded, attribute, value, picture, temperature=config.temperature).loss
