"""Take a checkpoint of the authors' published code into the lake's model format.

The file is read as plain tensors: nothing in it is executed. A wrong one is refused by name of its first
wrong tensor.

    python jobs/import_checkpoint.py model_best.pth.tar --lake ./lake
    ray job submit --working-dir . -- python jobs/import_checkpoint.py model_best.pth.tar --lake s3://shop-lake
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from agman.checkpoint import load_published, save_model
from agman.errors import InvalidInput
from agman.taxonomy import FASHIONAI, Attribute, Taxonomy
from agman.transforms import Preprocess
from jobs.command_line import read_config
from pipelines import telemetry
from pipelines.lake import Lake, model_folder, working_folder
from pipelines.models import import_model
from pipelines.training.driver import read_taxonomy


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
    lake = Lake(config.lake)
    with working_folder() as folder:
        save_model(model, taxonomy, config.preprocess, folder)
        name = import_model(lake, folder)
    run.results.update(model=name)
    run.say(f"model {name}: {len(taxonomy)} attributes, {', '.join(taxonomy.names)}")
    run.say(f"  {config.lake}/{model_folder(name)}")
    run.say(f"  next: python jobs/nightly.py --lake {config.lake} --source PICTURES --model {name}")
    return name


def _guessed(num_attributes: int) -> Taxonomy:
    if num_attributes == len(FASHIONAI):
        return FASHIONAI
    return Taxonomy(tuple(Attribute(f"attribute_{i}", ("unknown",)) for i in range(num_attributes)))


if __name__ == "__main__":
    main()
