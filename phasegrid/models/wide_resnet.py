"""Wide residual networks (Zagoruyko and Komodakis 2016), for small images.

6n + 4 layers: a 3x3 convolution of 16 channels, three stages of n pre-activation blocks with 16k,
32k and 64k channels and strides 1, 2, 2, BatchNorm, ReLU, an average over all places and one linear
layer. As in the published code of Garipov et al. 2018 all convolutions have a bias, and a block's
stride is that of its second convolution; the paper of Zagoruyko and Komodakis has neither.
Convolutions are drawn as by torch.
"""

from collections import OrderedDict

from torch import Tensor, nn

from phasegrid.models.shapes import STRIDES, wide_blocks_of


class WideBlock(nn.Module):
    """x' + conv2(relu(norm2(drop(conv1(relu(norm1(x))))))), 3x3 both; x' is x, or its 1x1
    convolution where the shape changes.
    """

    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm2 = nn.BatchNorm2d(out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, stride, padding=1)
        changes = stride != 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/stride, W/stride), rounded up."""
        y = self.dropout(self.conv1(self.relu1(self.norm1(x))))
        y = self.conv2(self.relu2(self.norm2(y)))
        out: Tensor = y + self.shortcut(x)
        return out


def make(
    input_shape: tuple[int, ...], num_classes: int, *, depth: int, width: int, dropout: float
) -> nn.Module:
    """Make the network of `depth` layers with k = `width`; logits (N, classes).

    Parameters for 28 layers, k = 10, 3 channels and 10 classes: 36,489,290. Layers: ``conv1``,
    ``stage1.block0.norm1``, ..., ``norm``, ``relu``, ``pool``, ``classifier``.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(input_shape[0], 16, 3, padding=1)
    )
    size = 16
    for stage, stride in enumerate(STRIDES, start=1):
        out = 16 * width * 2 ** (stage - 1)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(wide_blocks_of(depth)):
            blocks[f"block{index}"] = WideBlock(size, out, stride if index == 0 else 1, dropout)
            size = out
        layers[f"stage{stage}"] = nn.Sequential(blocks)
    layers["norm"] = nn.BatchNorm2d(size, momentum=0.9)
    layers["relu"] = nn.ReLU()
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(size, num_classes)
    return nn.Sequential(layers)
