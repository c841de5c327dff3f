"""Judge a model of the lake on held-out products, beside a random ranking, pixels and the untrained network.

A recipe judges on the held-out pictures of what the training recipe of that name learns from: MAP and recall
after the published protocol, for Zappos50k the share of right triplets.

    python jobs/evaluate.py --lake ./lake --source ./labelled.parquet --model 9f3c
    python jobs/evaluate.py fashionai --lake ./lake --source fashionai:/data --split valid
    ray job submit --working-dir . -- python jobs/evaluate.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from collections.abc import Sequence
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
from pipelines.scoring import MAP, TRIPLET_ACCURACY, Row
from pipelines.storage.snapshots import read_manifest, read_pointer

RIVALS = ("untrained", "pixels", "random")
COUNTS = {
    "num_queries": "queries",
    "queries_without_relevant": "unmatched",
    "num_candidates": "candidates",
    "num_triplets": "triplets",
}
SHARES = {"recall_at_1": "recall@1", "recall_at_5": "recall@5", "recall_at_10": "recall@10"}
TITLES = {MAP: ("MAP", "query-weighted"), TRIPLET_ACCURACY: ("Share of right triplets", "triplet-weighted")}


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
    measure, split = scores.get("measure", MAP), scores.get("split", "test")  # of old, neither was stored
    title, weighted = TITLES[measure]
    rows, means = scores["attributes"], scores["overall"]
    sums = {name: sum(row.get(name, 0) for row in rows.values()) for name in COUNTS}
    table = _table(
        measure,
        rows,
        {f"all, {weighted}": means["query_weighted"] | sums, "all, plain mean": means["plain"]},
    )
    table.title = f"{title} of model {model} on the {split} pictures of {scores['dataset']}"
    run.show(table)
    if unmatched := sums["queries_without_relevant"]:
        of = f"{unmatched} of {sums['num_queries']} queries"
        run.say(f"{of} are unmatched: no candidate has their value, so they count with 0")
    overall = means["query_weighted"]
    show_values(run, scores.get("values"))
    factors = ", ".join(f"{overall[measure] / max(overall[rival], 1e-9):.2f} x {rival}" for rival in RIVALS)
    run.say(f"{weighted} {title} {overall[measure]:.4f} = {factors}")


def _table(measure: str, rows: dict[str, Row], means: dict[str, Row]) -> Table:
    """Lay out the figures that the attributes' rows have, the means below them."""
    kinds = ((measure, *RIVALS), SHARES, COUNTS)
    formats = {name: form for names, form in zip(kinds, (".4f", ".3f", "d"), strict=True) for name in names}
    shown = [name for name in formats if any(name in row for row in rows.values())]
    titles = {measure: "model", **SHARES, **COUNTS}
    table = Table("attribute")
    for name in shown:
        table.add_column(titles.get(name, name), justify="right")
    for block in (rows, means):
        for said, row in block.items():
            cells = [format(row[name], formats[name]) if name in row else "" for name in shown]
            table.add_row(said, *cells)
        table.add_section()
    return table


def show_values(run: telemetry.Run, scores: dict[str, Any] | None) -> None:
    """Print how often the model names the right value, where it names any."""
    if scores is None:
        return
    table = Table(title="Values: the share of right ones, and where the attribute is said not to apply")
    figures = ("value_accuracy", "most_common", "absent_precision", "absent_recall")
    counts = {"have it": "num_having", "named": "num_said_having", "have it not": "num_lacking"}
    for name in ("attribute", "value right", "most common", "absent: precision", "recall", *counts):
        table.add_column(name, justify="left" if name == "attribute" else "right")
    for attribute, row in scores["attributes"].items():
        table.add_row(attribute, *_cells(row, figures, list(counts.values())))
    table.add_section()
    table.add_row("all pictures", *_cells(scores["overall"], figures, list(counts.values())))
    run.show(table)


def _cells(row: dict[str, Any], figures: Sequence[str], counts: Sequence[str]) -> list[str]:
    shares = ["-" if row[name] is None else f"{row[name]:.3f}" for name in figures]
    return shares + [str(row[name]) for name in counts]


if __name__ == "__main__":
    main()
