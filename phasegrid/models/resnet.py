"""Residual networks with activations after additions (He et al. 2016), for small images.

Blocks of two 3x3 convolutions in stages of doubling width, the first block of each later stage with
stride 2; a 3x3 stem instead of the 7x7 stem with pooling; an average over all places; one linear
layer. No convolution has a bias. Weights are drawn as by torch.

``resnet18`` has four stages of two blocks, with k, 2k, 4k, 8k channels (the family of Yang et al.
2021, section 3). ``resnet_cifar`` has three stages of n blocks, with k, 2k, 4k channels: 6n + 2
layers (He et al. 2016, section 4.2, where k = 16; 20, 32, 44, 56 and 110 layers).
"""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad

from phasegrid.models.shapes import blocks_of

Shortcut = Literal["conv", "pad", "none"]


class BasicBlock(nn.Module):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)).

    Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm (``conv``) or every
    second pixel with further channels of zeros (``pad``), otherwise the identity; with ``none``
    nothing is added anywhere.
    """

    def __init__(self, channels: int, out: int, stride: int, shortcut: Shortcut = "conv") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut = _shortcut(channels, out, stride, shortcut)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride), rounded up."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        out: Tensor = self.relu2(y if self.shortcut is None else y + self.shortcut(x))
        return out


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros in the channels that `out` has more (option A of He et al.
    2016, section 4.2).
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride), rounded up."""
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def make(input_shape: tuple[int, ...], num_classes: int, *, width: int) -> nn.Module:
    """Make ResNet18 with k = `width`; logits (N, classes).

    Parameters for 3 channels: 2724 k^2 + 257 k + 10 with 10 classes, 2724 k^2 + 977 k + 100 with
    100. Layers: ``conv1``, ``norm1``, ``relu1``, ``stage1.block0.conv1``, ...,
    ``stage4.block1.relu2``, ``pool``, ``classifier``.
    """
    return _network(input_shape[0], num_classes, [width, 2 * width, 4 * width, 8 * width], 2)


def make_cifar(
    input_shape: tuple[int, ...], num_classes: int, *, depth: int, width: int, shortcut: Shortcut
) -> nn.Module:
    """Make the network of `depth` = 6n + 2 layers with k = `width`; logits (N, classes).

    Parameters for k = 16, 3 channels and 10 classes: 466,906 (32 layers, ``conv``), 464,154
    (``pad`` or ``none``). Layers: ``conv1``, ``norm1``, ``relu1``, ``stage1.block0.conv1``, ...,
    ``pool``, ``classifier``.
    """
    widths = [width, 2 * width, 4 * width]
    return _network(input_shape[0], num_classes, widths, blocks_of(depth, "basic"), shortcut)


def _network(
    channels: int, num_classes: int, widths: list[int], num: int, shortcut: Shortcut = "conv"
) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        norm1=nn.BatchNorm2d(widths[0]),
        relu1=nn.ReLU(),
    )
    size = widths[0]
    for stage, out in enumerate(widths, start=1):
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(num):
            stride = 2 if index == 0 and stage > 1 else 1
            blocks[f"block{index}"] = BasicBlock(size, out, stride, shortcut)
            size = out
        layers[f"stage{stage}"] = nn.Sequential(blocks)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(size, num_classes)
    return nn.Sequential(layers)


def _shortcut(channels: int, out: int, stride: int, kind: Shortcut) -> nn.Module | None:
    if kind == "none":
        return None
    if stride == 1 and channels == out:
        return nn.Identity()
    if kind == "pad":
        return PaddedShortcut(channels, out, stride)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(channels, out, 1, stride, bias=False), norm=nn.BatchNorm2d(out))
    )
