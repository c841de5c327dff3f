"""The benchmarks run and report what they promise; what they measure is not tested."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inline_ray import inline_ray
from narrow_trunk import narrow
from PIL import Image

from agman.transforms import Preprocess
from benchmarks import (
    bench,
    embedder,
    gpu,
    growth,
    img2dataset,
    index,
    line,
    memory,
    parquet,
    photographs,
    plan,
    quality,
    scaling,
    search,
    second_night,
    sharding,
    train,
)
from benchmarks.made_shards import make_model, make_shards
from benchmarks.made_up import MadeUp
from benchmarks.quality import BATCH, PAPER, Curve
from benchmarks.reporting import in_turn
from benchmarks.second_night import Cost
from pipelines.lake import Lake


def test_the_embedder_reports_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    options = embedder.Options(
        batch=2, image_size=32, threads=1, trunk="resnet18", results=tmp_path / "figures.json"
    )
    try:
        embedder.main(options)
    finally:
        torch.set_num_threads(threads)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last == json.loads((tmp_path / "figures.json").read_text())
    assert set(last) == {"benchmark", "figures", "floor", "machine", "versions", "date"}
    names = {"ratio_float32", "ratio_bfloat16", "share_of_matmul_bfloat16", "cost_32_over_1"}
    assert names <= set(last["figures"])
    assert last["figures"]["max_difference_float32"] < 1e-5
    # Of ResNet-18 the plain network computes eight trunks and tops, the folded one a trunk without its top.
    assert last["floor"]["plain_gflop_per_image"] > 8 * last["floor"]["folded_gflop_per_image"]


def test_nights_of_which_a_share_changes_embed_that_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    results = tmp_path / "figures.json"
    options = second_night.Options(num_images=30, change=0.2, nights=1, image_size=32, results=results)
    threads = torch.get_num_threads()
    try:
        with inline_ray():
            second_night.main(options)
    finally:
        torch.set_num_threads(threads)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last == json.loads(results.read_text())
    figures = last["figures"]
    # Of the 6 that change, 2 are deleted, 2 edited and 2 added.
    assert (figures["first_embedded"], figures["second_embedded"]) == (30, 4)
    assert (figures["first_probed"], figures["second_probed"]) == (30, 30)
    assert last["floor"] == {"model_time_share": 0.133333}
    assert 0 < figures["second_worker_model_s"] < figures["second_embed_s"] < figures["second_s"]


def test_workers_that_wait_for_their_model_embed_every_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    results = tmp_path / "figures.json"
    options = scaling.Options(
        images_per_worker=4,
        images_per_shard=2,
        model_ms=1,
        image_size=32,
        rounds=1,
        lake=str(tmp_path / "lake"),
        results=results,
    )
    threads = torch.get_num_threads()
    try:
        with inline_ray():
            scaling.main(options)
    finally:
        torch.set_num_threads(threads)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last == json.loads(results.read_text())
    # Within one process four workers are as slow as one.
    assert 0.1 < last["figures"]["efficiency_4"] < 0.6
    receipts = [*(tmp_path / "lake" / "receipts" / "embeddings").rglob("*.json")]
    assert len(receipts) == 2 * 2 * sum(scaling.COUNTS)  # rounds with the one to warm up, units a worker


STAND_IN = """#!{python}
import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
pictures = pathlib.Path(options["--url_list"]).read_text().split()
assert all(each.startswith("file:///") for each in pictures)
size, folder = int(options["--number_sample_per_shard"]), pathlib.Path(options["--output_folder"])
folder.mkdir()
for first in range(0, len(pictures), size):
    stats = dict(successes=len(pictures[first : first + size]), start_time=first, end_time=first + size + 0.5)
    (folder / f"{{first:05d}}_stats.json").write_text(json.dumps(stats))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Give an environment with a command that takes img2dataset's options and leaves its figures."""
    command = tmp_path / "environment" / "bin" / "img2dataset"
    command.parent.mkdir(parents=True)
    command.write_text(STAND_IN.format(python=sys.executable))
    command.chmod(0o755)
    return tmp_path / "environment"


