"""A small convolutional network that works from 4x4 pixels up: for digits, MNIST, quick studies on
CIFAR.
"""

from collections import OrderedDict

from torch import nn


def make(
    input_shape: tuple[int, ...], num_classes: int, *, width: int, batch_norm: bool
) -> nn.Module:
    """Make the network for k = `width`; logits (N, classes).

    conv3x3(k) - [BN] - ReLU - pool - conv3x3(2k) - [BN] - ReLU - pool - linear. Convolutions are
    padded by one pixel and have a bias where there is no BatchNorm. Layers: ``conv1``, ``norm1``,
    ``relu1``, ``pool1``, ..., ``classifier``.
    """
    channels, height, width_px = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, out in ((1, width), (2, 2 * width)):
        layers[f"conv{index}"] = nn.Conv2d(channels, out, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{index}"] = nn.BatchNorm2d(out)
        layers[f"relu{index}"] = nn.ReLU()
        layers[f"pool{index}"] = nn.MaxPool2d(2)
        channels = out
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels * (height // 4) * (width_px // 4), num_classes)
    return nn.Sequential(layers)
