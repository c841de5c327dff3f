from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up_snapshots import Shop

from pipelines.lake import Lake
from pipelines.morning.drawn import MAP
from pipelines.morning.newest import (
    OTHERS,
    UNNAMED,
    _map_of,
    count_values,
    draw_maps,
    label_of,
    moved,
    newest,
    principal_plane,
)
from pipelines.search import Searcher
from pipelines.storage.objects import FileEntry
from pipelines.storage.snapshots import Group, Manifest

ENTRY = FileEntry("x", 1, "0" * 64)


@pytest.mark.parametrize(
    ("rows", "shown"),
    [([], []), ([5], [5]), ([50], [50]), ([5, 5], [5, 5]), ([5, 5, 5], [5, 5]), ([1, 50, 3, 4], [50, 3, 4])],
)
def test_a_report_looks_at_the_newest_pictures(
    monkeypatch: pytest.MonkeyPatch, lake: Lake, tmp_path: Path, rows: list[int], shown: list[int]
) -> None:
    monkeypatch.setattr("pipelines.morning.newest.SHOWN_ROWS", 10)
    groups = tuple(
        Group(name=str(n), kind="flat", parts=(), num_rows=each, ids=ENTRY, files={})
        for n, each in enumerate(rows)
    )
    manifest = Shop(lake, tmp_path).night("one", {}, groups=groups)
    assert [group.num_rows for group in newest(manifest).groups] == shown


@pytest.fixture
def spoken(small_lake: Any) -> Manifest:
    """Two parts; of the first, one of three pictures left the catalog, and one is two products."""
    said = {
        "collar_design": shown(["shirt", "shirt", None], [True, True, False]),
        "skirt_length": shown([None, None, None], [None, None, None]),
        "sleeve_length": shown(["long", "short", "long"], [True, True, True]),
    }
    for name in ("p1", "p2"):
        small_lake.add_part(name, 3, len(name), said)
    rows = small_lake.places()[1:]
    for row in rows:
        row["labels"] = {"sleeve_length": ["cap"], "skirt_length": ["invisible"]}
    return small_lake.manifest([*rows, {**rows[-1], "key": "the same picture"}])


def shown(values: list[str | None], applies: list[bool | None]) -> pa.Table:
    scores = [None if value is None else 0.9 for value in values]
    return pa.table(
        {
            "value": pa.array(values, pa.string()),
            "score": pa.array(scores, pa.float32()),
            "applies": pa.array(applies, pa.bool_()),
        }
    )


def test_live_pictures_are_counted_each_once(lake: Lake, spoken: Manifest) -> None:
    with Searcher(lake, spoken) as searcher:
        assert count_values(searcher) == {
            "collar_design": {"named": {"shirt": 3}, "absent": 2, "unknown": 0},
            "skirt_length": {"named": {}, "absent": 0, "unknown": 5},
            "sleeve_length": {"named": {"long": 3, "short": 2}, "absent": 0, "unknown": 0},
        }


def test_a_map_has_the_live_pictures_that_have_a_value(lake: Lake, spoken: Manifest) -> None:
    with Searcher(lake, spoken) as searcher:
        maps = {each.attribute: each for each in draw_maps(searcher)}
    found = {
        name: ([(cloud.value, cloud.count) for cloud in each.clouds], each.labelled)
        for name, each in maps.items()
    }
    assert found == {
        "collar_design": ([("shirt", 3)], False),
        "skirt_length": ([(UNNAMED, 5)], False),
        "sleeve_length": ([("cap", 5)], True),
    }
    assert maps["sleeve_length"].clouds[0].path.count("M") == 5


def test_pictures_of_before_there_were_values_are_not_known(lake: Lake, small_lake: Any) -> None:
    small_lake.add_part("p1", 3, 0)
    with Searcher(lake, small_lake.manifest(small_lake.places())) as searcher:
        counted = count_values(searcher)
        assert [each["unknown"] for each in counted.values()] == [3, 3, 3]
        assert [each.clouds[0].value for each in draw_maps(searcher)] == [UNNAMED] * 3


def test_a_snapshot_without_two_pictures_has_no_map(lake: Lake, tmp_path: Path) -> None:
    manifest = Shop(lake, tmp_path).night("one", {})
    with Searcher(lake, manifest) as searcher:
        assert draw_maps(searcher) == []


def test_rare_values_share_a_colour_and_pictures_without_one_are_left_out() -> None:
    values = [value for value in "aaabbbccddeeffgghhiij" for _ in range(2)] + [None] * 5
    vectors = np.random.default_rng(0).standard_normal((len(values), 8)).astype(np.float32)
    clouds = _map_of("x", vectors, values, labelled=True).clouds
    assert {cloud.value: cloud.count for cloud in clouds} == {
        **dict.fromkeys("ab", 6), **dict.fromkeys("cdefghi", 4), OTHERS: 2,
    }  # fmt: skip
    assert [cloud.value for cloud in clouds][-1] == OTHERS
    places = [int(n) for cloud in clouds for n in cloud.path.replace("M", " ").replace("h0", "").split()]
    assert 0 < min(places) < 20
    assert MAP - 20 < max(places) < MAP


def test_the_plane_is_that_of_most_variance_and_has_one_sign() -> None:
    true = np.random.default_rng(1).standard_normal((50, 2)) * (5, 2)
    turned = np.linalg.qr(np.random.default_rng(2).standard_normal((16, 16)))[0][:2]
    vectors = (true @ turned + 7).astype(np.float32)
    plane, explained = principal_plane(vectors)
    distances = [np.linalg.norm(points[:, None] - points[None], axis=2) for points in (true, plane)]
    np.testing.assert_allclose(distances[1], distances[0], atol=1e-4)
    assert explained == pytest.approx(1)
    mirrored, _ = principal_plane(-vectors)
    assert np.abs(mirrored).max(axis=0) == pytest.approx(np.abs(plane).max(axis=0), rel=1e-4)
    assert (plane[np.abs(plane).argmax(axis=0), [0, 1]] > 0).all()
    assert principal_plane(np.ones((3, 4), np.float32))[1] == 1


def test_values_that_moved_are_the_share_that_would_have_to_change() -> None:
    then = {"named": {"v": 50, "round": 50}}
    assert moved({"named": {"v": 50, "round": 50}}, then) == 0
    assert moved({"named": {"v": 60, "round": 20, "boat": 20}}, then) == pytest.approx(0.3)
    assert moved({"named": {"boat": 1}}, then) == 1
    assert moved({"named": {}}, then) is None
    assert moved(then, {}) is None


def test_a_label_that_says_absent_is_no_value() -> None:
    assert label_of({"neck": ["invisible"]}, "neck") is None
    assert label_of({"neck": ["v", "round"]}, "neck") == "v"
    assert label_of({}, "neck") is None