def test_pictures_are_packed_beside_img2dataset_and_the_floor(
    tmp_path: Path, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "figures.json"
    options = sharding.Options(
        num_images=6,
        images_per_shard=2,
        rounds=1,
        trunk="resnet18",
        embedded=4,
        img2dataset=stand_in,
        folder=tmp_path,
        results=results,
    )
    with inline_ray():
        sharding.main(options)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last == json.loads(results.read_text())
    figures, floor = last["figures"], last["floor"]
    for how in ("as_is", "resize"):
        ours, theirs = figures[f"images_per_s_{how}"], figures[f"images_per_s_{how}_img2dataset"]
        assert theirs == pytest.approx(6 / 6.5, abs=1e-5)
        assert figures[f"ratio_{how}"] == pytest.approx(ours / theirs, rel=1e-4)
        assert figures[f"images_per_s_{how}_job"] < ours
    ours = figures["images_per_s_as_is"]
    assert figures["share_of_floor_as_is"] == pytest.approx(ours / floor["images_per_s_as_is"], rel=1e-4)
    assert floor["images_per_s_as_is"] < min(floor["images_per_s_cat"], floor["images_per_s_sha256sum"])
    assert figures["mean_cosine_of_others"] < figures["mean_cosine_resize"] < 1
    for shortcut in ("resize", "oversampling_1"):
        assert 0.9 < figures[f"min_cosine_{shortcut}"] < figures[f"mean_cosine_{shortcut}"]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("sharding-")] == []


def test_without_img2dataset_ours_is_measured_alone(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environment").touch()  # where a folder cannot be made
    options = sharding.Options(
        num_images=2,
        images_per_shard=2,
        rounds=1,
        embedded=2,
        model=tiny_model,
        img2dataset=tmp_path / "environment",
        folder=tmp_path,
    )
    with inline_ray():
        sharding.main(options)
    said = capsys.readouterr().out
    assert "img2dataset cannot be installed; nothing is compared with it" in said
    assert "ratio_as_is" not in json.loads(said.strip().splitlines()[-1])["figures"]


def test_a_side_that_loses_pictures_is_not_measured(tmp_path: Path, stand_in: Path) -> None:
    command = img2dataset.install(stand_in)
    command.write_text(command.read_text().replace("len(pictures[", "1 + len(pictures["))
    with pytest.raises(RuntimeError, match="packed 3 of 2 pictures"):
        img2dataset.pack(
            command, [tmp_path / "a", tmp_path / "b"], tmp_path / "tars", (), processes=1, shard=2
        )


def test_a_tar_of_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="images_per_shard: expected 1 to 8, found 9"):
        sharding.Options(num_images=8, images_per_shard=9)


def test_the_driver_plans_what_was_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    options = plan.Options(rows=3000, change=0.1)
    plan.make_up(options, tmp_path)
    figures = plan.figures(plan.run_driver(options, tmp_path))
    # 100 records are gone, 100 edited and 100 new.
    assert (figures["unchanged"], figures["wanted"], figures["gone"], figures["refused"]) == (
        2800,
        200,
        100,
        0,
    )
    assert (figures["rows"], figures["reused"], figures["pictures"]) == (3000, 2800, 3000)
    assert (figures["shards"], figures["parts"]) == (1, 7)  # 3,000 records in shards of 512, and the new one
    assert 0 < figures["read_and_compare_s"] < figures["seconds"]


def test_a_search_is_measured_on_what_was_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "figures.json"
    options = search.Options(
        rows=3000, dim=16, exact_rows=1000, queries=3, rounds=1, lake=str(tmp_path / "lake"), results=results
    )
    threads = torch.get_num_threads()
    try:
        search.main(options)
    finally:
        torch.set_num_threads(threads)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last == json.loads(results.read_text())
    figures, floor = last["figures"], last["floor"]
    assert figures["recall"] > 0.9
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert all(figures[f"cold_start_{side}_ms"] > figures["p50_ms"] for side in search.OPENED)
    # Lists of 3,000 vectors are 219: a query reads fewer vectors than all, and the centres.
    assert 219 * 16 * 4 < floor["scanned_bytes"] < figures["index_bytes"]


def test_every_kind_of_index_is_built_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    options = index.Options(
        rows=1500, dim=16, queries=5, rounds=1, autofaiss=False, results=tmp_path / "figures.json"
    )
    assert index.kinds(options) == {
        "exact": "flat",
        "lists": "IVF154,SQfp16",
        "compressed": "IVF154,PQ2x8,Refine(SQfp16)",
    }
    try:
        index.main(options)
    finally:
        torch.set_num_threads(threads)
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    figures = last["figures"]
    assert figures["recall_exact"] == 1
    assert figures["recall_lists"] > 0.9
    assert figures["memory_bytes_compressed"] < figures["bytes_compressed"]
    assert 32 <= figures["bytes_exact"] < figures["bytes_lists"]


def test_builds_are_compared_as_rates_and_memory_as_bytes() -> None:
    ours, other = (
        index.Built(seconds, 0.9, 10, held, 1, "kind") for seconds, held in ((2.0, 30.0), (6.0, 60.0))
    )
    found = index.figures({index.LISTS: ours, index.ROOMY: other}, 100)
    assert (found["ratio_build_roomy"], found["memory_ratio_roomy"]) == (3, 0.5)
    assert "ratio_build_tight" not in found
    assert index.median([ours, other, other]) == other


