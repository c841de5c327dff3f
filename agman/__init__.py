"""AG-MAN: one unit vector per image and fashion attribute.

The package knows torch, torchvision, numpy, Pillow and safetensors, and nothing of clusters or storage.
Names are imported when first used, so that a process which only checks images or names an error does not
spend two seconds and 300 MB on torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agman.checkpoint import load_model, load_published
    from agman.embedder import Embedder
    from agman.model import AGMAN, ModelConfig, Network
    from agman.networks import build_network
    from agman.taxonomy import FASHIONAI, Taxonomy

__all__ = [
    "AGMAN", "FASHIONAI", "Embedder", "ModelConfig", "Network", "Taxonomy", "build_network", "load_model",
    "load_published",
]  # fmt: skip

_HOME = {
    "AGMAN": "agman.model",
    "FASHIONAI": "agman.taxonomy",
    "Embedder": "agman.embedder",
    "ModelConfig": "agman.model",
    "Network": "agman.model",
    "Taxonomy": "agman.taxonomy",
    "build_network": "agman.networks",
    "load_model": "agman.checkpoint",
    "load_published": "agman.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import a public name at first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'agman' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
