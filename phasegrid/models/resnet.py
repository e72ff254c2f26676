"""ResNet18 for small images, with a width factor (He et al. 2016; the family of Yang et al. 2021,
section 3).

Four stages of two post-activation basic blocks each, with k, 2k, 4k, 8k channels and strides 1, 2,
2, 2; a 3x3 stem instead of the 7x7 stem with pooling; an average over all places; one linear layer.
No convolution has a bias.
"""

from collections import OrderedDict

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)).

    The shortcut is a 1x1 convolution with BatchNorm if the shape changes, otherwise the identity.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut = _shortcut(channels, out, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride), rounded up."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


def make(input_shape: tuple[int, ...], num_classes: int, *, width: int) -> nn.Module:
    """Make ResNet18 with k = `width`; logits (N, classes).

    Parameters for 3 channels: 2724 k^2 + 257 k + 10 with 10 classes, 2724 k^2 + 977 k + 100 with
    100. Layers: ``conv1``, ``norm1``, ``relu1``, ``stage1.block0.conv1``, ...,
    ``stage4.block1.relu2``, ``pool``, ``classifier``.
    """
    channels, _, _ = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, width, 3, padding=1, bias=False),
        norm1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
    )
    size = width
    for stage, stride in enumerate((1, 2, 2, 2), start=1):
        out = width * 2 ** (stage - 1)
        blocks: OrderedDict[str, nn.Module] = OrderedDict(
            block0=BasicBlock(size, out, stride), block1=BasicBlock(out, out, 1)
        )
        layers[f"stage{stage}"] = nn.Sequential(blocks)
        size = out
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(size, num_classes)
    return nn.Sequential(layers)


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(channels, out, 1, stride, bias=False), norm=nn.BatchNorm2d(out))
    )