def test_made_up_vectors_are_those_of_their_seed_as_the_lake_stores_them() -> None:
    made_up = MadeUp(num_rows=1000, dim=32, rows_per_part=300)
    parts = [made_up.part(number) for number in range(made_up.num_parts)]
    every = np.concatenate(parts)
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert np.array_equal(parts[2], MadeUp(num_rows=1000, dim=32, rows_per_part=300).part(2))
    assert np.array_equal(every, every.astype(np.float16))
    assert np.abs(np.linalg.norm(every, axis=1) - 1).max() < 1e-3
    queries = made_up.queries(5)
    assert made_up.exact(queries, 7) == pytest.approx(-np.sort(-queries @ every.T, axis=1)[:, :7], abs=1e-6)
    assert not np.array_equal(queries, MadeUp(num_rows=1000, dim=32, seed=1).queries(5))


def test_efficiency_is_of_one_worker_and_its_floor_of_the_cores() -> None:
    measured = {1: scaling.Measured(10, 100, 2.0), 4: scaling.Measured(12.5, 400, 12.0)}
    found = scaling.figures(measured)
    assert (found["images_per_s_4"], found["efficiency_4"]) == (32, 0.8)
    assert (found["work_ms_per_image_1"], found["work_ms_per_image_4"]) == (20, 30)
    # A worker keeps a core busy for 20 of 100 ms: 2 cores carry 10 workers, half a core 2.5.
    assert scaling.floors(measured, 80, 2) == {"efficiency_1": 1, "efficiency_4": 1}
    assert scaling.floors(measured, 80, 0.5)["efficiency_4"] == pytest.approx(0.625)


def test_later_nights_count_by_their_medians() -> None:
    nights = [
        Cost(
            embedded,
            64,
            {"embed": embed, "rest": 1.0},
            {"read": 0.0, "decode": 0.0, "model": model, "write": 0.0},
        )
        for embedded, embed, model in ((20, 9.0, 0.3), (22, 3.0, 0.2), (21, 4.0, 0.9))
    ]
    later = second_night.median(nights)
    assert (later.embedded, later.seconds, later.work["model"]) == (21, 5.0, 0.3)
    first = Cost(3000, 60, {"embed": 99.0, "rest": 1.0}, {**later.work, "model": 30.0})
    figures = second_night.figures(first, later)
    assert figures["model_time_share_without_probe"] == pytest.approx(0.01)
    # The probe's 60 and 64 pictures at 10 ms each.
    assert figures["model_time_share"] == pytest.approx((0.3 + 0.64) / (30 + 0.6))
    assert figures["time_share"] == pytest.approx(0.05)


