"""Take a checkpoint of the authors' published code into the lake's model format.

The file is read as plain tensors: nothing in it is executed. A wrong one is refused by name of its first
wrong tensor. It knows no values in words: labelled pictures of role train, given as --source, teach it some.

    python jobs/import_checkpoint.py model_best.pth.tar --lake ./lake
    python jobs/import_checkpoint.py model_best.pth.tar --lake ./lake --source ./labelled.parquet
    ray job submit --working-dir . -- python jobs/import_checkpoint.py model_best.pth.tar --lake s3://shop-lake
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from agman.checkpoint import load_published, save_model
from agman.errors import InvalidInput
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import Preprocess
from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.cluster import connected
from pipelines.dataset import Dataset
from pipelines.lake import Lake, model_folder, working_folder
from pipelines.models import import_model
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.shards.plan import ShardOptions
from pipelines.training.driver import read_taxonomy
from pipelines.values import with_prototypes


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """One import."""

    checkpoint: Annotated[str, tyro.conf.Positional] = ""
    """The authors' file, such as model_best.pth.tar: {"epoch", "state_dict", "prec"}."""
    lake: str = "./lake"
    """Root of the lake: a local folder or s3://bucket/prefix."""
    taxonomy: str = "auto"
    """Names of its attributes and values: `fashionai`, or the path of a JSON file {"attributes": [{"name": …,
    "values": […]}]}; `auto` is FashionAI's where it has 8 attributes, else attribute_0, attribute_1, …"""
    trunk: str = "resnet50"
    """The ResNet it was trained with, by torchvision's name."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """How its pictures are read; the published way by default."""
    source: str = ""
    """Labelled pictures whose values the model learns to name, as for training; empty: it names none."""
    dataset: str = "catalog"
    """Folder below shards/ of the source's pictures."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How pictures become tars."""


def main() -> None:
    """Import one checkpoint."""
    config = read_config({"import": ("", ImportConfig())}, __doc__)
    with telemetry.run("import_checkpoint", config, Lake(config.lake)) as run:
        import_checkpoint(config, run)


def import_checkpoint(config: ImportConfig, run: telemetry.Run) -> str:
    """Read, verify and publish a checkpoint; returns the model's id."""
    if not config.checkpoint:
        raise InvalidInput("checkpoint: expected the path of a .pth.tar file, found none")
    model = load_published(config.checkpoint, trunk=config.trunk)
    taxonomy = read_taxonomy(config.taxonomy) or _guessed(model.num_attributes)
    if len(taxonomy) != model.num_attributes:
        raise InvalidInput(
            f"taxonomy {config.taxonomy}: expected {model.num_attributes} attributes as in "
            f"{config.checkpoint}, found {len(taxonomy)}: {', '.join(taxonomy.names)}"
        )
    with working_folder() as folder, ExitStack() as stack:
        save_model(model, taxonomy, config.preprocess, folder)
        if config.source:
            stack.enter_context(connected())
            folder = stack.enter_context(with_prototypes(folder, _labelled(config, run), run))
        name = import_model(Lake(config.lake), folder)
    run.results.update(model=name)
    run.say(f"model {name}: {len(taxonomy)} attributes, {', '.join(taxonomy.names)}")
    run.say(f"  {config.lake}/{model_folder(name)}")
    if not config.source:
        run.say("  its rows will name no values; import it again with --source LABELLED to teach it some")
    run.say(f"  next: python jobs/nightly.py --lake {config.lake} --source PICTURES --model {name}")
    return name


def _labelled(config: ImportConfig, run: telemetry.Run) -> Dataset:
    night = NightConfig(lake=config.lake, source=config.source, dataset=config.dataset, shards=config.shards)
    return build_shards(night, run)


def _guessed(num_attributes: int) -> Taxonomy:
    if num_attributes == len(FASHIONAI):
        return FASHIONAI
    return Taxonomy(tuple(Attribute(f"attribute_{i}", ("unknown",)) for i in range(num_attributes)))


if __name__ == "__main__":
    main()
