"""All attributes of an image in one pass: the network folded for inference.

Everything expensive is independent of the attribute, so A embeddings cost one trunk pass and two small
matrix products. Equal to `AGMAN` in eval mode; the algebra, with C the matrix of `conv1_1` and
conv1's weight split into [Wa | Wb]:

    f         = w (Wa + Wb) L3 + w Wb C maxpool(L2) + bias     the doubled-width tensor never exists
    scores    = keys queries'                                  one product for all attributes
    mean_ch g = att mean_ch f;   max_ch g = att (max_ch f where att >= 0, else min_ch f)
    v         = (att gate) f                                   pooling is a product too
    fc1       = its left half times v, plus a constant per attribute

layer4 and fc_embed serve training alone and are left out; batch norms are folded into convolutions.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from agman.attention import AttributeHead
from agman.backbone import Trunk
from agman.errors import InvalidInput
from agman.model import AGMAN


class AllEmbedded(NamedTuple):
    """B images under all A attributes."""

    embedding: Tensor
    """[B, A, D] float32, unit norm."""
    attention: Tensor
    """[B, A, H/16, W/16] float32: softmax over places times `w1`."""


class Embedder(nn.Module):
    """The folded network. It copies the model's weights; later training does not reach it."""

    attended_level3: Tensor
    attended_level2: Tensor
    features_bias: Tensor
    key_scale: Tensor
    key_shift: Tensor
    queries: Tensor
    gate_kernel: Tensor
    pooled_to_hidden: Tensor
    attribute_hidden: Tensor
    hidden_to_gate: Tensor
    gate_bias: Tensor
    channel_weights: Tensor

    def __init__(self, model: AGMAN, dtype: torch.dtype | None = None) -> None:
        """Fold a model on its own device.

        Args:
            model: left unchanged; its running batch-norm statistics are used, whatever its mode.
            dtype: of trunk and large products: float32, bfloat16, or None to choose by the device.

        Raises:
            InvalidInput: for another dtype.
        """
        super().__init__()
        device = model.w.device
        dtype = dtype or native_dtype(device)
        if dtype not in (torch.float32, torch.bfloat16):
            raise InvalidInput(f"dtype must be torch.float32 or torch.bfloat16, found {dtype}")
        self.dtype = dtype
        # Folded in float64, so that the only rounding is the last one.
        source = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
        self.lower, self.upper = _fold_trunk(source.backbonenet)
        for name, tensor in _head_constants(source, source.backbonenet).items():
            self.register_buffer(name, tensor.float())
        self.attention_scale = float(source.w1)
        for name in ("attended_level3", "attended_level2", "features_bias", "queries"):
            setattr(self, name, getattr(self, name).to(dtype))
        for trunk_part in (self.lower, self.upper):
            trunk_part.to(dtype).to(memory_format=torch.channels_last)
        self.to(device)

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
        images = pixels.to(self.dtype, memory_format=torch.channels_last)
        level2 = self.lower(images)
        level3 = self.upper(level2)
        features = self._features(level2, level3)
        attention = self._attention(features)
        num_images, num_attributes, _ = attention.shape
        maps = attention.view(num_images, num_attributes, *level3.shape[2:])
        weights = attention * self._gates(features, maps).view_as(attention)
        pooled = torch.bmm(weights.to(self.dtype), features).float()
        return AllEmbedded(self._to_unit(pooled), maps)

    def _features(self, level2: Tensor, level3: Tensor) -> Tensor:
        """The image features f, [B, P, D], from both levels."""
        pooled = functional.max_pool2d(level2, kernel_size=3, stride=2, padding=1)
        features = torch.addmm(self.features_bias, _by_place(level3), self.attended_level3)
        features.addmm_(_by_place(pooled), self.attended_level2)
        num_images, _, height, width = level3.shape
        return features.view(num_images, height * width, features.shape[1])

    def _attention(self, features: Tensor) -> Tensor:
        """Where each attribute looks, times w1: [B, A, P] float32."""
        scale, shift = self.key_scale.to(self.dtype), self.key_shift.to(self.dtype)
        keys = torch.addcmul(shift, features, scale).tanh_()
        scores = torch.matmul(keys, self.queries).float()
        return scores.transpose(1, 2).softmax(dim=2).mul_(self.attention_scale)

    def _gates(self, features: Tensor, maps: Tensor) -> Tensor:
        """The spatial gate of each attribute, [B A, 1, H, W], without forming its D channels."""
        mean = features.mean(dim=2, dtype=torch.float32)
        # A negative w1 turns every maximum into a minimum; its sign is the sign of all attention.
        extreme = features.amax(dim=2) if self.attention_scale >= 0 else features.amin(dim=2)
        num_images, _, height, width = maps.shape
        summary = torch.stack([mean, extreme.float()], dim=1).view(num_images, 1, 2, height, width)
        attended = (summary * maps.unsqueeze(2)).flatten(0, 1)
        return functional.conv2d(
            attended, self.gate_kernel, padding=self.gate_kernel.shape[-1] // 2
        ).sigmoid_()

    def _to_unit(self, pooled: Tensor) -> Tensor:
        """Choose channels of [B, A, D] by attribute and scale to unit norm."""
        hidden = torch.matmul(pooled, self.pooled_to_hidden).add_(self.attribute_hidden).relu_()
        gate = torch.matmul(hidden, self.hidden_to_gate).add_(self.gate_bias).sigmoid_()
        return functional.normalize(pooled * self.channel_weights * gate, dim=2)


