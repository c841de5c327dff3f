"""Bring a lake up to date with a catalog and publish the result.

Reads the source, fetches and embeds only what changed, builds the indexes of the new parts, passes the gates and
publishes a snapshot with one swap. Started again after a crash, it finishes the rest.

    python jobs/nightly.py catalog --lake ./lake --source ./products.parquet
    ray job submit --working-dir . -- python jobs/nightly.py catalog --lake s3://shop-lake --source s3://shop/feed.parquet
"""

import tyro

from jobs.recipes import NIGHT
from pipelines import telemetry
from pipelines.lake import Lake
from pipelines.nightly import run_night


def main() -> None:
    """Read the command line and run one night."""
    config = tyro.extras.overridable_config_cli(NIGHT, description=__doc__)
    lake = Lake(config.lake)
    with telemetry.run("nightly", config, lake) as run:
        manifest = run_night(config, run)
        if manifest is None:
            run.say("nothing changed: the published snapshot goes on serving")
            return
        counts = manifest.counts
        run.say(f"published snapshot {manifest.id}, number {manifest.night} of this lake")
        run.say(f"  {counts['images_embedded']} pictures embedded, {counts['reused']} records reused")


if __name__ == "__main__":
    main()
