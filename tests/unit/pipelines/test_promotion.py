"""A candidate beside the serving model: what is compared, what is refused, and what the pointer says then."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from called_jobs import Ended, call
from inline_ray import inline_ray
from made_up_snapshots import Shop

from agman.checkpoint import load_model, save_model
from agman.errors import InvalidInput
from pipelines.errors import GateFailed, StaleSnapshot
from pipelines.lake import CURRENT, Lake
from pipelines.models import import_model, store_metrics
from pipelines.night import NightConfig
from pipelines.promotion import (
    beside,
    cancel,
    check_loss,
    judge_added,
    judge_both,
    load_candidate,
    of_same_pictures,
    probe_candidate,
    promote,
)
from pipelines.storage.snapshots import Manifest, current_manifest, read_pointer
from pipelines.telemetry import Run

JOB = "promote.py"


def scores(*maps: float, queries: tuple[int, ...] = (10, 30), split: str = "test") -> dict[str, Any]:
    """An evaluation under the first of two attributes, or both."""
    names = ("skirt_length", "sleeve_length")
    return {
        "dataset": "shop",
        "split": split,
        "attributes": {
            name: {"map": found, "num_queries": number, "num_candidates": 100}
            for name, found, number in zip(names, maps, queries, strict=False)
        },
    }


def test_two_evaluations_stand_side_by_side_and_each_query_counts_alike() -> None:
    judged = beside(scores(0.5, 0.9), scores(0.7, 0.8))
    assert judged.rows == {"skirt_length": (0.5, 0.7), "sleeve_length": (0.9, 0.8)}
    assert judged.overall == pytest.approx((0.8, 0.775))
    assert (judged.measure, judged.dataset, judged.split) == ("map", "shop", "test")
    assert judged.loss == pytest.approx(0.025)


def test_an_attribute_of_one_model_alone_counts_for_neither() -> None:
    judged = beside(scores(0.5, 0.9), scores(0.7))
    assert judged.rows == {"skirt_length": (0.5, 0.7)}
    assert judged.overall == (0.5, 0.7)


def test_shares_of_triplets_are_compared_as_they_are() -> None:
    found = {
        "dataset": "shoes",
        "split": "test",
        "attributes": {"heel": {"triplet_accuracy": 0.9, "num_triplets": 7}},
    }
    judged = beside(found, found)
    assert (judged.measure, judged.overall) == ("triplet_accuracy", (0.9, 0.9))


@pytest.mark.parametrize("other", [scores(), scores(0.5, split="valid")])
def test_what_cannot_be_compared_is_not(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="nothing tells which is better"):
        beside(scores(0.5), other)


@pytest.mark.parametrize("count", ["num_queries", "num_candidates"])
def test_figures_of_other_pictures_are_told_by_their_counts(count: str) -> None:
    one, other = scores(0.5, 0.5), scores(0.6, 0.6)
    assert of_same_pictures(one, other)
    other["attributes"]["sleeve_length"][count] += 1
    assert not of_same_pictures(one, other)


def test_a_model_may_be_worse_by_so_much_and_no_more() -> None:
    judged = beside(scores(0.50), scores(0.45))
    check_loss(judged, "candidate", 0.0501)
    check_loss(beside(scores(0.45), scores(0.50)), "candidate", 0)
    with pytest.raises(
        GateFailed, match=r"0\.4500 .* 0\.5000: lower by 0\.0500, --max-loss allows 0\.01;.*--force"
    ):
        check_loss(judged, "candidate", 0.01)


@pytest.fixture
def shop(lake: Lake, tmp_path: Path) -> Shop:
    return Shop(lake, tmp_path)


@pytest.fixture
def serving(shop: Shop, picture: Callable[..., bytes], tiny_model: Path) -> Manifest:
    """What the model m1 serves: made-up vectors of three pictures, of tiny_model's taxonomy."""
    taxonomy = load_model(tiny_model).taxonomy.digest
    return shop.night("one", {str(seed): picture(seed) for seed in range(3)}, taxonomy_digest=taxonomy)


@pytest.fixture
def model(lake: Lake, tiny_model: Path) -> str:
    return import_model(lake, tiny_model)


def judge(lake: Lake, source: str = "") -> Any:
    night = NightConfig(lake=lake.url, source=source, dataset="shop")
    return judge_both(lake, "m1", "m2", night, "test", Run("promote", night, None))


def test_stored_figures_are_taken_where_both_have_them(lake: Lake) -> None:
    for name, found, lacking in (("m1", 0.5, "m1 and m2"), ("m2", 0.6, "m2")):
        with pytest.raises(InvalidInput, match=f"found none of {lacking}; add --source"):
            judge(lake)
        store_metrics(lake, name, scores(found))
    assert judge(lake).rows == {"skirt_length": (0.5, 0.6)}


