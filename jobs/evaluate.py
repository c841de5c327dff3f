"""Judge a model of the lake on held-out products, beside a random ranking, pixels and the untrained network.

python jobs/evaluate.py --lake ./lake --source ./labelled.parquet --model 9f3c
ray job submit --working-dir . -- python jobs/evaluate.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from typing import Any

from rich.table import Table

from jobs.command_line import read_config
from jobs.recipes import NIGHT
from pipelines import telemetry
from pipelines.cluster import connected
from pipelines.evaluation import evaluate
from pipelines.lake import Lake
from pipelines.models import store_metrics
from pipelines.night import choose_model
from pipelines.nightly import build_shards
from pipelines.storage.snapshots import read_manifest, read_pointer

KINDS = ("map", "untrained", "pixels", "random")


def main() -> None:
    """Evaluate one model."""
    config = read_config(NIGHT, __doc__)
    lake = Lake(config.lake)
    with telemetry.run("evaluate", config, lake) as run, connected():
        pointer = read_pointer(lake)
        model = choose_model(lake, config.model, read_manifest(lake, pointer.snapshot) if pointer else None)
        scores = evaluate(lake, model, build_shards(config, run), run)
        store_metrics(lake, model, scores)
        run.results.update(model=model, evaluation=scores)
        show_scores(run, model, scores)


def show_scores(run: telemetry.Run, model: str, scores: dict[str, Any]) -> None:
    """Print the table of an evaluation."""
    table = Table(title=f"MAP of model {model} on held-out products of {scores['dataset']}")
    for name in ("attribute", "model", *KINDS[1:], "recall@1", "recall@10", "queries", "candidates"):
        table.add_column(name, justify="left" if name == "attribute" else "right")
    for attribute, row in scores["attributes"].items():
        shown = [f"{row[kind]:.4f}" for kind in KINDS] + [f"{row[f'recall_at_{k}']:.3f}" for k in (1, 10)]
        table.add_row(attribute, *shown, str(row["num_queries"]), str(row["num_candidates"]))
    table.add_section()
    for name, title in (("query_weighted", "all, query-weighted"), ("plain", "all, plain mean")):
        row = scores["overall"][name]
        table.add_row(title, *(f"{row[kind]:.4f}" for kind in KINDS), "", "", "", "")
    run.show(table)
    overall = scores["overall"]["query_weighted"]
    factors = ", ".join(f"{overall['map'] / max(overall[kind], 1e-9):.2f} x {kind}" for kind in KINDS[1:])
    run.say(f"query-weighted MAP {overall['map']:.4f} = {factors}")


if __name__ == "__main__":
    main()
