"""The night from end to end, and its beginnings that other jobs need.

Every job of the line is this function stopped at its stage.
"""

from collections.abc import Collection
from typing import Literal

from pipelines import labelled
from pipelines.cluster import connected
from pipelines.dataset import Dataset, ListedTriplets
from pipelines.errors import CorruptShard
from pipelines.lake import shard_tar, working_folder
from pipelines.night import Night, NightConfig
from pipelines.publishing import publish_night
from pipelines.repair import damage_behind, published_damage
from pipelines.sources import Benchmark
from pipelines.storage.objects import store_file
from pipelines.storage.snapshots import Manifest
from pipelines.telemetry import Run

LEFT_OUT = "left_out.parquet"
DAMAGED_SHOWN = 5

Until = Literal["embeddings", "indexes", "publish"]


def run_night(config: NightConfig, run: Run, until: Until = "publish") -> Manifest | None:
    """Run the night up to a stage.

    Returns:
        The published manifest; None where the night stopped before or nothing changed.

    Raises:
        InvalidInput: a mistake in the config.
        GateFailed: the new snapshot is not good enough; the old one goes on serving.
        StaleSnapshot: somebody else published meanwhile.
        OutOfTime: `max_minutes` are over; the next run goes on.
        CorruptShard: something damaged that a night cannot make again.
    """
    damaged = _damage_at_start(config, run)
    while True:
        try:
            with working_folder() as folder:
                night = Night(config, run, folder, damaged)
                night.choose_model()
                night.plan()
                with connected():
                    return _work(night, until)
        except CorruptShard as error:
            found = damage_behind(config.open_lake(), error, damaged)
            if not found:
                raise
            run.say(f"  {error}")
            _say_damaged(run, found)
            damaged |= found


def _damage_at_start(config: NightConfig, run: Run) -> frozenset[str]:
    if not config.verify_lake:
        return frozenset()
    with run.stage("verify", 1, "snapshots") as stage:
        found = published_damage(config.open_lake())
        stage.advance(1)
    if found:
        _say_damaged(run, found)
    return found


def _say_damaged(run: Run, found: Collection[str]) -> None:
    shown = ", ".join(sorted(found)[:DAMAGED_SHOWN])
    more = f" and {len(found) - DAMAGED_SHOWN} more" if len(found) > DAMAGED_SHOWN else ""
    run.say(f"  {len(found)} damaged files are left aside and made again: {shown}{more}")
    run.results["damaged"] = sorted({*run.results.get("damaged", []), *found})


def build_shards(config: NightConfig, run: Run) -> Dataset:
    """Shard what the lake does not have yet and return the source's pictures with their labels.

    What cannot be used is left out, counted and said, and listed in a file below the run's folder.

    Raises:
        InvalidInput: if the source is unusable as a whole.
    """
    with working_folder() as folder:
        night = Night(config, run, folder)
        night.plan()
        with connected():
            night.build_shards()
        homes = labelled.homes(night.catalog)
        tars = {s: f"{night.lake.url}/{shard_tar(config.dataset, s)}" for s in sorted(set(homes.values()))}
        _say_left_out(night)
        taxonomy = night.source.taxonomy if isinstance(night.source, Benchmark) else None
        return Dataset(
            config.dataset,
            tuple(tars.values()),
            labelled.descriptions(night.catalog),
            taxonomy,
            _triplets(night),
            {sha256: tars[shard] for sha256, shard in homes.items()},
            config.shards.resize,
        )


def _say_left_out(night: Night) -> None:
    found = labelled.left_out(night.catalog)
    if found:
        kinds = ", ".join(f"{number} {kind} (such as {key})" for kind, number, key in found)
        local = night.folder / LEFT_OUT
        labelled.write_left_out(night.catalog, local)
        name = f"runs/{night.run.id}/{LEFT_OUT}"
        store_file(night.lake.store, local, name)
        night.run.say(
            f"  {sum(number for _, number, _ in found)} records left out: {kinds}; {night.lake.url}/{name}"
        )


def _triplets(night: Night) -> dict[str, ListedTriplets]:
    """Return the source's triplets between live pictures, and say how many are left out."""
    listed = night.source.triplets() if isinstance(night.source, Benchmark) else {}
    digests = labelled.digests(night.catalog) if listed else {}
    found = {split: triplets.renamed(digests) for split, triplets in listed.items()}
    for split, triplets in found.items():
        lost = len(listed[split].rows) - len(triplets.rows)
        if lost:
            night.run.say(f"  {lost} of {len(listed[split].rows)} {split} triplets left out with them")
    return found


def _work(night: Night, until: Until) -> Manifest | None:
    night.build_shards()
    night.embed()
    if until == "embeddings":
        return None
    night.merge_parts()
    night.index()
    if until == "indexes":
        return None
    manifest = publish_night(night)
    night.run.outcome = "published" if manifest else "unchanged"
    return manifest
