"""A process that embeds never imports PyTorch's compiler; who asks for it gets the real one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import is_compile_supported

from agman import vision  # noqa: F401  imports torchvision
from agman.checkpoint import save_model
from agman.model import ModelConfig
from agman.networks import build_network
from agman.taxonomy import FASHIONAI, Taxonomy
from agman.transforms import Preprocess
from agman.unfilled import unfilled

LOADED = """
import sys, torch
from agman.checkpoint import load_model
from agman.embedder import Embedder
Embedder(load_model(sys.argv[1]).model, dtype=torch.float32).embed(torch.zeros(1, 3, 32, 32))
sys.exit("torch._dynamo" in sys.modules)
"""


def test_a_model_is_loaded_and_embeds_without_the_compiler(tmp_path: Path) -> None:
    network = build_network(ModelConfig(trunk="resnet18", embedding_dim=8), 2).eval()
    save_model(network, Taxonomy(FASHIONAI.attributes[:2]), Preprocess(image_size=32), tmp_path)
    ended = subprocess.run([sys.executable, "-c", LOADED, tmp_path], check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()


def test_torchvision_gets_the_compilers_answer() -> None:
    asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported
    assert asked("cpu") == is_compile_supported("cpu")
    assert sys.modules["torch._dynamo"].utils.is_compile_supported is is_compile_supported


@pytest.mark.parametrize("trunk", ["resnet18", "convnext_tiny", "efficientnet_v2_s"])
@pytest.mark.parametrize("head", ["agman", "csn", "plain"])
def test_an_unfilled_network_has_the_shapes_and_no_memory(trunk: str, head: str) -> None:
    config = ModelConfig(trunk=trunk, embedding_dim=8, head=head)
    with unfilled():
        shapes = build_network(config, 2).state_dict()
        assert torch.ones(2).is_meta
    assert all(tensor.is_meta for tensor in shapes.values())
    expected = build_network(config, 2).state_dict()
    assert {name: tensor.shape for name, tensor in shapes.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert torch.ones(2).tolist() == [1, 1]
