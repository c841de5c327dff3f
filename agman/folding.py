"""Networks rewritten for inference: equal to themselves in eval mode, with less to compute.

Everything expensive in AG-MAN is independent of the attribute, so A embeddings cost one trunk pass and two
small matrix products. The algebra, with C the matrix of `conv1_1` and conv1's weight split into [Wa | Wb]:

    f         = w (Wa + Wb) L3 + w Wb C maxpool(L2) + bias     the doubled-width tensor never exists
    scores    = keys queries'                                  one product for all attributes
    mean_ch g = att mean_ch f;   max_ch g = att (max_ch f where att >= 0, else min_ch f)
    v         = (att gate) f                                   pooling is a product too
    fc1       = its left half times v, plus a constant per attribute

A product may round otherwise with another number of columns. So attributes that were added later are computed
apart from those before them, which keeps the bits of what was there.

The trunk's top and the type classifier serve AG-MAN's training alone and are left out; batch norms are folded
into the convolutions before them.
"""

import abc
import math
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from agman.errors import InvalidInput
from agman.model import AGMAN, Network
from agman.networks import PooledNetwork


class AllEmbedded(NamedTuple):
    """B images under all A attributes."""

    embedding: Tensor
    """[B, A, D] float32, unit norm."""
    attention: Tensor
    """[B, A, H/16, W/16] float32: softmax over places times `w1`."""


class FoldedHead(nn.Module, abc.ABC):
    """What follows the two levels, for all attributes at once."""

    @abc.abstractmethod
    def forward(self, level2: Tensor, level3: Tensor) -> AllEmbedded:
        """Embed B images from [B, C2, H/8, W/8] and [B, C3, H/16, W/16]."""


def fold(network: Network, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, FoldedHead]:
    """Fold a network that is in eval mode.

    Args:
        network: consumed: its modules are changed and become part of the result.
        dtype: of the trunk and the large products.

    Returns:
        The parts from the image to level 2, from there to level 3, and from there to all embeddings.
    """
    # In float64, so that the only rounding is the last one.
    source = network.double()
    _fold_batch_norms(source.backbonenet)
    lower, upper, _ = source.backbonenet.stages()
    head = FoldedAttention(source, dtype) if isinstance(source, AGMAN) else FoldedPooling(source, dtype)
    return lower.to(dtype), upper.to(dtype), head


class FoldedRows(nn.Module):
    """The constants of one generation's attributes."""

    queries: Tensor
    """[D, A], for products from the right."""
    attribute_hidden: Tensor
    """[A, D], the attribute's half of `fc1`."""
    channel_weights: Tensor
    """[A, D]"""

    def __init__(self, model: AGMAN, rows: slice, dtype: torch.dtype) -> None:
        """Take rows of a float64 model's tables."""
        super().__init__()
        questions, dim = model.attr_embedding.weight[rows], model.config.embedding_dim
        queries = functional.silu(model.attr_transform1(questions)).T.contiguous() / math.sqrt(dim)
        context = functional.silu(model.attr_transform2(questions))
        _, context_half = torch.split(model.fc1.weight, dim, dim=1)
        # What meets each embedding once is cheap, so it stays in float32.
        hidden = context @ context_half.T + model.fc1.bias
        weights = model.w2 * torch.relu(model.masks.weight[rows])
        self.register_buffer("queries", queries.to(dtype))
        self.register_buffer("attribute_hidden", hidden.float())
        self.register_buffer("channel_weights", weights.float())


class FoldedAttention(FoldedHead):
    """AG-MAN's head."""

    level3_to_features: Tensor
    level2_to_features: Tensor | None
    features_bias: Tensor
    key_scale: Tensor
    key_shift: Tensor
    gate_kernel: Tensor
    pooled_to_hidden: Tensor
    hidden_to_gate: Tensor
    gate_bias: Tensor

    def __init__(self, model: AGMAN, dtype: torch.dtype) -> None:
        """Take the constants of a float64 model; products over places are made in `dtype`."""
        super().__init__()
        products, small = _products_over_places(model), _products_per_embedding(model)
        for name, tensor in {**products, **small}.items():
            kept = dtype if name in products else torch.float32
            self.register_buffer(name, None if tensor is None else tensor.to(kept))
        self.attention_scale = float(model.w1)
        ends = accumulate(model.generations, initial=0)
        rows = [FoldedRows(model, slice(*each), dtype) for each in pairwise(ends)]
        self.generations = nn.ModuleList(rows)

    def forward(self, level2: Tensor, level3: Tensor) -> AllEmbedded:
        """Embed B images from both levels."""
        return self.embed(self.features(level2, level3), level3.shape[2:])

    def embed(self, features: Tensor, places: torch.Size) -> AllEmbedded:
        """Embed B images from what `features` gives, and the height and width of its places."""
        keys = torch.addcmul(self.key_shift, features, self.key_scale).tanh_()
        found = [self._embed(features, keys, rows, places) for rows in self.generations]
        if len(found) == 1:
            return found[0]
        return AllEmbedded(
            torch.cat([each.embedding for each in found], dim=1),
            torch.cat([each.attention for each in found], dim=1),
        )

    def _embed(self, features: Tensor, keys: Tensor, rows: nn.Module, places: torch.Size) -> AllEmbedded:
        """Embed under one generation's attributes."""
        assert isinstance(rows, FoldedRows)
        attention = self._attention(keys, rows.queries)
        maps = attention.view(*attention.shape[:2], *places)
        weights = attention * self._gates(features, maps).view_as(attention)
        pooled = torch.bmm(weights.to(features.dtype), features).float()
        return AllEmbedded(self._to_unit(pooled, rows), maps)

    def features(self, level2: Tensor, level3: Tensor) -> Tensor:
        """The image features f, [B, P, D], from both levels."""
        features = torch.addmm(self.features_bias, _by_place(level3), self.level3_to_features)
        if self.level2_to_features is not None:
            pooled = functional.max_pool2d(level2, kernel_size=3, stride=2, padding=1)
            features = features.addmm_(_by_place(pooled), self.level2_to_features)
        num_images, _, height, width = level3.shape
        return features.view(num_images, height * width, features.shape[1])

    def _attention(self, keys: Tensor, queries: Tensor) -> Tensor:
        """Where each attribute looks, times w1: [B, A, P] float32."""
        scores = torch.matmul(keys, queries).float()
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

    def _to_unit(self, pooled: Tensor, rows: FoldedRows) -> Tensor:
        """Choose channels of [B, A, D] by attribute and scale to unit norm."""
        hidden = torch.matmul(pooled, self.pooled_to_hidden).add_(rows.attribute_hidden).relu_()
        gate = torch.matmul(hidden, self.hidden_to_gate).add_(self.gate_bias).sigmoid_()
        return functional.normalize(pooled * rows.channel_weights * gate, dim=2)


