"""Corrupt the test images of a data set, as `phasegrid.datasets.corruptions` says.

Letters: N images, C channels, H x W pixels, R corruptions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from phasegrid.datasets.corrupted_files import read_images
from phasegrid.datasets.corruptions import AMOUNTS, Shift, names_of
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import DataError
from phasegrid.keys import stream_seed

CHUNK = 1024  # images per step: bounds memory, and determines the draws
ROUNDING = 1e-3
"""How far pixels may lie outside 0..1: float32 gives 1e-6."""

LEVELS = 16 * 16 * 255
"""Bytes and sixteenths are multiples of 1/LEVELS, to which shot noise rounds its rates: what the
normalisation of the data leaves in the last digit would change how many numbers it draws.
"""


def shifted(data: Dataset, shift: Shift) -> Dataset:
    """Return the data with its test set corrupted: R sets (R N, C, H, W), one after another, in the
    order of `names_of`, with their labels. Without a corruption it is the data itself.

    Exact and the same on every device: draws are numpy's, seeded by `corruption_seed` and the name
    of the corruption, whatever the severity.

    Raises:
        DataError: if pixels are not in 0..1 before they are normalised, or a file does not fit.
    """
    names = names_of(asdict(shift))
    if not names:
        return data
    inputs = data.test_inputs.new_empty((len(names), *data.test_inputs.shape))
    for place, pixels in zip(inputs, _sets(data, shift, names), strict=True):
        place.copy_(_normalised(pixels, data))
    labels = data.test_labels.repeat(len(names))
    return replace(data, test_inputs=inputs.flatten(0, 1), test_labels=labels)


def in_sets(data: Dataset, shift: Shift) -> Dataset:
    """Return the data with a test set as long as that of `shifted`, but of clean images: enough to
    score outputs that are stored.
    """
    num = len(names_of(asdict(shift)))
    if num < 2:
        return data
    inputs = data.test_inputs.repeat(num, *[1] * len(data.input_shape))
    return replace(data, test_inputs=inputs, test_labels=data.test_labels.repeat(num))


def _sets(data: Dataset, shift: Shift, names: Sequence[str]) -> Iterator[Tensor]:
    """Yield the test images with each of the corruptions, their pixels in 0..1, on the CPU."""
    assert shift.severity
    if shift.corruption_source == "files":
        root, labels = Path(shift.corruption_root), data.test_labels.cpu().numpy()
        for name in names:
            codes = read_images(root, name, shift.severity, data.input_shape, labels)
            yield torch.from_numpy(codes).float() / 255
        return
    clean = _pixels(data)
    for name in names:
        yield corrupted(clean, name, shift.severity, shift.corruption_seed)


def corrupted(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Return `images` (N, C, H, W), float32 on a CPU with pixels in 0..1, with a corruption of
    `AMOUNTS`; pixels stay in 0..1.

    >>> corrupted(torch.full((1, 1, 8, 8), 0.5), "brightness", 5)[0, 0, 0, 0].item()
    0.800000011920929
    """
    rng = np.random.default_rng(stream_seed(seed, f"corruption/{name}"))
    amount = AMOUNTS[name][severity - 1]
    parts = [_MADE[name](part, amount, rng).clamp(0, 1) for part in torch.split(images, CHUNK)]
    return torch.cat(parts)


def _pixels(data: Dataset) -> Tensor:
    """Return the test images with pixels in 0..1, on the CPU."""
    x = data.test_inputs.cpu().double()
    pixels = (x - data.padding.cpu().double()) / (255 * data.pixel.cpu().double())
    low, high = float(pixels.min()), float(pixels.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise DataError(
            f"corrupting the test images of {data.name}: found pixels from {low:.3g} to"
            f" {high:.3g}; allowed: 0 (black) to 1, as those of images in bytes are"
        )
    return pixels.clamp(0, 1).float()


def _normalised(pixels: Tensor, data: Dataset) -> Tensor:
    """Return pixels in 0..1 as the inputs of the data are, on their device and in their dtype."""
    on = pixels.to(data.test_inputs.device).double()
    return (on * (255 * data.pixel.double()) + data.padding.double()).to(data.test_inputs.dtype)


def _gaussian_noise(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    return x + amount * torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype=np.float32))


def _shot_noise(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    rates = (x.double() * LEVELS).round() * (amount / LEVELS)
    return torch.from_numpy(rng.poisson(rates.numpy()) / amount).float()


def _impulse_noise(x: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    u = torch.from_numpy(rng.random(tuple(x.shape), dtype=np.float32))
    return x.masked_fill(u < amount / 2, 0).masked_fill(u > 1 - amount / 2, 1)


def _blur(x: Tensor, amount: float, _rng: np.random.Generator) -> Tensor:
    reach = int(4 * amount + 0.5)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (places / amount) ** 2)
    weights = (weights / weights.sum()).repeat(x.shape[1], 1, 1, 1)
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, weights, groups=x.shape[1])
    return functional.conv2d(rows, weights.transpose(2, 3), groups=x.shape[1])


def _contrast(x: Tensor, amount: float, _rng: np.random.Generator) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + amount * (x - mean)


def _brightness(x: Tensor, amount: float, _rng: np.random.Generator) -> Tensor:
    return x + amount


def _pixelate(x: Tensor, amount: float, _rng: np.random.Generator) -> Tensor:
    height, width = x.shape[2:]
    rows, columns = (_areas(max(1, int(amount * size)), size) for size in (height, width))
    small = rows @ x @ columns.t()
    return functional.interpolate(small, (height, width), mode="nearest-exact")


def _areas(cells: int, size: int) -> Tensor:
    """Return the shares (cells, size) of pixels in each of as many equal cells."""
    edges = torch.linspace(0, size, cells + 1)
    pixel = torch.arange(size)
    upper = torch.minimum(edges[1:, None], pixel + 1.0)
    return (upper - torch.maximum(edges[:-1, None], pixel)).clamp(min=0) * (cells / size)


_MADE: Mapping[str, Callable[[Tensor, float, np.random.Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
}
