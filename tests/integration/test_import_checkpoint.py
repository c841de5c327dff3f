"""The authors' checkpoint from its file to embeddings in Parquet, by the jobs a person runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from called_jobs import call
from golden_values import GOLDEN_ATTRIBUTES, golden_arrays, golden_input, golden_model
from PIL import Image

from agman.checkpoint import load_model
from agman.model import AGMAN
from pipelines.lake import Lake
from pipelines.models import fetch_model, list_models
from pipelines.parts import read_embeddings

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


def publish(model: AGMAN, path: Path) -> None:
    """Write a file as the authors' code does, with its wrapper's prefix and the trunk's unused classifier."""
    state = {f"embeddingnet.{name}": tensor for name, tensor in model.state_dict().items()}
    state["embeddingnet.backbonenet.fc.weight"] = torch.zeros(1000, 2048)
    torch.save({"epoch": 7, "state_dict": state, "prec": np.float64(62.88)}, path)


def as_pictures(values: torch.Tensor, folder: Path) -> tuple[float, float]:
    """Write the golden input [N, 3, 224, 224] as 8-bit pictures; return the mean and deviation to undo it."""
    low, span = float(values.min()), float(values.max() - values.min())
    folder.mkdir()
    for number, levels in enumerate(((values - low) / span * 255).round().byte()):
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return -low / span, 1 / span


def test_an_imported_checkpoint_gives_the_golden_embeddings(lake: Lake, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model_best.pth.tar"
    publish(golden_model(), checkpoint)
    mean, deviation = as_pictures(golden_input(), tmp_path / "pictures")
    numbers = [f"--preprocess.{name}={value!r}" for name, value in (("mean", mean), ("std", deviation))]
    levels = [word for number in numbers for word in (number.split("=")[0], *[number.split("=")[1]] * 3)]
    imported = call("import_checkpoint.py", str(checkpoint), f"--lake={lake.url}", *levels)
    assert imported.returncode == 0, imported.stdout + imported.stderr
    (model,) = list_models(lake)
    assert model in imported.stdout
    assert "its rows will name no values" in imported.stdout
    with fetch_model(lake, model) as folder:
        stored = load_model(folder).model.state_dict()
    assert all(torch.equal(stored[name], tensor) for name, tensor in golden_model().state_dict().items())

    embedded = call(
        "embed_catalog.py", f"--lake={lake.url}", f"--source={tmp_path / 'pictures'}", f"--model={model}",
        "--embed.precision=float32", "--embed.threads=2",
    )  # fmt: skip
    assert embedded.returncode == 0, embedded.stdout + embedded.stderr
    found = {}
    for attribute in GOLDEN_ATTRIBUTES:
        (name,) = lake.store.list_names(f"embeddings/model={model}/attribute={attribute}")
        with lake.store.local_copy(name) as path:
            digests, vectors = read_embeddings(path)
        found[attribute] = dict(zip(digests, vectors, strict=True))
    order = _by_number(lake)
    vectors = np.stack([[found[name][digest] for name in GOLDEN_ATTRIBUTES] for digest in order])
    # 8 bits a level move the input by 1%; what was imported with another order or scale is far away.
    cosines = (vectors * golden_arrays()["embedding"]).sum(-1)
    assert cosines.min() > 0.999


def _by_number(lake: Lake) -> list[str]:
    """Return the sha256 of 0.png and 1.png, in this order."""
    import pyarrow.parquet as pq

    (index,) = (name for name in lake.store.list_names("shards/catalog") if name.endswith(".parquet"))
    with lake.store.local_copy(index) as path:
        rows = pq.read_table(path, columns=["key", "sha256"]).to_pylist()
    return [row["sha256"] for row in sorted(rows, key=lambda row: row["key"])]


def test_wrong_checkpoints_are_one_line(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "wrong.pth.tar"
    model = golden_model()
    state = {f"embeddingnet.{name}": tensor for name, tensor in model.state_dict().items()}
    state["embeddingnet.fc1.weight"] = torch.zeros(512, 1000)
    torch.save({"epoch": 1, "state_dict": state, "prec": 1.0}, path)
    refused = call("import_checkpoint.py", str(path), f"--lake={lake.url}")
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert "fc1.weight expected (512, 1024)" in refused.stderr
    assert list_models(lake) == []
