"""One rank of a training without Ray: the network, its shares of the pictures, and how far they are."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agman.networks import build_network
from agman.taxonomy import Taxonomy
from agman.trainer import Trainer, TrainingBatch, TrainingStep, index_labels, index_triplets
from agman.transforms import augment, normalise
from agman.triplets import Triplets
from pipelines.dataset import ListedTriplets
from pipelines.labels import Labels
from pipelines.training.config import TrainConfig
from pipelines.training.listed import ListedPictures, ListedPool
from pipelines.training.pictures import TrainingPictures
from pipelines.training.samples import SamplePool

SEEDS_BETWEEN_SHARES = 1000


class Pool(Protocol):
    """Decoded pictures by slot, and where the triplets over them come from."""

    def draw(self, num_triplets: int) -> Triplets:
        """Return the next triplets, of slots."""
        ...

    def pixels(self, slots: np.ndarray) -> Tensor:
        """Return pictures by slot: [B, 3, S, S] uint8."""
        ...

    def labels(self, slots: np.ndarray) -> list[Labels]:
        """Return labels by slot: attribute index -> value indices."""
        ...

    def refresh(self, num_pictures: int) -> None:
        """Let fresh pictures in where not all are held."""
        ...

    def notes(self) -> list[str]:
        """Tell what is left out."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` of a new pool needs to go on exactly here."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another pool was."""
        ...


class ShareBatches:
    """The batches of one share: its pool of pictures, its draws and its augmentation."""

    def __init__(
        self, config: TrainConfig, taxonomy: Taxonomy, pool: Pool, device: torch.device, *, seed: int
    ) -> None:
        """Begin with a pool as it is.

        Args:
            config: see `TrainConfig`.
            taxonomy: attributes and values to learn.
            pool: the share's pictures.
            device: of the batches.
            seed: of the augmentation.
        """
        self.pool = pool
        self._config, self._taxonomy, self._device = config, taxonomy, device
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self) -> TrainingBatch:
        """Make the next batch: every picture once, however many triplets it is in."""
        config, pool = self._config, self.pool
        slots, image_index, attribute, triplets = index_triplets(pool.draw(config.triplets_per_step))
        labels = pool.labels(slots)
        shown = None
        if config.optimisation.sampling == "batch":
            image_index, attribute, shown = index_labels(labels)
        pixels = augment(pool.pixels(slots).to(self._device), self._generator, config.augmentation)
        pool.refresh(config.triplets_per_step)
        return TrainingBatch(
            images=normalise(pixels, config.preprocess),
            image_index=self._tensor(image_index),
            attribute=self._tensor(attribute),
            targets=self._targets(labels),
            triplets=None if shown is not None else self._tensor(triplets),
            shown=None if shown is None else self._tensor(shown),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next batch depends on."""
        return {"pool": self.pool.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one of this share was."""
        self.pool.load_state_dict(state["pool"])
        self._generator.set_state(state["generator"])

    def _targets(self, labels: list[Labels]) -> Tensor:
        """Return which attributes each picture is labelled with: [B, A]."""
        targets = torch.zeros(len(labels), len(self._taxonomy))
        for row, shown in enumerate(labels):
            targets[row, list(shown)] = 1.0
        return targets.to(self._device)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


class Learner:
    """A rank's trainer and its shares: each step depends on the states of these alone.

    The pictures are always split in as many shares as workers were asked for, and a step learns from a batch
    of each. A rank has several where there are fewer ranks; what is learned is the same but for rounding.
    """

    def __init__(
        self,
        config: TrainConfig,
        taxonomy: Taxonomy,
        pictures: TrainingPictures,
        listed: ListedTriplets | None = None,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        device: torch.device | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        """Build the network and read the first pictures.

        Args:
            config: see `TrainConfig`.
            taxonomy: attributes and values to learn.
            pictures: all of them; the rank takes its shares.
            listed: the triplets to learn, where the data set lists them.
            rank: of this worker.
            num_ranks: that learn together, at most `num_workers`.
            device: of the network; the CPU if left out.
            wrap: moves the step to the device and makes it a distributed one.

        Raises:
            InvalidInput: if there is nothing to learn from.
        """
        self.config = config
        self.device = device or torch.device("cpu")
        options = config.optimisation
        # The same start on every rank; draws differ by share.
        torch.manual_seed(options.seed)
        self.model = build_network(config.network, len(taxonomy))
        self.trainer = Trainer(wrap(TrainingStep(self.model, options)), options, config.steps)
        pools = _open_pools(
            config, taxonomy, pictures, listed, rank_shares(rank, num_ranks, config.num_workers)
        )
        self.shares = {
            share: ShareBatches(config, taxonomy, pool, self.device, seed=_seed(config, share))
            for share, pool in pools.items()
        }
        self._weight = num_ranks / config.num_workers
        self.waited_s = 0.0
        """Time spent on making batches, of `worked_s`."""
        self.worked_s = 0.0
        self.num_images = 0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.trainer.step_count

    def learn(self, time_share: float = 0.0) -> dict[str, float]:
        """Draw a batch of each share and learn from them.

        Args:
            time_share: share of the run's time limit that is used up.

        Returns:
            The figures of `Trainer.step`.
        """
        started = time.perf_counter()
        batches = [share.batch() for share in self.shares.values()]
        drawn = time.perf_counter()
        figures = self.trainer.step(*batches, weight=self._weight, time_share=time_share)
        self.waited_s += drawn - started
        self.worked_s += time.perf_counter() - started
        self.num_images += sum(len(batch.images) for batch in batches)
        return figures


class Patience:
    """The best validation so far, and how many came after it without being better."""

    def __init__(self, limit: int) -> None:
        """Start before the first validation; `limit` in a row without improvement end it, 0 never does."""
        self.limit = limit
        self.best = 0.0
        self.num_worse = 0

    @property
    def is_spent(self) -> bool:
        """Whether training should stop."""
        return 0 < self.limit <= self.num_worse

    def record(self, score: float) -> None:
        """Take a validation's score in [0, 1]."""
        self.num_worse = 0 if score > self.best else self.num_worse + 1
        self.best = max(self.best, score)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the count."""
        return {"best": self.best, "num_worse": self.num_worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.best, self.num_worse = float(state["best"]), int(state["num_worse"])


class Clock:
    """How much of a time limit is used, over all attempts of a run."""

    def __init__(self, limit_s: float, started: float) -> None:
        """Start with this attempt; a `limit_s` of 0 never ends it.

        Args:
            limit_s: of all attempts together.
            started: wall-clock time at which this attempt began: what a crash costs counts.
        """
        self.limit_s = limit_s
        self.started = started
        self._earlier_s = 0.0

    def share(self, now: float) -> float:
        """Return how much of the limit is used at a wall-clock time: 1 and more is over."""
        return (self._earlier_s + now - self.started) / self.limit_s if self.limit_s else 0.0

    def state_dict(self, now: float) -> dict[str, float]:
        """Return what another attempt goes on from."""
        return {
            "started": self.started,
            "earlier_s": self._earlier_s,
            "elapsed_s": self._earlier_s + now - self.started,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from another attempt, or from this one, whose workers were started again."""
        is_same = state["started"] == self.started
        self._earlier_s = float(state["earlier_s" if is_same else "elapsed_s"])


def rank_shares(rank: int, num_ranks: int, num_shares: int) -> range:
    """Return the shares of a rank: each share is one rank's, and rank 0 has as many as any other."""
    return range(rank, num_shares, num_ranks)


def _open_pools(
    config: TrainConfig,
    taxonomy: Taxonomy,
    pictures: TrainingPictures,
    listed: ListedTriplets | None,
    shares: range,
) -> dict[int, Pool]:
    capacity, num_shares = config.buffer_samples, config.num_workers
    if listed is not None:
        read = ListedPictures(pictures.share(0, 1), listed, config.preprocess, capacity=capacity)
        seed = config.optimisation.seed
        return {s: ListedPool(read, listed, share=s, num_shares=num_shares, seed=seed) for s in shares}
    return {
        share: SamplePool(
            pictures.share(share, num_shares),
            taxonomy,
            config.preprocess,
            capacity=capacity,
            seed=_seed(config, share),
            threads=config.cpus_per_worker,
        )
        for share in shares
    }


def _seed(config: TrainConfig, share: int) -> int:
    return config.optimisation.seed + SEEDS_BETWEEN_SHARES * share