def test_stored_figures_of_other_pictures_are_not_compared(lake: Lake) -> None:
    store_metrics(lake, "m1", scores(0.5, queries=(10,)))
    store_metrics(lake, "m2", scores(0.9, queries=(11,)))
    with pytest.raises(InvalidInput, match="figures of different pictures; add --source"):
        judge(lake)
    with inline_ray(), pytest.raises(InvalidInput, match="nowhere"):  # given one, it is read
        judge(lake, source="./nowhere.parquet")


def test_added_attributes_alone_are_judged_and_by_chance(lake: Lake) -> None:
    night, added = NightConfig(lake=lake.url, source="", dataset="shop"), ("sleeve_length",)
    run = Run("promote", night, None)
    with pytest.raises(
        InvalidInput, match="figures of m2 under sleeve_length, found none of m2; add --source"
    ):
        judge_added(lake, "m2", added, night, "test", run)
    for model, found in (("m2", 0.2), ("m3", 0.4)):
        figures = scores(0.5, found)
        for row in figures["attributes"].values():
            row["random"] = 0.3
        store_metrics(lake, model, figures)
    worse, better = (judge_added(lake, model, added, night, "test", run) for model in ("m2", "m3"))
    assert better.rows == {"skirt_length": (0.5, 0.5), "sleeve_length": (0.3, 0.4)}
    assert better.overall == pytest.approx((0.3, 0.4))
    assert better.added == added
    check_loss(better, "m3", 0)
    with pytest.raises(GateFailed, match=r"0\.2000 .* a random ranking has 0\.3000: lower by 0\.1000"):
        check_loss(worse, "m2", 0)
    with pytest.raises(InvalidInput, match="found none of heel"):
        judge_added(lake, "m3", ("heel",), night, "test", run)


def test_the_serving_model_is_no_candidate(lake: Lake, serving: Manifest) -> None:
    with pytest.raises(InvalidInput, match="model m1 is what serves"):
        load_candidate(lake, "m1", serving, allow_new_taxonomy=False)


def test_another_taxonomy_needs_a_word(lake: Lake, serving: Manifest, other_taxonomy_model: Path) -> None:
    other = import_model(lake, other_taxonomy_model)
    with pytest.raises(InvalidInput, match=r"taxonomy \(skirt_length, sleeve_length\).*--allow-new-taxonomy"):
        load_candidate(lake, other, serving, allow_new_taxonomy=False)
    candidate = load_candidate(lake, other, serving, allow_new_taxonomy=True)
    assert list(probe_candidate(candidate, other, serving)) == ["skirt_length"]  # what both have


def test_a_candidate_is_compared_with_what_is_published(lake: Lake, serving: Manifest, model: str) -> None:
    moved = probe_candidate(load_candidate(lake, model, serving, allow_new_taxonomy=False), model, serving)
    assert list(moved) == ["skirt_length", "collar_design"]
    assert all(found.mean_cosine is None and found.norm < 1e-3 for found in moved.values())


def test_a_model_of_no_use_is_found_before_the_night(
    lake: Lake, serving: Manifest, tiny_model: Path, tmp_path: Path
) -> None:
    loaded = load_model(tiny_model)
    with torch.no_grad():
        loaded.model.w.fill_(3e38)  # finite itself, unlike what it makes of a picture
    save_model(loaded.model, loaded.taxonomy, loaded.preprocess, tmp_path / "broken")
    broken = import_model(lake, tmp_path / "broken")
    candidate = load_candidate(lake, broken, serving, allow_new_taxonomy=False)
    with pytest.raises(InvalidInput, match="found others for 3 of 3 pictures"):
        probe_candidate(candidate, broken, serving)


def test_a_promotion_changes_the_next_nights_model_and_nothing_else(lake: Lake, serving: Manifest) -> None:
    before = read_pointer(lake)
    promote(lake, serving, "m2")
    after = read_pointer(lake)
    assert after.next_model == "m2"
    assert after.commit_uuid != before.commit_uuid
    assert current_manifest(lake) == serving
    promote(lake, serving, "m3")  # the last word counts
    assert cancel(lake) == "m3"
    again = read_pointer(lake)
    assert replace(again, commit_uuid="", version="") == replace(before, commit_uuid="", version="")
    with pytest.raises(InvalidInput, match="no model is promoted"):
        cancel(lake)


