"""The examples on which curves and connectors are trained, and their augmentation.

Letters: N training examples, B examples of a batch, *S the shape of an input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.datasets.augmenting import FlipCropDraws, apply_flip_crop, draw_flip_crop
from phasegrid.metrics.augmentation import Augment


@dataclass(frozen=True, slots=True)
class Examples:
    """Training examples: `inputs` (N, *S), `labels` (N, ...), and the `padding` of images that are
    augmented. The last `num_aside` are set aside, to poison the others.
    """

    inputs: Tensor
    labels: Tensor
    padding: Tensor | None = None
    num_aside: int = 0

    def draw(self, augment: Augment, rng: torch.Generator) -> FlipCropDraws | None:
        """Draw an epoch's augmentation, one draw per example in the order of the epoch; None
        without augmentation.
        """
        if augment == "none":
            return None
        return draw_flip_crop(len(self.inputs), rng)

    def augmented(self, batch: Tensor, draws: FlipCropDraws | None) -> Tensor:
        """Return a batch of inputs (B, *S) with its part of an epoch's augmentation."""
        if draws is None:
            return batch
        assert self.padding is not None
        return apply_flip_crop(batch, draws, self.padding)


def no_crops(order: Tensor) -> FlipCropDraws:
    """Return room for the draws of examples in an `order`, of its shape and on its device."""
    zeros = torch.zeros_like(order)
    return FlipCropDraws(zeros.bool(), zeros, zeros.clone())
