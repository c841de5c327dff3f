"""Add an attribute to a model without training the rest: all other embeddings stay, bit for bit.

ATTRIBUTE is a name in the labels of --source. All that the attributes of the model share is frozen; the
new attribute's rows are learned from its labels, judged on held-out pictures beside a random
ranking, and kept with the model as a model of its own, which names the one that it extends. The night that
takes it embeds every live picture under the new attribute alone: files of the others are not touched.

    python jobs/add_attribute.py neck_design --lake ./lake --source ./labelled.parquet
    python jobs/promote.py 9f3c --lake ./lake      # or: jobs/nightly.py --model 9f3c
    python jobs/nightly.py --lake ./lake --source ./products.parquet
    ray job submit --working-dir . -- python jobs/add_attribute.py heel --lake s3://shop-lake --source s3://shop/heels.csv
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from agman.errors import InvalidInput
from jobs.command_line import read_config
from jobs.evaluate import show_scores
from pipelines import telemetry
from pipelines.adding import AddConfig, Added, add_attribute
from pipelines.cluster import connected
from pipelines.evaluation import evaluate
from pipelines.lake import Lake
from pipelines.models import store_metrics
from pipelines.night import NightConfig, choose_model
from pipelines.nightly import build_shards
from pipelines.scoring import MAP, RANDOM
from pipelines.storage.snapshots import read_manifest, read_pointer


@dataclass(frozen=True, kw_only=True, slots=True)
class AddAttributeConfig(AddConfig):
    """One attribute to add."""

    attribute: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[ATTRIBUTE]")] = ""
    """Its name in the source's labels."""


def main() -> None:
    """Add one attribute."""
    config = read_config({"add": ("", AddAttributeConfig())}, __doc__)
    with telemetry.run("add_attribute", config, Lake(config.lake)) as run:
        add_and_judge(config, run)


def add_and_judge(config: AddAttributeConfig, run: telemetry.Run) -> str:
    """Learn, publish and evaluate; returns the model's id.

    Raises:
        InvalidInput: if no attribute or source is named, or nothing can be learned.
    """
    if not config.attribute or not config.source:
        raise InvalidInput("expected ATTRIBUTE and --source, the pictures that are labelled with it")
    lake = Lake(config.lake)
    pointer = read_pointer(lake)
    parent = choose_model(lake, config.model, read_manifest(lake, pointer.snapshot) if pointer else None)
    night = NightConfig(lake=config.lake, source=config.source, dataset=config.dataset, shards=config.shards)
    with connected():
        dataset = build_shards(night, run)
        added = add_attribute(config, parent, config.attribute, dataset, run)
        _tell(run, added)
        scores = evaluate(lake, added.model, dataset, run)
    store_metrics(lake, added.model, scores)
    run.results.update(model=added.model, parent=parent, evaluation=scores, seconds=added.seconds)
    show_scores(run, added.model, scores)
    row = scores["attributes"].get(config.attribute)
    if row and MAP in row:
        factor = row[MAP] / max(row[RANDOM], 1e-9)
        run.say(
            f"{config.attribute}: MAP {row[MAP]:.4f} = {factor:.2f} x a random ranking, {row[RANDOM]:.4f}"
        )
    run.say(f"  next: python jobs/promote.py {added.model} --lake {config.lake}, then jobs/nightly.py")
    return added.model


def _tell(run: telemetry.Run, added: Added) -> None:
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in added.seconds.items())
    run.say(
        f"model {added.model}: {added.parent} with {added.attribute.name} "
        f"({', '.join(added.attribute.values)}) added; all else is the same, tensor by tensor"
    )
    run.say(
        f"  rows of step {added.step}, validation MAP {added.validation:.4f} on {added.num_validated} "
        f"pictures, learned from {added.num_pictures}; {spent}"
    )


if __name__ == "__main__":
    main()