def test_a_comparison_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nights: expected at least 1, found 0"):
        second_night.Options(nights=0)
    with pytest.raises(ValueError, match="change: expected a share above 0"):
        second_night.Options(change=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to measure")
def test_without_a_gpu_the_script_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main()
    assert capsys.readouterr().out.strip().splitlines()[-1] == "no GPU found: nothing was measured"


def test_sides_are_taken_in_turn() -> None:
    taken: list[str] = []
    ticks = iter(range(100))
    seconds = in_turn(
        {"a": lambda: taken.append("a"), "b": lambda: taken.append("b")}, 5, lambda: float(next(ticks) ** 2)
    )
    assert taken == ["a", "b"] * 6
    assert seconds["b"] > seconds["a"]
    with pytest.raises(ValueError, match="at least 5, found 3"):
        in_turn({}, 3)


@pytest.mark.parametrize(
    ("scores", "share"),
    [
        ([0.1, 0.2, 0.5, 0.6], 2 / 3),
        ([0.1, 0.5, 0.2, 0.6], 1.0),
        ([0.1, 0.2, 0.3, 0.3], None),
        ([0.9] * 4, 0),
    ],
)
def test_a_variant_has_reached_the_paper_when_it_stays_there(
    scores: list[float], share: float | None
) -> None:
    paper = [Curve(PAPER, seed, ((0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4 + 0.02 * seed)), 9) for seed in (0, 1)]
    batch = [Curve(BATCH, 0, tuple(enumerate(scores)), 9)]
    assert quality.time_share([*paper, *batch], BATCH) == share


def test_nights_of_growing_catalogs_are_fitted_by_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    monkeypatch.setattr(growth, "FACTORS", (1, 2))
    threads = torch.get_num_threads()
    try:
        with inline_ray():
            growth.main(growth.Options(num_images=4, picture_width=32, image_size=32))
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["figures"]
    assert figures["seconds_2x"] > figures["read_source_s_2x"] > 0
    assert figures["work_ms_per_image_1x"] > 0


def test_start_up_is_what_a_night_without_pictures_would_cost() -> None:
    nights = [growth.Night(n, {"read source": 1.0, "rest": 9.0 + 0.5 * n}, 0.1 * n) for n in (10, 20, 40, 80)]
    start_s, image_s = growth.fitted(nights)
    assert (start_s, image_s) == (pytest.approx(10), pytest.approx(0.5))
    found = growth.figures(nights, start_s, image_s)
    assert found["per_image_8x_over_1x"] == pytest.approx(1)
    assert found["work_ms_per_image_8x"] == pytest.approx(100)


def test_the_line_is_compared_with_the_faster_bare_embedder() -> None:
    seconds = {"bare, one process": 8.0, "bare, in the workers": 5.0, "line": 10.0}
    seconds |= {"whole line": 16.0, "Ray Data": 20.0}
    found = line.figures(100, seconds, {(1, 1): 7.0}, [2.0, 3.0])
    assert (found["share_of_bare_model"], found["ratio_ray_data"]) == (0.5, 1.25)
    assert (found["peak_gib_4x_over_1x"], found["start_s"], found["images_per_s_1x1"]) == (1.5, 6, 7)


def test_the_line_embeds_and_indexes_every_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    lake = Lake(str(tmp_path / "lake"))
    options = line.Options(num_images=6, images_per_shard=3, image_size=32, batch_size=2)
    photographs.write_photographs(tmp_path / "pictures", 6, 32)
    threads = torch.get_num_threads()
    try:
        with inline_ray():
            shards = make_shards(lake, str(tmp_path / "pictures"), 3, "line")
            model = make_model(lake, tmp_path / "model", "resnet18", Preprocess(image_size=32))
            line.Line(lake, model, shards, options).whole(copies=2)
    finally:
        torch.set_num_threads(threads)
    parts = [*(tmp_path / "lake" / "embeddings").rglob("*.parquet")]
    assert len(parts) == 2 * 2 * 8  # copies, shards, attributes
    assert len([*(tmp_path / "lake" / "indexes").rglob("*.faiss")]) == 2 * 8


def test_training_sides_see_the_pictures_of_their_triplets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agman.backbone.get_model", narrow)
    threads = torch.get_num_threads()
    options = train.Options(
        num_images=60, buffer_samples=30, image_size=32, trunk="resnet18", triplets=2, rounds=1
    )
    try:
        with inline_ray():
            train.main(options)
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["figures"]
    assert 0 < figures["waiting_share"] < 1
    assert figures["ratio_plain_loop_float32"] > 0


def test_photographs_are_all_different(tmp_path: Path) -> None:
    made = photographs.write_photographs(tmp_path / "pictures", 20)
    assert len({path.read_bytes() for path in made}) == 20
    assert all(50_000 < path.stat().st_size < 100_000 for path in made)
    (small,) = photographs.write_photographs(tmp_path / "small", 1, 64)
    assert Image.open(small).size == (64, 80)


def test_memory_is_watched_while_it_is_held(wait: Callable[..., None]) -> None:
    with memory.PeakMemory() as before:
        wait("a first look", lambda: before.gib > 0)
    with memory.PeakMemory() as peak:
        held = np.ones(1 << 28, np.uint8)
        wait("a quarter of a GiB more", lambda: peak.gib > before.gib + 0.2)
    assert held.all()


def test_the_column_is_compared_in_every_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up = MadeUp(num_rows=300, dim=16)
    vectors = made_up.part(0)
    query = made_up.queries(1)[0]
    expected = [f"{row:064x}" for row in np.argsort(-(vectors @ query))[:10]]
    for path in parquet.write_all(tmp_path, vectors).values():
        np.testing.assert_allclose(parquet.read_with_pyarrow(path), vectors, rtol=1e-3)
        assert set(parquet.nearest_with_duckdb(path, query)[:5]) <= set(expected)
    parquet.main(parquet.Options(rows=300, dim=16))
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["figures"]
    assert 0 < figures["bytes_over_unrounded"] < 1


def test_every_script_of_the_table_is_there_and_may_fail_alone() -> None:
    scripts = {path.stem for path in Path(bench.__file__).parent.glob("*.py")}
    assert set(bench.QUICK) <= scripts
    assert {figure.script for figure in bench.FIGURES} <= set(bench.QUICK)
    figures = bench.run("parquet", ("--rows", "50", "--dim", "8"))
    named = {figure.name for figure in bench.FIGURES if figure.script == "parquet"}
    assert named <= set(figures)
    assert bench.run("parquet", ("--rows", "many")) == {}
