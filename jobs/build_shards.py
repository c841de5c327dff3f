"""Pack a catalog's pictures into WebDataset tars, each with an index.

Only what the lake does not have yet is fetched. Broken pictures are quarantined with a reason, not fatal.

    python jobs/build_shards.py --lake ./lake --source ./pictures
    ray job submit --working-dir . -- python jobs/build_shards.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from jobs.command_line import read_config
from jobs.recipes import NIGHT
from pipelines import telemetry
from pipelines.nightly import build_shards


def main() -> None:
    """Build the shards of a catalog."""
    config = read_config(NIGHT, __doc__)
    with telemetry.run("build_shards", config, config.open_lake()) as run:
        dataset = build_shards(config, run)
        run.results["shards"] = dataset.urls
        run.say(
            f"{len(dataset.urls)} shards hold {len(dataset.described)} pictures, "
            f"in {config.lake}/shards/{config.dataset}"
        )


if __name__ == "__main__":
    main()
