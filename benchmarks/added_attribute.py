"""How good an attribute gets that is added to a trained model, beside one that was trained with all others.

    python benchmarks/added_attribute.py

Trains the demo's model on the generated catalog with all eight attributes, and once more without each of
some of them, for the same number of steps. Each of these is then added as `jobs/add_attribute.py` adds it:
its rows are learned, the trunk was never told of it. All are judged on the same held-out products. Floor: the
exact expectation of a random ranking; nearest neighbours on 32x32 pixels stand beside it. What was trained is
kept in `--work`, and taken again by the next run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.table import Table

from agman.taxonomy import FASHIONAI, Taxonomy
from benchmarks.reporting import report
from jobs.add_attribute import AddAttributeConfig, add_and_judge
from jobs.recipes import DEMO_IMAGES, TRAIN
from jobs.train import train_and_judge
from pipelines.cluster import connected
from pipelines.lake import Lake
from pipelines.models import read_metrics
from pipelines.scoring import MAP, RANDOM, Row
from pipelines.telemetry import Run
from pipelines.vectors import PIXELS

RECIPE = TRAIN["demo"][1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Size of the comparison."""

    attributes: tuple[str, ...] = ("coat_length", "lapel_design")
    """Those that are left out of a training and added to it, one at a time."""
    steps: int = 700
    """Steps of each training: 6.5 minutes on two cores that compute in bfloat16, as `make demo` takes."""
    num_images: int = DEMO_IMAGES
    """Products of the generated catalog."""
    work: Path = Path(".benchmarks/added_attribute")
    """Where pictures and models are kept for the next run."""
    results: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse what the catalog is not labelled with."""
        for name in self.attributes:
            FASHIONAI.index(name)

    @property
    def source(self) -> str:
        """The catalog, as jobs name it."""
        return f"generated:num_images={self.num_images},seed=0,night=1"


@dataclass(frozen=True, slots=True)
class Compared:
    """One attribute's figures on the held-out products."""

    added: Row
    """Of the model that it was added to."""
    trained: Row
    """Of the model that was trained with all attributes."""

    @property
    def share_of_gain(self) -> float:
        """What the added attribute has of the trained one's gain over a random ranking."""
        return float((self.added[MAP] - self.added[RANDOM]) / (self.trained[MAP] - self.trained[RANDOM]))


def main(options: Options) -> None:
    """Train, add, report."""
    with connected():
        whole = _rows(options, _train(options, FASHIONAI))
        added = {name: _rows(options, _add(options, name)) for name in options.attributes}
    compared = {name: Compared(rows[name], whole[name]) for name, rows in added.items()}
    floor = {f"map_{name}": rows.added[RANDOM] for name, rows in compared.items()}
    report("added_attribute", _table(options, compared), figures(compared), floor, options.results)


def figures(compared: Mapping[str, Compared]) -> dict[str, float]:
    """Return by attribute both MAPs, that of the pixels, and the share of the gain that was reached."""
    found: dict[str, float] = {}
    for name, rows in compared.items():
        found |= {
            f"map_{name}_added": rows.added[MAP],
            f"map_{name}_trained": rows.trained[MAP],
            f"map_{name}_pixels": rows.added[PIXELS],
            f"share_of_gain_{name}": rows.share_of_gain,
            f"queries_{name}": rows.added["num_queries"],
        }
    return found


def _add(options: Options, name: str) -> str:
    """Train without an attribute, then add it; returns the model's id."""
    known = Taxonomy(tuple(attribute for attribute in FASHIONAI if attribute.name != name))
    config = AddAttributeConfig(
        lake=str(options.work),
        source=options.source,
        model=_train(options, known),
        attribute=name,
        shards=RECIPE.shards,
    )
    return add_and_judge(config, Run("added_attribute", config, Lake(config.lake)))


def _train(options: Options, taxonomy: Taxonomy) -> str:
    """Train the demo's model with some attributes; returns its id."""
    options.work.mkdir(parents=True, exist_ok=True)
    named = options.work / f"{len(taxonomy)}-attributes-{taxonomy.digest[:8]}.json"
    named.write_text(json.dumps(taxonomy.to_json()))
    config = replace(
        RECIPE,
        lake=str(options.work),
        source=options.source,
        taxonomy=str(named),
        steps=options.steps,
        validate_every=max(1, options.steps // 2),
        max_minutes=0,
    )
    return train_and_judge(config, Run("added_attribute", config, Lake(config.lake)))


def _rows(options: Options, model: str) -> dict[str, Row]:
    """Return the figures of a judged model by attribute."""
    scores = read_metrics(Lake(str(options.work)), model, RECIPE.dataset)
    assert scores is not None  # stored when it was judged
    rows: dict[str, Row] = scores["attributes"]
    return rows


def _table(options: Options, compared: Mapping[str, Compared]) -> Table:
    table = Table(title=f"MAP of an added attribute; {options.steps} steps, {options.num_images:,} products")
    names = ("attribute", "queries", "random", "32x32 pixels", "added", "trained with all", "of its gain")
    for name in names:
        table.add_column(name, justify="left" if name == "attribute" else "right")
    for name, rows in compared.items():
        maps = (rows.added[RANDOM], rows.added[PIXELS], rows.added[MAP], rows.trained[MAP])
        table.add_row(
            name,
            str(rows.added["num_queries"]),
            *(f"{value:.4f}" for value in maps),
            f"{rows.share_of_gain:.0%}",
        )
    return table


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
