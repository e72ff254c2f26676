"""VGG11 with a width factor (Simonyan and Zisserman 2015, configuration A, for small images).

Eight 3x3 convolutions of k, 2k, 4k, 4k, 8k, 8k, 8k, 8k channels, with bias, 2x2 max-pooling after
the 1st, 2nd, 4th, 6th and 8th, and one linear layer in place of the three of the ImageNet network.
"""

from collections import OrderedDict

from torch import nn

FACTORS = (1, 2, 4, 4, 8, 8, 8, 8)
POOLED = (1, 2, 4, 6, 8)


def make(
    input_shape: tuple[int, ...], num_classes: int, *, width: int, batch_norm: bool
) -> nn.Module:
    """Make VGG11 with k = `width`; logits (N, classes).

    Parameters for 3 channels and 10 classes: 2250 k^2 + 236 k + 10 with BatchNorm, 2250 k^2 + 150 k
    + 10 without. Layers: ``conv1``, ``norm1``, ``relu1``, ``pool1``, ``conv2``, ..., ``average``,
    ``classifier``. On images above 32x32 the last feature map is averaged over its places.
    """
    channels, _, _ = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, factor in enumerate(FACTORS, start=1):
        out = factor * width
        layers[f"conv{index}"] = nn.Conv2d(channels, out, 3, padding=1)
        if batch_norm:
            layers[f"norm{index}"] = nn.BatchNorm2d(out)
        layers[f"relu{index}"] = nn.ReLU()
        if index in POOLED:
            layers[f"pool{index}"] = nn.MaxPool2d(2)
        channels = out
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