def test_who_publishes_meanwhile_wins(
    lake: Lake, shop: Shop, serving: Manifest, picture: Callable[..., bytes]
) -> None:
    shop.night("two", {"a": picture(9)}, parent=serving)
    with pytest.raises(StaleSnapshot, match="expected snapshot one to serve, found two"):
        promote(lake, serving, "m2")
    assert read_pointer(lake).next_model == ""


def test_a_night_that_publishes_with_the_model_uses_the_promotion_up(
    lake: Lake, shop: Shop, serving: Manifest, picture: Callable[..., bytes]
) -> None:
    promote(lake, serving, "m2")
    pictures = {"a": picture(9)}
    two = shop.night("two", pictures, parent=serving)
    assert read_pointer(lake).next_model == "m2"  # a night that was told to take m1 once more
    shop.night("three", pictures, parent=two, model="m2")
    assert read_pointer(lake).next_model == ""


def start(lake: Lake, *arguments: str) -> Ended:
    return call(JOB, *arguments, "--lake", lake.url)


def reports(lake: Lake) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text()) for path in sorted(Path(lake.url).glob("runs/promote-*/report.json"))
    ]


def test_a_person_promotes_a_better_model(
    lake: Lake, serving: Manifest, model: str, tiny_model: Path
) -> None:
    store_metrics(lake, "m1", scores(0.4, 0.5))
    store_metrics(lake, model, scores(0.6, 0.45))
    for words in ((str(tiny_model),), (model[:6],)):
        found = start(lake, *words)
        assert (found.returncode, found.stderr) == (0, "")
        assert read_pointer(lake).next_model == model
    lines = {
        line.split()[1]: line.replace("│", " ").split() for line in found.stdout.splitlines() if "│" in line
    }
    assert lines["skirt_length"] == ["skirt_length", "0.4000", "0.6000", "+0.2000", "1.000", "-"]
    assert lines["collar_design"] == ["collar_design", "1.000", "-"]
    assert lines["all,"] == ["all,", "query-weighted", "0.4750", "0.4875", "+0.0125"]
    assert "embeds all 3 live pictures" in found.stdout
    assert f"jobs/rollback.py --lake {lake.url}" in found.stdout
    (report, _) = reports(lake)
    assert (report["promotion"]["serving"], report["promotion"]["candidate"]) == ("m1", model)
    assert report["promotion"]["judged"]["rows"]["skirt_length"] == [0.4, 0.6]


def test_a_worse_model_is_shown_and_refused_unless_somebody_says_why(
    lake: Lake, serving: Manifest, model: str
) -> None:
    store_metrics(lake, "m1", scores(0.5, 0.5))
    store_metrics(lake, model, scores(0.5, 0.45))
    refused = start(lake, model)
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "lower by 0.0375" in refused.stderr
    assert "0.4500" in refused.stdout
    assert read_pointer(lake).next_model == ""

    assert start(lake, model, "--max-loss", "0.04").returncode == 0
    assert start(lake, "--cancel").returncode == 0
    assert read_pointer(lake).next_model == ""
    forced = start(lake, model, "--force", "--why", "knows the new lapels")
    assert forced.returncode == 0
    assert read_pointer(lake).next_model == model
    (kept,) = [each["promotion"] for each in reports(lake) if each["promotion"]["forced"]]
    assert kept["who"]
    assert kept["why"] == "knows the new lapels"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected a MODEL to promote"),
        (["ffff"], "begins with 'ffff'"),
        (["m1"], "is what serves"),
        (["--cancel"], "nothing to cancel"),
        (["m1", "--cancel"], "expected MODEL or --cancel"),
        (["m1", "--force"], "add --why REASON"),
    ],
)
def test_a_mistake_is_one_line(lake: Lake, serving: Manifest, words: list[str], said: str) -> None:
    before = lake.store.read(CURRENT)
    found = start(lake, *words)
    assert found.returncode == 2
    assert len(found.stderr.strip().splitlines()) == 1
    assert said in found.stderr
    assert lake.store.read(CURRENT) == before


def test_a_lake_without_a_snapshot_has_nothing_to_compare_with(lake: Lake, model: str) -> None:
    found = start(lake, model)
    assert found.returncode == 2
    assert "nothing is published" in found.stderr


def test_a_new_taxonomy_is_said_to_need_a_flag_at_night_too(
    lake: Lake, serving: Manifest, other_taxonomy_model: Path
) -> None:
    other = import_model(lake, other_taxonomy_model)
    store_metrics(lake, "m1", scores(0.4, 0.5))
    store_metrics(lake, other, scores(0.6, 0.6))
    assert start(lake, other).returncode == 2
    found = start(lake, other, "--allow-new-taxonomy")
    assert found.returncode == 0
    assert "jobs/nightly.py --allow-new-taxonomy embeds" in found.stdout
