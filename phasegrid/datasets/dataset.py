"""A data set in memory: tensors, and the facts a metric needs to treat them right."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from phasegrid.declare import Tokens


@dataclass(frozen=True, slots=True)
class Text:
    """The words behind a data set of sentence pairs: what token ids stand for, and the test set's
    target sentences.

    `source_words[i]` and `target_words[i]` are the text of token i, special tokens included;
    `test_references` are the untokenised target sentences of the test set, in its order.
    """

    source_words: tuple[str, ...]
    target_words: tuple[str, ...]
    test_references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Normalised inputs and labels of a training and a test set, all on one device.

    Shapes: `train_inputs` (N, *S) float32, `train_labels` (N,) int64, likewise `test_*`; S is
    `input_shape`. `pixel` is what one pixel unit (1/255 of the full range of an image) measures in
    the normalised inputs, per channel, shape (C, 1, 1) for images and broadcastable to S for
    others: image noise of u pixel units is ``u * pixel * U[0, 1]``. `padding` is what a pixel of
    value zero is after normalisation, same shape as `pixel`: flip_crop pads with it.

    Sentence pairs have `tokens` (and `text`): inputs are then (N, 2, L) int64 and labels (N, L)
    int64, laid out as `Tokens` says; `pixel` and `padding` mean nothing.
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
    tokens: Tokens | None = None
    text: Text | None = None

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
