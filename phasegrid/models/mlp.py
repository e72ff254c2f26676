"""Fully connected networks."""

import math
from collections import OrderedDict
from typing import Literal

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def make(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int,
    depth: int,
    activation: Literal["relu", "tanh", "gelu"],
    outputs: Literal["classes", "one_logit"] = "classes",
) -> nn.Module:
    """Make an MLP: inputs flattened to D numbers, `depth` hidden layers of w = `width` units,
    logits (N, classes).

    Parameters: D w + (depth - 1) w^2 + depth w + (w + 1) outputs. Layers: ``linear1``,
    ``activation1``, ..., ``classifier``. With ``one_logit`` the classifier has one output z, and
    the logits of the two classes are (0, z): their cross-entropy is the binary cross-entropy of z.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = math.prod(input_shape)
    for index in range(1, depth + 1):
        layers[f"linear{index}"] = nn.Linear(size, width)
        layers[f"activation{index}"] = ACTIVATIONS[activation]()
        size = width
    if outputs == "classes":
        layers["classifier"] = nn.Linear(size, num_classes)
    else:
        layers["classifier"] = nn.Linear(size, 1)
        layers["zero_logit"] = nn.ConstantPad1d((1, 0), 0.0)
    return nn.Sequential(layers)
