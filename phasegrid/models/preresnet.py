"""Residual networks with activations before convolutions (He et al. 2016b), for small images.

``bottleneck``: 9n + 2 layers, three convolutions per block, four times as many channels between
blocks; where the shape changes, the shortcut is a convolution of the block's input (the published
code of Garipov et al. 2018: 110 and 164 layers). ``basic``: 6n + 2 layers, two convolutions per
block; the first block of every stage has a convolution of the activated input as its shortcut (the
TensorFlow networks of their paper: 158 layers).

Three stages of n blocks with k, 2k, 4k channels and strides 1, 2, 2. No convolution has a bias.
Convolutions of s x s places are drawn from N(0, 2 / (s^2 out)).
"""

import math
from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from phasegrid.models.shapes import STRIDES, blocks_of


class Bottleneck(nn.Module):
    """x' + conv3(relu(norm3(conv2(relu(norm2(conv1(relu(norm1(x)))))))), 1x1, 3x3 and 1x1; x' is x
    or its convolution.
    """

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(inner)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        changes = stride != 1 or channels != out
        self.shortcut = (
            nn.Conv2d(channels, out, 1, stride, bias=False) if changes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 inner, H/stride, W/stride), rounded up."""
        y = self.conv1(self.relu1(self.norm1(x)))
        y = self.conv2(self.relu2(self.norm2(y)))
        y = self.conv3(self.relu3(self.norm3(y)))
        out: Tensor = y + self.shortcut(x)
        return out


class BasicBlock(nn.Module):
    """x' + conv2(relu(norm2(conv1(relu(norm1(x)))))), 3x3 both; x' is x, or the convolution of
    relu(norm1(x)) in the `first` block of a stage.
    """

    def __init__(self, channels: int, out: int, stride: int, first: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride), rounded up."""
        active = self.relu1(self.norm1(x))
        y = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        out: Tensor = y + (x if self.shortcut is None else self.shortcut(active))
        return out


def make(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int,
    width: int,
    block: Literal["bottleneck", "basic"],
) -> nn.Module:
    """Make the network of `depth` layers with k = `width`; logits (N, classes).

    Parameters for k = 16, 3 channels and 10 classes: 1,146,842 (bottleneck, 110 layers), 1,703,258
    (164), 2,508,506 (basic, 158). Layers: ``conv1``, ``stage1.block0.norm1``, ..., ``norm``,
    ``relu``, ``pool``, ``classifier``.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False)
    )
    size, num = width, blocks_of(depth, block)
    for stage, stride in enumerate(STRIDES, start=1):
        inner = width * 2 ** (stage - 1)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(num):
            step = stride if index == 0 else 1
            if block == "bottleneck":
                blocks[f"block{index}"] = Bottleneck(size, inner, step)
                size = 4 * inner
            else:
                blocks[f"block{index}"] = BasicBlock(size, inner, step, index == 0)
                size = inner
        layers[f"stage{stage}"] = nn.Sequential(blocks)
    layers["norm"] = nn.BatchNorm2d(size)
    layers["relu"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(size, num_classes)
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
    return network
