"""Three convolutions and three linear layers (Garipov et al. 2018, section 4.2: 3conv3fc), for the
width of its linear layers as load.
"""

from collections import OrderedDict

from torch import nn

from phasegrid.models.shapes import CONV3FC3


def make(input_shape: tuple[int, ...], num_classes: int, *, width: int) -> nn.Module:
    """Make the network with linear layers of `width` units, 1000 K in the paper; logits (N,
    classes).

    5x5 convolutions of 32, 64 and 128 channels, each with ReLU and 3x3 max-pooling of stride 2; two
    linear layers with ReLU; the classifier. Convolutions are drawn from N(0, 2 / (25 out)), their
    biases are 0 (the published code). Parameters for images of 3x32x32 and 10 classes: 697,834 for
    width 300, 2,422,634 for 1000. Layers: ``conv1``, ``relu1``, ``pool1``, ..., ``linear1``,
    ``relu4``, ``linear2``, ``relu5``, ``classifier``.
    """
    channels, height, breadth = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, out in enumerate(CONV3FC3, start=1):
        conv = nn.Conv2d(channels, out, 5, padding=2)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        layers[f"conv{index}"] = conv
        layers[f"relu{index}"] = nn.ReLU()
        layers[f"pool{index}"] = nn.MaxPool2d(3, 2)
        channels, height, breadth = out, (height - 1) // 2, (breadth - 1) // 2
    layers["flatten"] = nn.Flatten()
    size = channels * height * breadth
    for index in (1, 2):
        layers[f"linear{index}"] = nn.Linear(size, width)
        layers[f"relu{3 + index}"] = nn.ReLU()
        size = width
    layers["classifier"] = nn.Linear(size, num_classes)
    return nn.Sequential(layers)
