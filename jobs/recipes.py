"""Named configurations: the good ones, in code, to start from and to vary by flags."""

from dataclasses import replace

from agman.backbone import IMAGENET
from agman.model import ModelConfig
from agman.trainer import TrainerConfig
from agman.transforms import Augmentation, Preprocess
from pipelines.embedding import EmbedOptions
from pipelines.night import NightConfig
from pipelines.shards.plan import ShardOptions
from pipelines.training.config import TrainConfig

LAKE = "./lake"
PICTURES = "./pictures"
DEMO_LAKE = "./demo-lake"
DEMO_IMAGES = 3000
PAPER_BATCH = 16
DEMO_SOURCE = f"generated:num_images={DEMO_IMAGES},seed=0,night=1"

NIGHT = {
    "catalog": ("a shop's own catalog", NightConfig(lake=LAKE, source=PICTURES)),
    "cluster": (
        "the same on a cluster that grows from nothing: 4 workers with a GPU each, CPU nodes decode for them",
        NightConfig(
            lake=LAKE,
            source=PICTURES,
            # 8 tasks decode what one GPU embeds; the object store holds 40 shards, 3 GB at 224 pixels.
            embed=EmbedOptions(accelerator="gpu", num_workers=4, threads=2, decoders=32),
        ),
    ),
    "demo": (
        "the generated demo catalog",
        NightConfig(lake=DEMO_LAKE, source=DEMO_SOURCE, shards=ShardOptions(images_per_shard=256)),
    ),
}

_DEMO = TrainConfig(
    lake=DEMO_LAKE,
    source=DEMO_SOURCE,
    name="train-demo",
    shards=ShardOptions(images_per_shard=256),
    network=ModelConfig(trunk="resnet18", embedding_dim=128),
    preprocess=Preprocess(image_size=56),
    augmentation=Augmentation(flip=True, max_shift=0.04, max_zoom=0.08, max_colour=0.1),
    optimisation=TrainerConfig(
        sampling="batch",
        loss="contrastive",
        lr=2e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_steps=30,
        precision="auto",
    ),
    triplets_per_step=11,
    steps=900,
    validate_every=300,
    max_minutes=6.5,
)

_OURS = TrainerConfig(
    sampling="batch",
    loss="contrastive",
    weighting="learned",
    lr=3e-4,
    weight_decay=0.02,
    schedule="cosine",
    warmup_steps=500,
    clip_norm=5.0,
    precision="auto",
)
"""Every labelled pair of a batch counts, all of a picture's attributes are named."""

_FASHIONAI = TrainConfig(
    lake=LAKE,
    source="fashionai:./data/FashionAI",
    dataset="fashionai",
    name="train-fashionai",
    network=ModelConfig(pretrained=IMAGENET),
    augmentation=Augmentation(flip=True, max_shift=0.04, max_zoom=0.08, max_colour=0.1),
    optimisation=_OURS,
    steps=60_000,
    validate_every=2_000,
    patience=8,
)
_DEEPFASHION = replace(
    _FASHIONAI, source="deepfashion:./data/DeepFashion", dataset="deepfashion", name="train-deepfashion"
)
_ZAPPOS50K = replace(
    _FASHIONAI,
    source="zappos50k:./data/Zappos50k",
    dataset="zappos50k",
    name="train-zappos50k",
    preprocess=Preprocess(image_size=112),
    optimisation=replace(_OURS, sampling="paper", loss="triplet", classification=False),
    buffer_samples=51_000,
)


def _as_published(
    ours: TrainConfig,
    epochs: int,
    *,
    epoch_triplets: int = 100_000,
    buffer_samples: int,
    classification: bool = True,
) -> TrainConfig:
    """Return the paper's settings: Adam at 1e-4, 16 triplets a step, lr x 0.9 every 3 epochs, flips alone.

    One worker draws all 16 and holds every picture: two would normalise batches of 8 each, and a flowing pool
    draws from a part of the data set.
    """
    epoch_steps = epoch_triplets // PAPER_BATCH
    return replace(
        ours,
        name=f"{ours.name}-paper",
        preprocess=Preprocess(),
        augmentation=Augmentation(),
        optimisation=TrainerConfig(decay_steps=3 * epoch_steps, classification=classification),
        num_workers=1,
        triplets_per_step=PAPER_BATCH,
        steps=epochs * epoch_steps,
        validate_every=epoch_steps,
        patience=0,
        buffer_samples=buffer_samples,
    )


TRAIN = {
    "catalog": (
        "a shop's own labelled catalog: ResNet-50 at 224 pixels; --network.pretrained imagenet starts better",
        TrainConfig(lake=LAKE, source=PICTURES, optimisation=_OURS),
    ),
    "fashionai": ("FashionAI: every labelled pair of a batch counts, early stopping", _FASHIONAI),
    "fashionai-paper": (
        "FashionAI with the paper's settings, 150 epochs; holds 22 GB of pictures",
        _as_published(_FASHIONAI, 150, buffer_samples=150_000),
    ),
    "deepfashion": ("DeepFashion, several attributes and values a picture", _DEEPFASHION),
    "deepfashion-paper": (
        "DeepFashion with the paper's settings, 50 epochs; holds up to 44 GB of pictures",
        _as_published(_DEEPFASHION, 50, buffer_samples=290_000),
    ),
    "darn": (
        "DARN, several attributes a picture",
        replace(_FASHIONAI, source="darn:./data/DARN", dataset="darn", name="train-darn"),
    ),
    "zappos50k": (
        "Zappos50k: its listed triplets at 112 pixels; a worker holds 2 GB of pictures",
        _ZAPPOS50K,
    ),
    "zappos50k-paper": (
        "Zappos50k with the paper's settings, 50 epochs of 200,000 triplets; holds 8 GB of pictures",
        _as_published(_ZAPPOS50K, 50, epoch_triplets=200_000, buffer_samples=51_000, classification=False),
    ),
    "demo": ("the demo's few minutes on 2 cores: ResNet-18 at 56 pixels", _DEMO),
    "demo-long": (
        "half an hour on 2 cores: 96 pixels, a larger generated catalog",
        replace(
            _DEMO,
            source="generated:num_images=12000,seed=0,night=1",
            dataset="catalog-long",
            name="train-demo-long",
            preprocess=Preprocess(image_size=96),
            steps=8000,
            validate_every=600,
            max_minutes=30,
        ),
    ),
}
"""Any of them becomes a baseline by one flag: --network.head plain, --network.head csn,
--network.no-multi-level, --optimisation.no-classification."""
