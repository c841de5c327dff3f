import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agman.checkpoint import load_model, load_published, model_digest, save_model
from agman.errors import CheckpointMismatch, InvalidInput
from agman.model import AGMAN
from agman.taxonomy import FASHIONAI, Taxonomy
from agman.transforms import Preprocess

TAXONOMY = Taxonomy(FASHIONAI.attributes[:3])


def published(model: AGMAN, path: Path, **changes: object) -> Path:
    state = {f"embeddingnet.{name}": tensor for name, tensor in model.state_dict().items()}
    state["embeddingnet.backbonenet.fc.weight"] = torch.zeros(1000, 512)
    torch.save({"epoch": 3, "state_dict": {**state, **changes}, "prec": np.float64(62.8)}, path)
    return path


def test_folder_round_trip(small_model: AGMAN, tmp_path: Path) -> None:
    preprocess = Preprocess(image_size=96)
    digest = save_model(small_model, TAXONOMY, preprocess, tmp_path / "m", extra={"map": 62.5})
    loaded = load_model(tmp_path / "m")
    assert loaded[1:] == (TAXONOMY, preprocess, digest, None)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["extra"] == {"map": 62.5}
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for found, expected in zip(
            loaded.model(images, torch.tensor([0, 2])), small_model(images, torch.tensor([0, 2])), strict=True
        ):
            assert torch.equal(found, expected)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "weights.safetensors"]


def test_loaded_model_can_be_trained(small_model: AGMAN, tmp_path: Path) -> None:
    save_model(small_model, TAXONOMY, Preprocess(), tmp_path)
    model = load_model(tmp_path).model
    model(torch.randn(2, 3, 64, 64), torch.tensor([0, 2])).embedding[:, 0].sum().backward()
    assert model.masks.weight.grad is not None


def test_digest_sees_weights_taxonomy_and_preprocess(small_model: AGMAN) -> None:
    weights = dict(small_model.state_dict())
    base = model_digest(weights, TAXONOMY, Preprocess())
    changed = {**weights, "w1": weights["w1"] + 1e-6}
    reversed_taxonomy = Taxonomy(TAXONOMY.attributes[::-1])
    others = [
        model_digest(changed, TAXONOMY, Preprocess()),
        model_digest(weights, reversed_taxonomy, Preprocess()),
        model_digest(weights, TAXONOMY, Preprocess(image_size=256)),
    ]
    assert len({base, *others}) == 4
    assert model_digest(dict(reversed(weights.items())), TAXONOMY, Preprocess()) == base


def test_first_wrong_tensor_is_named(small_model: AGMAN, tmp_path: Path) -> None:
    save_model(small_model, TAXONOMY, Preprocess(), tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    narrow = weights["fc1.weight"][:, 1:].clone()
    wrong = {
        r"fc1.weight expected \(48, 96\) torch.float32, found \(48, 95\)": narrow,
        r"fc1.weight expected .* found .* torch.float16": weights["fc1.weight"].half(),
        r"fc1.weight holds values that are not finite": weights["fc1.weight"] * torch.nan,
        r"names digest": weights["fc1.weight"] * 2,
    }
    for message, tensor in wrong.items():
        save_file({**weights, "fc1.weight": tensor}, tmp_path / "weights.safetensors")
        with pytest.raises(CheckpointMismatch, match=message):
            load_model(tmp_path)
    save_file({n: t for n, t in weights.items() if n != "w2"}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"w2 expected \(1,\), found nothing"):
        load_model(tmp_path)
    save_file({**weights, "w3": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointMismatch, match="w3 is not part"):
        load_model(tmp_path)


def test_damaged_folders_are_refused(small_model: AGMAN, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"config\.json is missing"):
        load_model(tmp_path)
    save_model(small_model, TAXONOMY, Preprocess(), tmp_path)
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointMismatch, match="cannot be read"):
        load_model(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointMismatch, match="architecture"):
        load_model(tmp_path)


def test_taxonomy_must_fit_the_network(small_model: AGMAN, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="3 attributes, the taxonomy 8"):
        save_model(small_model, FASHIONAI, Preprocess(), tmp_path)


def test_published_checkpoint(small_model: AGMAN, tmp_path: Path) -> None:
    path = published(small_model, tmp_path / "model_best.pth.tar")
    loaded = load_published(path, trunk="resnet18")
    assert loaded.num_attributes == 3
    assert not loaded.training
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with pytest.raises(CheckpointMismatch, match=r"attr_transform1|conv1\.weight"):
        load_published(path)
    without = published(small_model, path)
    torch.save({"epoch": 3, "state_dict": {}, "prec": 1.0}, without)
    with pytest.raises(CheckpointMismatch, match=r"masks\.weight expected .* found nothing"):
        load_published(without)


class Sly:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/dev/null",))


def test_published_checkpoint_cannot_execute(small_model: AGMAN, tmp_path: Path) -> None:
    path = tmp_path / "sly.pth.tar"
    whole = published(small_model, path).read_bytes()
    torch.save({"epoch": 1, "state_dict": {}, "prec": Sly()}, path)
    with pytest.raises(CheckpointMismatch, match="no checkpoint of plain tensors"):
        load_published(path)
    for damaged in (b"not a checkpoint", b"hello world\n", b"", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointMismatch, match="no checkpoint of plain tensors"):
            load_published(path)
    wrong = published(small_model, path, **{"embeddingnet.fc2.bias": torch.zeros(3)})
    with pytest.raises(CheckpointMismatch, match=r"fc2.bias expected \(48,\)"):
        load_published(wrong, trunk="resnet18")
