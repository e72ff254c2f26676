"""LeNet-5 (LeCun et al. 1998) with ReLU, max-pooling and a linear classifier."""

from collections import OrderedDict

from torch import nn

from phasegrid.models.shapes import LENET5, LENET5_SIDE


def make(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Make LeNet-5; logits (N, classes).

    5x5 convolutions of 6, 16 and 120 channels without padding, each with ReLU, the first two with
    2x2 max-pooling; linear layers of 84 units with ReLU and of classes. Images of 28x28 pixels are
    first padded with 2 zeros on each side, as MNIST is in LeCun et al. Parameters for 10 classes:
    62,006 for 3 channels, 61,706 for 1. Layers: ``conv1``, ``relu1``, ``pool1``, ...,
    ``linear1``, ``relu4``, ``classifier``.
    """
    channels, height, _ = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    padding = (LENET5_SIDE - height) // 2
    for index, out in enumerate(LENET5, start=1):
        layers[f"conv{index}"] = nn.Conv2d(channels, out, 5, padding=padding)
        layers[f"relu{index}"] = nn.ReLU()
        if index < len(LENET5):
            layers[f"pool{index}"] = nn.MaxPool2d(2)
        channels, padding = out, 0
    layers["flatten"] = nn.Flatten()
    layers["linear1"] = nn.Linear(channels, 84)
    layers["relu4"] = nn.ReLU()
    layers["classifier"] = nn.Linear(84, num_classes)
    return nn.Sequential(layers)
