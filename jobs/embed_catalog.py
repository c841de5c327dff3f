"""Embed every picture of a catalog that has no embedding under the model yet.

Shards what is new, then writes one Parquet part per shard and attribute. Nothing is published: `nightly.py`
does that, and reuses all of it.

    python jobs/embed_catalog.py --lake ./lake --source ./products.parquet --model 9f3c
    ray job submit --working-dir . -- python jobs/embed_catalog.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from jobs.command_line import read_config
from jobs.recipes import NIGHT
from pipelines import telemetry
from pipelines.nightly import run_night


def main() -> None:
    """Run the night up to the embeddings."""
    config = read_config(NIGHT, __doc__)
    with telemetry.run("embed_catalog", config, config.open_lake()) as run:
        run_night(config, run, until="embeddings")
        run.say(f"{config.lake}/embeddings holds an embedding of every usable picture under every attribute")


if __name__ == "__main__":
    main()
