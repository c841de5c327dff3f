"""Judge a model of the lake on held-out products, beside a random ranking, pixels and the untrained network.

A recipe judges on the held-out pictures of what the training recipe of that name learns from: MAP and recall
after the published protocol, for Zappos50k the share of right triplets.

    python jobs/evaluate.py --lake ./lake --source ./labelled.parquet --model 9f3c
    python jobs/evaluate.py fashionai --lake ./lake --source fashionai:/data --split valid
    ray job submit --working-dir . -- python jobs/evaluate.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from typing import Any

from rich.table import Table

from jobs.command_line import read_config
from jobs.recipes import TRAIN
from pipelines import telemetry
from pipelines.cluster import connected
from pipelines.evaluation import EvaluateConfig, evaluate
from pipelines.lake import Lake
from pipelines.models import store_metrics
from pipelines.night import NightConfig, choose_model
from pipelines.nightly import build_shards
from pipelines.scoring import MAP
from pipelines.storage.snapshots import read_manifest, read_pointer

RIVALS = ("untrained", "pixels", "random")
RECALL = ("recall_at_1", "recall_at_5", "recall_at_10")
COUNTS = {
    "queries": "num_queries",
    "none relevant": "queries_without_relevant",
    "candidates": "num_candidates",
    "triplets": "num_triplets",
}


def recipes() -> dict[str, tuple[str, EvaluateConfig]]:
    """Return a recipe for each of the training's that reads other pictures than those before it."""
    found: dict[str, tuple[str, EvaluateConfig]] = {}
    for name, (_, train) in TRAIN.items():
        config = EvaluateConfig(
            lake=train.lake, source=train.source, dataset=train.dataset, shards=train.shards
        )
        if all(config != known for _, known in found.values()):
            found[name] = (f"held-out pictures of {train.source}", config)
    return found


def main() -> None:
    """Evaluate one model."""
    config = read_config(recipes(), __doc__)
    lake = Lake(config.lake)
    night = NightConfig(lake=config.lake, source=config.source, dataset=config.dataset, shards=config.shards)
    with telemetry.run("evaluate", config, lake) as run, connected():
        pointer = read_pointer(lake)
        model = choose_model(lake, config.model, read_manifest(lake, pointer.snapshot) if pointer else None)
        scores = evaluate(lake, model, build_shards(night, run), run, config.split)
        store_metrics(lake, model, scores)
        run.results.update(model=model, evaluation=scores)
        show_scores(run, model, scores)


def show_scores(run: telemetry.Run, model: str, scores: dict[str, Any]) -> None:
    """Print the table of an evaluation and what the model's figure is beside the others."""
    # An older version stored neither.
    measure, split = scores.get("measure", MAP), scores.get("split", "test")
    title = "MAP" if measure == MAP else "Share of right triplets"
    first = next(iter(scores["attributes"].values()))
    figures = {"model": measure} | {name: name for name in RIVALS}
    shares = {name.replace("_at_", "@"): name for name in RECALL if name in first}
    counts = {said: name for said, name in COUNTS.items() if name in first}
    table = Table(title=f"{title} of model {model} on the {split} pictures of {scores['dataset']}")
    table.add_column("attribute")
    for name in (*figures, *shares, *counts):
        table.add_column(name, justify="right")
    for attribute, row in scores["attributes"].items():
        shown = [f"{row[name]:.4f}" for name in figures.values()] + [f"{row[x]:.3f}" for x in shares.values()]
        table.add_row(attribute, *shown, *(str(row[name]) for name in counts.values()))
    table.add_section()
    weighted = f"{'query' if measure == MAP else 'triplet'}-weighted"
    for name, said in (("query_weighted", f"all, {weighted}"), ("plain", "all, plain mean")):
        row = scores["overall"][name]
        sums = [str(sum(each[count] for each in scores["attributes"].values())) for count in counts.values()]
        last = [""] * len(shares) + (sums if name == "query_weighted" else [])
        table.add_row(said, *(f"{row[kind]:.4f}" for kind in figures.values()), *last)
    run.show(table)
    overall = scores["overall"]["query_weighted"]
    factors = ", ".join(f"{overall[measure] / max(overall[rival], 1e-9):.2f} x {rival}" for rival in RIVALS)
    run.say(f"{weighted} {title} {overall[measure]:.4f} = {factors}")


if __name__ == "__main__":
    main()
