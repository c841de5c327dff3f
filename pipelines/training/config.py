"""What a training is asked to do."""

from dataclasses import dataclass, field
from typing import Literal

from agman.model import ModelConfig
from agman.trainer import TrainerConfig
from agman.transforms import Augmentation, Preprocess
from pipelines.shards.plan import ShardOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training."""

    lake: str
    """Root of the lake: a local folder or s3://bucket/prefix."""
    source: str
    """Where labelled pictures come from; what is sharded already is used as it is."""
    dataset: str = "catalog"
    """Folder below shards/."""
    taxonomy: str = "auto"
    """`auto`: the data set's own, FashionAI's for a plain catalog; `fashionai`; or the path of a JSON file
    {"attributes": [{"name": …, "values": […]}]}."""
    name: str = "train"
    """Begins the run's name below runs/; the same settings on the same pictures resume what was stopped."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How pictures become tars."""
    network: ModelConfig = field(default_factory=ModelConfig)
    """Architecture."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """How pictures become the network's input."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of training pictures."""
    optimisation: TrainerConfig = field(default_factory=TrainerConfig)
    """Sampling, losses, optimizer and schedule."""
    num_workers: int = 2
    """Ray Train workers, on as many nodes as they need; each holds the model and streams its own share of the
    pictures. It is also how many batches a step learns from: with fewer workers, each learns from several."""
    min_workers: int = 0
    """Start, or go on after a loss, with as few workers as this, and take more when they come, up to
    `num_workers`: each change goes back to the last checkpoint. 0 waits for all of them."""
    cpus_per_worker: int = 1
    """CPUs that each worker reserves, to compute with and to decode the next pictures beside that."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU for each worker where there are any now, and no more workers than GPUs; `gpu` waits for
    them on a cluster and refuses to train without on one machine; `cpu` leaves them alone."""
    triplets_per_step: int = 16
    """Triplets of one batch; a step learns from `num_workers` of them, the paper's from 16 in all."""
    steps: int = 10_000
    """Optimizer steps. A finished run goes on where this or `max_minutes` is raised; under schedule cosine
    that also raises the rate of the steps that are left, since it falls to zero over the whole run."""
    validate_every: int = 1_000
    """Steps between validations; the full state is kept at each, and the best one becomes the model."""
    patience: int = 0
    """Stop after so many validations in a row without a better one; 0 does not stop early."""
    buffer_samples: int = 8_192
    """Decoded pictures of each share that are held to draw from, 3 x image_size² bytes each; a larger share
    flows through. Listed triplets need all of theirs."""
    max_minutes: float = 0
    """Stop cleanly after this time, that of a run's earlier attempts included, and keep the best so far; 0 is
    without limit."""

    def __post_init__(self) -> None:
        """Refuse what would fail later on a worker."""
        for name in (
            "num_workers",
            "cpus_per_worker",
            "triplets_per_step",
            "steps",
            "validate_every",
            "buffer_samples",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers: expected at most num_workers, {self.num_workers}, found {self.min_workers}"
            )
        for name in ("min_workers", "patience", "max_minutes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, found {getattr(self, name)}")
