"""Nights that must not be published, that are published all the same, or that run out of time."""

import getpass
import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from called_jobs import call
from PIL import Image

from pipelines.embedding import EmbedOptions
from pipelines.errors import GateFailed
from pipelines.history import read_history
from pipelines.lake import CURRENT, Lake
from pipelines.night import NightConfig
from pipelines.nightly import run_night
from pipelines.quality import GateOptions
from pipelines.storage.snapshots import Manifest, current_manifest
from pipelines.telemetry import Run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("within_process")]

IMPOSSIBLE = GateOptions(min_recall=1.5)


@pytest.fixture
def config(tmp_path: Path, lake: Lake, other_taxonomy_model: Path) -> NightConfig:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")
    return NightConfig(
        lake=lake.url,
        source=str(pictures),
        model=str(other_taxonomy_model),
        embed=EmbedOptions(num_workers=1),
    )


def run(config: NightConfig, **changes: object) -> Manifest | None:
    changed = replace(config, **changes)
    return run_night(changed, Run("nightly", changed, Lake(config.lake)))


def test_a_refused_night_can_be_read_and_published_by_who_says_why(config: NightConfig) -> None:
    lake = Lake(config.lake)
    with pytest.raises(GateFailed, match="recall@10") as refused:
        run(config, gates=IMPOSSIBLE)
    assert lake.store.size(CURRENT) is None
    (apart,) = read_history(lake).apart
    assert f"snapshots/{apart.id}/report.html" in str(refused.value)
    page = lake.store.read(f"snapshots/{apart.id}/report.html").body.decode()
    assert "This snapshot was not published" in page

    published = run(config, gates=IMPOSSIBLE, force="the bound is wrong, see ticket 7")
    assert published.forced == {"who": getpass.getuser(), "why": "the bound is wrong, see ticket 7"}
    assert current_manifest(lake) == published
    assert (
        "the bound is wrong, see ticket 7"
        in lake.store.read(f"snapshots/{published.id}/report.html").body.decode()
    )
    assert any(not gate["passed"] for gate in published.gates)


def test_force_without_need_leaves_no_trace(config: NightConfig) -> None:
    assert run(config, force="in any case").forced is None


def test_too_much_quarantine_refuses_the_night(config: NightConfig) -> None:
    lake = Lake(config.lake)
    first = run(config)
    for number in range(2):
        (Path(config.source) / f"{number}.png").write_bytes(b"no picture, whatever its name says")
    with pytest.raises(GateFailed, match="quarantined share"):
        run(config, gates=GateOptions(max_quarantined=0.4, min_quarantined=1))
    assert current_manifest(lake) == first
    assert run(config, gates=GateOptions(max_quarantined=0.5, min_quarantined=1)).counts["quarantined"] == 2


def test_a_night_out_of_time_ends_well_and_says_how_to_go_on(config: NightConfig) -> None:
    lake = Lake(config.lake)
    arguments = [f"--lake={config.lake}", f"--source={config.source}", f"--model={config.model}"]
    seconds = iter([0.0])
    with patch.object(Run, "seconds", lambda self: next(seconds, 3600.0)):
        ended = call("nightly.py", *arguments, "--shards.images-per-shard=2", "--max-minutes=30")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "stopped after 60.0 minutes, as --max-minutes 30 says: shard: 2/4 images" in ended.stdout
    assert "start the same command again" in ended.stdout
    assert lake.store.size(CURRENT) is None
    (report,) = (name for name in lake.store.list_names("runs") if name.endswith("report.json"))
    assert json.loads(lake.store.read(report).body)["status"] == "unfinished"
    ended = call("nightly.py", *arguments, "--shards.images-per-shard=2")
    assert "4/4 images" in ended.stdout
    assert "2 reused" in ended.stdout
    assert current_manifest(lake).counts["images_embedded"] == 4


def test_the_manifest_says_what_made_it(config: NightConfig) -> None:
    lake = Lake(config.lake)
    first = run(config)
    (Path(config.source) / "0.png").unlink()
    second = run(config)
    assert second.parent == first.id
    chain = read_history(lake).chain
    assert [each.id for each in chain] == [second.id, first.id]
    assert read_history(lake).trouble == ()
    assert second.code == first.code != ""
    assert second.config["source"] == config.source
    assert {"torch", "ray", "pyarrow"} <= set(second.versions)
    for entry in second.entries():
        assert lake.store.size(entry.name) == entry.num_bytes
