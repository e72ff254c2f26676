"""VGG11 and VGG16 with a width factor (Simonyan and Zisserman 2015, configurations A and D), for
small images.

3x3 convolutions with bias of k to 8k channels, 2x2 max-pooling after five of them. VGG11 ends in
one linear layer; VGG16 in three of 8k, 8k and `num_classes` units with dropout before the first
two, as in the published codes of Garipov et al. 2018 and Benton et al. 2021.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

from phasegrid.models.shapes import VGG11, VGG16


def make(
    input_shape: tuple[int, ...], num_classes: int, *, width: int, batch_norm: bool
) -> nn.Module:
    """Make VGG11 with k = `width`; logits (N, classes).

    Parameters for 3 channels and 10 classes: 2250 k^2 + 236 k + 10 with BatchNorm, 2250 k^2 + 150 k
    + 10 without. Layers: ``conv1``, ``norm1``, ``relu1``, ``pool1``, ``conv2``, ..., ``average``,
    ``classifier``. On images above 32x32 the last feature map is averaged over its places.
    """
    layers = _features(VGG11, input_shape[0], width, batch_norm)
    layers["classifier"] = nn.Linear(8 * width, num_classes)
    return nn.Sequential(layers)


def make_vgg16(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int,
    batch_norm: bool,
    dropout: float,
    init: Literal["he", "xavier"] = "he",
) -> nn.Module:
    """Make VGG16 with k = `width`; logits (N, classes).

    ``he`` (the published codes): convolutions are drawn from N(0, 2 / (9 out)), with biases of 0;
    linear layers as PyTorch does. ``xavier`` (Glorot and Bengio 2010, uniform): convolutions and
    linear layers from U(-a, a) with a = sqrt(6 / (fan in + fan out)), with biases of 0.

    Parameters for k = 64, 3 channels and 10 classes: 15,245,130, with BatchNorm 15,253,578. Layers:
    as `make`, up to ``conv13``; then ``dropout1``, ``linear1``, ``relu14``, ``dropout2``,
    ``linear2``, ``relu15``, ``classifier``. Without dropout its layers are left out.
    """
    layers, size = _features(VGG16, input_shape[0], width, batch_norm), 8 * width
    if init == "he":
        _draw_he(layers.values())
    for index in (1, 2):
        if dropout:
            layers[f"dropout{index}"] = nn.Dropout(dropout)
        layers[f"linear{index}"] = nn.Linear(size, size)
        layers[f"relu{13 + index}"] = nn.ReLU()
    layers["classifier"] = nn.Linear(size, num_classes)
    if init == "xavier":
        _draw_xavier(layers.values())
    return nn.Sequential(layers)


def _draw_he(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / (9 * layer.out_channels)))
            nn.init.zeros_(layer.bias)


def _draw_xavier(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _features(
    parts: Sequence[tuple[int, ...]], channels: int, width: int, batch_norm: bool
) -> "OrderedDict[str, nn.Module]":
    """Return the convolutions, the average over all places that are left, and a flattening."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    index = 0
    for factors in parts:
        for factor in factors:
            index += 1
            out = factor * width
            layers[f"conv{index}"] = nn.Conv2d(channels, out, 3, padding=1)
            if batch_norm:
                layers[f"norm{index}"] = nn.BatchNorm2d(out)
            layers[f"relu{index}"] = nn.ReLU()
            channels = out
        layers[f"pool{index}"] = nn.MaxPool2d(2)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    return layers
