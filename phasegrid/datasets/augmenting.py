"""Augment on the device: flip left-right and shift, one draw per example, no loop over examples.

Letters: N examples, C channels, H x W pixels. Drawing and applying are separate: each member of a
pack draws from its own generator, and one kernel applies all draws.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MAX_SHIFT = 4  # pixels: the standard CIFAR recipe pads by 4 (He et al. 2016, section 4.2)


class FlipCropDraws(NamedTuple):
    """The draws for each of N examples: mirrored or not (N,) bool, and shifts (N,) int64 in -4..4.

    A positive `dx` moves the picture left, a positive `dy` moves it up (the crop moves right and
    down).
    """

    flips: Tensor
    dx: Tensor
    dy: Tensor


def draw_flip_crop(n: int, generator: torch.Generator) -> FlipCropDraws:
    """Draw flips with probability 1/2 and both shifts uniformly from -4..4, on the generator's
    device.
    """
    device = generator.device
    flips = torch.rand(n, generator=generator, device=device) < 0.5
    shifts = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2, n), generator=generator, device=device)
    return FlipCropDraws(flips, shifts[0], shifts[1])


def apply_flip_crop(batch: Tensor, draws: FlipCropDraws, padding: Tensor) -> Tensor:
    """Shift, then mirror each example of `batch` (N, C, H, W) as drawn; pixels from outside have
    the value `padding`.

    `padding` broadcasts to the batch: (C, 1, 1), or (N, C, 1, 1) if examples differ. Returns a new
    tensor.
    """
    num, channels, height, width = batch.shape
    margin = MAX_SHIFT
    padded = batch.new_empty(num, channels, height + 2 * margin, width + 2 * margin)
    padded.copy_(padding)
    padded[:, :, margin : margin + height, margin : margin + width] = batch
    flips, dx, dy = (draw.to(batch.device) for draw in draws)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 9, 9, H, W)
    examples = torch.arange(num, device=batch.device)
    shifted = windows[examples, :, dy + margin, dx + margin]
    return torch.where(flips[:, None, None, None], shifted.flip(-1), shifted)


def flip_crop(batch: Tensor, generator: torch.Generator, padding: Tensor) -> Tensor:
    """Draw and apply flip_crop to one batch (N, C, H, W).

    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> flip_crop(torch.ones(2, 3, 8, 8), generator, torch.zeros(3, 1, 1)).shape
    torch.Size([2, 3, 8, 8])
    """
    return apply_flip_crop(batch, draw_flip_crop(len(batch), generator), padding)
