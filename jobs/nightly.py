"""Bring a lake up to date with a catalog and publish the result.

Reads the source, fetches and embeds only what changed, builds the indexes of the new parts, passes the gates
and publishes a snapshot with one swap. Started again after a crash, it finishes the rest.

    python jobs/nightly.py --lake ./lake --source ./products.parquet
    ray job submit --working-dir . -- python jobs/nightly.py --lake s3://shop-lake --source s3://shop/feed.parquet
"""

from jobs.command_line import read_config
from jobs.recipes import NIGHT
from pipelines import telemetry
from pipelines.nightly import run_night


def main() -> None:
    """Run one night."""
    config = read_config(NIGHT, __doc__)
    with telemetry.run("nightly", config, config.open_lake()) as run:
        manifest = run_night(config, run)
        if manifest is None:
            run.say("nothing changed: the published snapshot goes on serving")
            return
        counts = manifest.counts
        run.say(f"published snapshot {manifest.id}, number {manifest.night} of {config.lake}")
        run.say(
            f"  {counts['images_embedded']} pictures embedded, {counts['reused']} records reused, "
            f"{counts['quarantined']} quarantined"
        )
        run.say(f"  report: {config.lake}/snapshots/{manifest.id}/report.html")


if __name__ == "__main__":
    main()
