"""All attributes of an image in one pass of the folded network: what embeds catalogs and queries."""

import copy

import torch
from torch import Tensor, nn

from agman.errors import InvalidInput
from agman.folding import AllEmbedded, FoldedAttention, fold
from agman.fusing import fuse_blocks
from agman.model import Network

__all__ = ["AllEmbedded", "Embedder", "native_dtype"]


class Embedder(nn.Module):
    """The folded network. It copies the network's weights; later training does not reach it."""

    def __init__(self, network: Network, dtype: torch.dtype | None = None, *, compiled: bool = False) -> None:
        """Fold a network on its own device.

        Args:
            network: left unchanged; its running batch-norm statistics are used, whatever its mode.
            dtype: of trunk and large products: float32, bfloat16, or None to choose by the device.
            compiled: run through `torch.compile`: each new shape of a batch costs half a minute once.

        Raises:
            InvalidInput: for another dtype.
        """
        super().__init__()
        self.device = next(network.parameters()).device
        self.dtype = dtype or native_dtype(self.device)
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise InvalidInput(f"dtype must be torch.float32 or torch.bfloat16, found {dtype}")
        source = copy.deepcopy(network).cpu().eval().requires_grad_(False)
        self.lower, self.upper, self.head = fold(source, self.dtype)
        # Where bfloat16 is native; a CPU that emulates it has no such operators. Compiling fuses by itself.
        is_native = self.device.type == "cpu" and self.dtype == native_dtype(self.device) == torch.bfloat16
        if is_native and not compiled:
            fuse_blocks(self)
        self.to(memory_format=torch.channels_last).to(self.device)
        self._run = torch.compile(self._all, dynamic=False) if compiled else self._all

    @torch.inference_mode()
    def embed(self, pixels: Tensor) -> Tensor:
        """Embed images under every attribute.

        Args:
            pixels: [B, 3, H, W] float, normalised; any size from 32 pixels.

        Returns:
            [B, A, D] float32, unit norm.
        """
        return self.embed_with_attention(pixels).embedding

    @torch.inference_mode()
    def embed_with_attention(self, pixels: Tensor) -> AllEmbedded:
        """Embed images under every attribute and say where each attribute looked.

        Args:
            pixels: [B, 3, H, W] float, normalised.
        """
        return self._run(pixels.to(self.dtype, memory_format=torch.channels_last))

    @torch.inference_mode()
    def embed_with_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images and return also what every attribute of AG-MAN looks at, whichever it is.

        Args:
            pixels: [B, 3, H, W] float, normalised.

        Returns:
            Embeddings [B, A, D] and features [B, D, H/16, W/16], float32.

        Raises:
            InvalidInput: if the network is a baseline, which has no such features.
        """
        if not isinstance(self.head, FoldedAttention):
            raise InvalidInput("features that attributes look at: expected AG-MAN, found a baseline")
        level2 = self.lower(pixels.to(self.dtype, memory_format=torch.channels_last))
        level3 = self.upper(level2)
        by_place, places = self.head.features(level2, level3), level3.shape[2:]
        features = by_place.float().transpose(1, 2).reshape(*by_place.shape[::2], *places)
        return self.head.embed(by_place, places).embedding, features

    def _all(self, images: Tensor) -> AllEmbedded:
        level2 = self.lower(images)
        embedded: AllEmbedded = self.head(level2, self.upper(level2))
        return embedded


def native_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the processor multiplies it natively, else float32.

    Emulated bfloat16 is slower than float32, and on a CPU without the instructions much slower.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.bfloat16 if native else torch.float32
