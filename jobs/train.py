"""Train AG-MAN on labelled pictures with Ray Train, judge it on held-out products, keep it in the lake.

Started again with the same settings on the same pictures, it goes on from its last checkpoint. The best
checkpoint by validation becomes the model. The attributes are the data set's own; see --taxonomy.

    python jobs/train.py demo --lake ./demo-lake
    python jobs/train.py fashionai --source fashionai:/data/FashionAI
    ray job submit --working-dir . -- python jobs/train.py --lake s3://shop-lake --source s3://shop/labelled.parquet

On a cluster --num-workers counts all nodes' workers, and is how many batches a step learns from. A worker or
node that is lost costs the steps since the last validation. --min-workers begins and goes on with fewer, each
with more to do; --accelerator gpu waits for GPU nodes that are scaled to zero:

    python jobs/train.py --lake s3://shop-lake --num-workers 8 --min-workers 2 --accelerator gpu

Baselines are one flag each: --network.head plain (no attribute), --network.head csn (masks),
--network.no-multi-level, --optimisation.no-classification.
"""

from agman.taxonomy import FASHIONAI
from jobs.command_line import read_config
from jobs.evaluate import show_scores
from jobs.recipes import TRAIN
from pipelines import metrics, telemetry
from pipelines.cluster import connected
from pipelines.evaluation import evaluate
from pipelines.lake import Lake
from pipelines.models import store_metrics
from pipelines.night import NightConfig
from pipelines.nightly import build_shards
from pipelines.training.config import TrainConfig
from pipelines.training.driver import read_taxonomy, train


def main() -> None:
    """Train one model."""
    config = read_config(TRAIN, __doc__)
    with telemetry.run("train", config, Lake(config.lake)) as run:
        train_and_judge(config, run)


def train_and_judge(config: TrainConfig, run: telemetry.Run) -> str:
    """Shard, train and evaluate; returns the model's id."""
    lake = Lake(config.lake)
    named = read_taxonomy(config.taxonomy)
    night = NightConfig(lake=config.lake, source=config.source, dataset=config.dataset, shards=config.shards)
    with connected():
        dataset = build_shards(night, run)
        taxonomy = named or dataset.taxonomy or FASHIONAI
        trained = train(config, dataset, taxonomy, run)
        metrics.record((metrics.VALIDATION, trained.validation, {"job_name": run.job}))
        measure = "triplet accuracy" if dataset.triplets else "MAP"
        run.say(
            f"model {trained.model}: step {trained.step}, validation {measure} {trained.validation:.4f} "
            f"on {trained.num_validated} pictures"
        )
        scores = evaluate(lake, trained.model, dataset, run)
    store_metrics(lake, trained.model, scores)
    run.results.update(model=trained.model, evaluation=scores)
    show_scores(run, trained.model, scores)
    return trained.model


if __name__ == "__main__":
    main()
