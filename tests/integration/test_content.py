"""What changed is told by the bytes: names, times and tokens only save the looking."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.embedding import EmbedOptions
from pipelines.errors import OutOfTime, StaleSnapshot
from pipelines.lake import CURRENT, Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.shards.plan import ShardOptions
from pipelines.storage.snapshots import Manifest, current_manifest
from pipelines.telemetry import Run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("within_process")]

NUM_IMAGES = 6


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((40, 40))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        # Without compression, so that other pictures have files of the same size.
        picture(number).save(folder / f"{number}.bmp")
    return folder


@pytest.fixture
def run(lake: Lake, pictures: Path, other_taxonomy_model: Path) -> Callable[..., Manifest | None]:
    def run_one(**options: Any) -> Manifest | None:
        config = NightConfig(
            lake=lake.url,
            source=str(pictures),
            model=str(other_taxonomy_model),
            shards=ShardOptions(images_per_shard=4),
            embed=EmbedOptions(num_workers=1),
            **options,
        )
        return run_night(config, Run("nightly", config, lake))

    return run_one


def digests(lake: Lake) -> dict[str, str]:
    manifest = current_manifest(lake)
    with lake.checked(manifest.files["catalog.parquet"]) as path:
        return {row["key"]: row["sha256"] for row in pq.read_table(path).to_pylist()}


def changes(manifest: Manifest) -> dict[str, int]:
    names = ("added", "edited", "moved", "unchanged", "deleted", "duplicate", "images_embedded")
    return {name: manifest.counts[name] for name in names if manifest.counts[name]}


def test_a_change_of_name_embeds_nothing_and_stores_no_picture(
    lake: Lake, pictures: Path, run: Callable[..., Manifest]
) -> None:
    first = run()
    before = digests(lake)
    (pictures / "0.bmp").rename(pictures / "renamed.bmp")
    second = run()
    assert changes(second) == {"moved": 1, "unchanged": NUM_IMAGES - 1}
    assert digests(lake) == {"renamed.bmp" if key == "0.bmp" else key: sha for key, sha in before.items()}
    assert (second.shards, second.parts, second.groups) == (first.shards, first.parts, first.groups)


def test_new_bytes_under_the_same_name_are_caught(
    lake: Lake, pictures: Path, run: Callable[..., Manifest]
) -> None:
    run()
    before = digests(lake)
    picture(100).save(pictures / "0.bmp")
    assert changes(run()) == {"edited": 1, "unchanged": NUM_IMAGES - 1, "images_embedded": 1}
    now = digests(lake)
    assert {key for key in now if now[key] != before[key]} == {"0.bmp"}


def test_new_bytes_of_the_same_size_and_time_are_caught_by_verify_content(
    lake: Lake, pictures: Path, run: Callable[..., Manifest | None]
) -> None:
    run()
    before = digests(lake)
    file, stat = pictures / "0.bmp", (pictures / "0.bmp").stat()
    picture(100).save(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert run() is None
    assert digests(lake) == before
    verified = run(verify_content=True)
    assert changes(verified) == {"edited": 1, "unchanged": NUM_IMAGES - 1, "images_embedded": 1}
    now = digests(lake)
    assert {key for key in now if now[key] != before[key]} == {"0.bmp"}

    # A night that verified and found nothing is told from the next one that verifies.
    unchanged = run(verify_content=True)
    assert changes(unchanged) == {"unchanged": NUM_IMAGES}
    picture(101).save(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changes(run(verify_content=True))["edited"] == 1


def test_a_key_whose_bytes_change_during_the_run_is_right_the_night_after(
    lake: Lake, pictures: Path, run: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token was read when the folder was listed, the bytes later: the next night looks again."""
    from pipelines.night import Night

    plan = Night.plan

    def plan_then_edit(night: Night) -> object:
        found = plan(night)
        picture(100).save(pictures / "0.bmp")
        return found

    monkeypatch.setattr(Night, "plan", plan_then_edit)
    run()
    monkeypatch.undo()
    seen = digests(lake)
    assert changes(run()) == {"unchanged": NUM_IMAGES}
    assert digests(lake) == seen
    picture(101).save(pictures / "0.bmp")
    assert changes(run())["edited"] == 1


def test_a_run_out_of_time_stops_at_a_shard_and_the_next_goes_on_with_a_changed_catalog(
    lake: Lake, pictures: Path, run: Callable[..., Manifest | None]
) -> None:
    with pytest.raises(OutOfTime, match="shard: 4/6"):
        _stopped_after_one_shard(run)
    assert lake.store.size(CURRENT) is None
    tars = {name for name in lake.store.list_names("shards") if name.endswith(".tar")}
    assert len(tars) == 1
    picture(50).save(pictures / "00-first-by-name.bmp")  # shifts every later shard's pictures
    done = run()
    assert done.counts["images_embedded"] == NUM_IMAGES + 1
    assert set(digests(lake)) == {path.name for path in pictures.iterdir()}
    assert tars <= {files[0].name for files in done.shards.values()}


def _stopped_after_one_shard(run: Callable[..., Manifest | None]) -> None:
    """Run with a limit that is over once the first shard was given out."""
    from pipelines.night import Night

    in_time = Night._in_time

    def one_unit(night: Night, units: Any) -> Any:
        def late() -> Any:
            for unit in units:
                yield unit
                night.run._started -= 3600

        yield from in_time(night, late())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Night, "_in_time", one_unit)
        run(max_minutes=30)


def test_of_two_nights_at_once_one_wins_and_nothing_is_mixed(
    lake: Lake, pictures: Path, run: Callable[..., Manifest | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    picture(60).save(pictures / "both.bmp")
    from pipelines import nightly

    publish = nightly.publish_night

    def overtaken(night: Any) -> Manifest | None:
        monkeypatch.undo()
        picture(61).save(pictures / "winner.bmp")
        overtaken.winner = run()
        return publish(night)

    monkeypatch.setattr(nightly, "publish_night", overtaken)
    with pytest.raises(StaleSnapshot, match="run again"):
        run()
    assert current_manifest(lake) == overtaken.winner
    assert set(digests(lake)) == {path.name for path in pictures.iterdir()}
    assert run() is None