class FoldedPooling(FoldedHead):
    """The baselines' head: the top, an average, a projection, and under `csn` a mask per attribute."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        """Take the modules of a float64 network; only the top, which is a network itself, is in `dtype`."""
        super().__init__()
        if not isinstance(network, PooledNetwork):
            raise InvalidInput(f"expected AGMAN or PooledNetwork, found {type(network).__name__}")
        self.top = network.backbonenet.stages()[2].to(dtype)
        self.projection = network.projection.float()
        masks = torch.ones(network.num_attributes, network.config.embedding_dim)
        if network.masks is not None:
            masks = torch.relu(network.masks.weight)
        self.register_buffer("masks", masks.float())

    def forward(self, level2: Tensor, level3: Tensor) -> AllEmbedded:
        """Embed B images from level 3; an average looks everywhere alike."""
        projected = self.projection(self.top(level3).float().mean(dim=(2, 3)))
        embedding = functional.normalize(projected.unsqueeze(1) * self.masks, dim=2)
        height, width = level3.shape[2:]
        maps = embedding.new_full((*embedding.shape[:2], height, width), 1 / (height * width))
        return AllEmbedded(embedding, maps)


def _by_place(level: Tensor) -> Tensor:
    """View channels-last [B, C, H, W] as [B H W, C]."""
    return level.permute(0, 2, 3, 1).reshape(-1, level.shape[1])


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm that stands right after a convolution: torchvision applies them in that order."""
    children = list(module.named_children())
    for (name, child), (next_name, following) in pairwise(children):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, following))
            setattr(module, next_name, nn.Identity())
    for _, child in children:
        _fold_batch_norms(child)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Write a batch norm in eval mode as scale x + shift, each [D]."""
    zero, one = torch.zeros_like(norm.weight), torch.ones_like(norm.weight)
    shape = (1, -1, 1, 1)
    at_zero, at_one = norm(zero.view(shape)).flatten(), norm(one.view(shape)).flatten()
    return at_one - at_zero, at_zero


def _products_over_places(model: AGMAN) -> dict[str, Tensor | None]:
    """The constants that meet every place of an image, transposed for products from the right."""
    trunk = model.backbonenet
    kernel = (model.w * model.conv1.weight.flatten(1)).T
    assert model.conv1.bias is not None
    from_level3, from_level2, bias = kernel, None, model.conv1.bias
    if trunk.conv1_1 is not None:
        assert trunk.conv1_1.bias is not None
        alone, from_local = torch.split(kernel, trunk.level3_width)
        from_level3 = alone + from_local
        from_level2 = (trunk.conv1_1.weight.flatten(1).T @ from_local).contiguous()
        bias = bias + trunk.conv1_1.bias @ from_local
    key_scale, key_shift = _scale_and_shift(model.img_bn1)
    return {
        "level3_to_features": from_level3.contiguous(),
        "level2_to_features": from_level2,
        "features_bias": bias,
        "key_scale": key_scale,
        "key_shift": key_shift,
    }


def _products_per_embedding(model: AGMAN) -> dict[str, Tensor]:
    """The constants that meet each embedding once: cheap, so they stay in float32."""
    pooled_half, _ = torch.split(model.fc1.weight, model.config.embedding_dim, dim=1)
    return {
        "gate_kernel": model.sa.conv1.weight,
        "pooled_to_hidden": pooled_half.T.contiguous(),
        "hidden_to_gate": model.fc2.weight.T.contiguous(),
        "gate_bias": model.fc2.bias,
    }
