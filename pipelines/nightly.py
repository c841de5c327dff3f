"""The night from end to end, and its beginnings that other jobs need.

Every job of the line is this function stopped at its stage.
"""

from typing import Literal

from pipelines.cluster import connected
from pipelines.dataset import Dataset
from pipelines.lake import shard_tar, working_folder
from pipelines.night import Night, NightConfig
from pipelines.publishing import publish_night
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run

Until = Literal["embeddings", "indexes", "publish"]


def run_night(config: NightConfig, run: Run, until: Until = "publish") -> Manifest | None:
    """Run the night up to a stage.

    Returns:
        The published manifest; None where the night stopped before or nothing changed.

    Raises:
        InvalidInput: a mistake in the config.
        GateFailed: the new snapshot is not good enough; the old one goes on serving.
        StaleSnapshot: somebody else published meanwhile.
    """
    with working_folder() as folder:
        night = Night(config, run, folder)
        night.choose_model()
        night.plan()
        with connected():
            return _work(night, until)


def build_shards(config: NightConfig, run: Run) -> Dataset:
    """Shard what the lake does not have yet and return the source's pictures with their labels."""
    with working_folder() as folder:
        night = Night(config, run, folder)
        night.plan()
        with connected():
            night.build_shards()
        shards = night.catalog.home_shards()
        urls = tuple(f"{night.lake.url}/{shard_tar(config.dataset, shard)}" for shard in shards)
        return Dataset(config.dataset, urls, night.catalog.descriptions())


def _work(night: Night, until: Until) -> Manifest | None:
    night.build_shards()
    night.embed()
    if until == "embeddings":
        return None
    night.index()
    return publish_night(night) if until == "publish" else None
