"""Named configurations: the good ones, in code, to start from and to vary by flags."""

from dataclasses import replace

from agman.model import ModelConfig
from agman.trainer import TrainerConfig
from agman.transforms import Augmentation, Preprocess
from pipelines.night import NightConfig
from pipelines.shards.plan import ShardOptions
from pipelines.training.config import TrainConfig

LAKE = "./lake"
PICTURES = "./pictures"
DEMO_LAKE = "./demo-lake"
DEMO_IMAGES = 3000
DEMO_SOURCE = f"generated:num_images={DEMO_IMAGES},seed=0,night=1"

NIGHT = {
    "catalog": ("a shop's own catalog", NightConfig(lake=LAKE, source=PICTURES)),
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
    preprocess=Preprocess(image_size=80),
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

TRAIN = {
    "catalog": (
        "a shop's own labelled catalog: ResNet-50 at 224 pixels, the paper's sampling and losses",
        TrainConfig(lake=LAKE, source=PICTURES),
    ),
    "demo": ("the demo's few minutes on 2 cores: ResNet-18 at 80 pixels", _DEMO),
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
