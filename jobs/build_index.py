"""Build the FAISS files of the parts that have none yet.

Shards and embeds what is new first. Nothing is published: `nightly.py` does that, and reuses all of it.

    python jobs/build_index.py --lake ./lake --source ./products.parquet --model 9f3c
    ray job submit --working-dir . -- python jobs/build_index.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from jobs.command_line import read_config
from jobs.recipes import NIGHT
from pipelines import telemetry
from pipelines.nightly import run_night


def main() -> None:
    """Run the night up to the indexes."""
    config = read_config(NIGHT, __doc__)
    with telemetry.run("build_index", config, config.open_lake()) as run:
        run_night(config, run, until="indexes")
        run.say(f"{config.lake}/indexes covers every embedding")


if __name__ == "__main__":
    main()