def native_dtype(device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the processor multiplies it natively, else float32.

    Emulated bfloat16 is slower than float32, and on a CPU without the instructions much slower.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.bfloat16 if native else torch.float32


def _by_place(level: Tensor) -> Tensor:
    """View channels-last [B, C, H, W] as [B H W, C]."""
    return level.permute(0, 2, 3, 1).reshape(-1, level.shape[1])


def _fold_trunk(trunk: Trunk) -> tuple[nn.Sequential, nn.Module]:
    """Fold batch norms; return the part up to level 2 and the part from there to level 3."""
    stem = fuse_conv_bn_eval(trunk.conv1, trunk.bn1)
    for layer in (trunk.layer1, trunk.layer2, trunk.layer3):
        for block in layer.children():
            _fold_block(block)
    return nn.Sequential(stem, trunk.relu, trunk.maxpool, trunk.layer1, trunk.layer2), trunk.layer3


def _fold_block(block: nn.Module) -> None:
    for number in ("1", "2", "3"):
        convolution, norm = getattr(block, f"conv{number}", None), getattr(block, f"bn{number}", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(block, f"conv{number}", fuse_conv_bn_eval(convolution, norm))
            setattr(block, f"bn{number}", nn.Identity())
    if isinstance(block.downsample, nn.Sequential):
        convolution, norm = block.downsample
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.downsample = nn.Sequential(fuse_conv_bn_eval(convolution, norm))


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Write a batch norm in eval mode as scale x + shift, each [D]."""
    zero, one = torch.zeros_like(norm.weight), torch.ones_like(norm.weight)
    shape = (1, -1, 1, 1)
    at_zero, at_one = norm(zero.view(shape)).flatten(), norm(one.view(shape)).flatten()
    return at_one - at_zero, at_zero


def _head_constants(head: AttributeHead, trunk: Trunk) -> dict[str, Tensor]:
    """Everything of the head that depends on weights alone, transposed for products from the right."""
    dim, level_width = head.conv1.weight.shape[0], trunk.level3_width
    assert head.conv1.bias is not None
    assert trunk.conv1_1.bias is not None
    from_level3, from_local = torch.split(head.w * head.conv1.weight.flatten(1), level_width, dim=1)
    added = trunk.conv1_1.weight.flatten(1)
    table = head.attr_embedding.weight
    context = functional.silu(head.attr_transform2(table))
    pooled_half, context_half = torch.split(head.fc1.weight, dim, dim=1)
    key_scale, key_shift = _scale_and_shift(head.img_bn1)
    return {
        "attended_level3": (from_level3 + from_local).T.contiguous(),
        "attended_level2": (from_local @ added).T.contiguous(),
        "features_bias": head.conv1.bias + from_local @ trunk.conv1_1.bias,
        "key_scale": key_scale,
        "key_shift": key_shift,
        "queries": functional.silu(head.attr_transform1(table)).T.contiguous() / math.sqrt(dim),
        "gate_kernel": head.sa.conv1.weight,
        "pooled_to_hidden": pooled_half.T.contiguous(),
        "attribute_hidden": context @ context_half.T + head.fc1.bias,
        "hidden_to_gate": head.fc2.weight.T.contiguous(),
        "gate_bias": head.fc2.bias,
        "channel_weights": head.w2 * torch.relu(head.masks.weight),
    }
