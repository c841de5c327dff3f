"""The embedder's benchmark runs and reports what it promises; what it measures is not tested."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import embedder


def test_the_embedder_reports_its_figures(tmp_path: Path, reported: Callable[[], dict[str, Any]]) -> None:
    options = embedder.Options(
        batch=2, image_size=32, threads=1, trunk="resnet18", results=tmp_path / "figures.json"
    )
    embedder.main(options)
    last = reported()
    assert last == json.loads((tmp_path / "figures.json").read_text())
    assert set(last) == {"benchmark", "figures", "floor", "machine", "versions", "date"}
    names = {"ratio_float32", "ratio_bfloat16", "share_of_matmul_bfloat16", "cost_32_over_1"}
    assert names <= set(last["figures"])
    assert last["figures"]["max_difference_float32"] < 1e-5
    # Of ResNet-18 the plain network computes eight trunks and tops, the folded one a trunk without its top.
    assert last["floor"]["plain_gflop_per_image"] > 8 * last["floor"]["folded_gflop_per_image"]
