"""Residual blocks whose sums and ReLUs are made where a convolution writes: for bfloat16 on a CPU.

Apart, each reads and writes the block's whole output again, which takes as long as the convolutions. oneDNN
adds and clips before it rounds, so that there is one rounding less; the operators are those to which
`torch.compile` lowers such blocks, without its half a minute for each shape.
"""

from typing import Any

import torch
from torch import Tensor, nn

from agman.errors import InvalidInput
from agman.vision import BasicBlock, Bottleneck


def fuse_blocks(network: nn.Module) -> None:
    """Replace the ResNet blocks in a network whose batch norms are folded; other trunks have none."""
    for name, child in network.named_children():
        if isinstance(child, BasicBlock | Bottleneck):
            setattr(network, name, FusedBlock(child))
        else:
            fuse_blocks(child)


class FusedBlock(nn.Module):
    """A ResNet block for inference."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        """Take over the convolutions.

        Raises:
            InvalidInput: if a batch norm still follows one of them.
        """
        super().__init__()
        if not isinstance(block.bn1, nn.Identity):
            raise InvalidInput("expected a block whose batch norms are folded into its convolutions")
        convolutions = [block.conv1, block.conv2]
        if isinstance(block, Bottleneck):
            convolutions.append(block.conv3)
        self.inner, self.last = nn.ModuleList(convolutions[:-1]), convolutions[-1]
        self.downsample = block.downsample

    def forward(self, images: Tensor) -> Tensor:
        """Run [B, C, H, W], channels last."""
        added = images if self.downsample is None else self.downsample(images)
        for convolution in self.inner:
            images = _fused(images, *_described(convolution), "relu", [], "")
        found: Tensor = _fused.binary(images, added, *_described(self.last), "add", 1.0, "relu", [], "")
        return found


_fused: Any = torch.ops.mkldnn._convolution_pointwise


def _described(convolution: Any) -> tuple[Any, ...]:
    return (
        convolution.weight,
        convolution.bias,
        convolution.padding,
        convolution.stride,
        convolution.dilation,
        convolution.groups,
    )
