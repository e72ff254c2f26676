"""A data set in memory: tensors, and the facts a metric needs to treat them right."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Dataset:
    """Normalised inputs and labels of a training and a test set, all on one device.

    Shapes: `train_inputs` (N, *S) float32, `train_labels` (N,) int64, likewise `test_*`; S is `input_shape`.
    `pixel` is what one pixel unit (1/255 of the full range of an image) measures in the normalised inputs, per
    channel, shape (C, 1, 1) for images and broadcastable to S for others: image noise of u pixel units is
    ``u * pixel * U[0, 1]``.
    `padding` is what a pixel of value zero is after normalisation, same shape as `pixel`: flip_crop pads with it.
    """

    name: str
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    pixel: Tensor
    padding: Tensor
    augment: Literal["none", "flip_crop"] = "none"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train_inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data set on `device`."""
        moved = {
            name: getattr(self, name).to(device)
            for name in (
                "train_inputs",
                "train_labels",
                "test_inputs",
                "test_labels",
                "pixel",
                "padding",
            )
        }
        return replace(self, **moved)
