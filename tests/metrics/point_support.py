"""Small networks and data for the tests of the point metrics: two or three classes, a few hundred
parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.models.weights import batch_norm_modules


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a network in float64, eval mode, with BatchNorm statistics and affine that are not the
    defaults.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = make().double().eval()
    rng = generator(seed + 100)
    for layer in batch_norm_modules(module):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_(0, 0.3, generator=rng)
        layer.running_var.uniform_(0.5, 1.5, generator=rng)
        if layer.affine:
            layer.weight.data.uniform_(0.5, 1.5, generator=rng)
            layer.bias.data.normal_(0, 0.3, generator=rng)
    return module


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """Make a symmetric matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    Q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator(seed), dtype=torch.float64))
    return Q @ torch.diag(eigenvalues.double()) @ Q.t()


def decaying(size: int) -> Tensor:
    """Like a trained network's: a bulk at zero, a few outliers of both signs."""
    values = torch.linspace(-0.01, 0.01, size, dtype=torch.float64)
    values[-4:] = torch.tensor([1.0, 3.0, 8.0, 20.0])
    values[0] = -2.0
    return values


def images(num: int, channels: int = 2, side: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Draw float64 images and labels."""
    rng = generator(7)
    inputs = torch.randn(num, channels, side, side, generator=rng, dtype=torch.float64)
    return inputs, torch.randint(0, classes, (num,), generator=rng)


def dataset(inputs: Tensor, labels: Tensor, classes: int = 3) -> Dataset:
    """Make a data set whose test set is the first half of the training set."""
    half = max(1, len(labels) // 2)
    pixel = torch.full((1,) * (inputs.dim() - 1), 0.01)
    return Dataset(
        "test",
        inputs,
        labels,
        inputs[:half],
        labels[:half],
        classes,
        pixel,
        torch.zeros_like(pixel),
    )


def mlp(activation: Callable[[], nn.Module] = nn.ReLU, width: int = 5) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, width),
        activation(),
        nn.Linear(width, width),
        activation(),
        nn.Linear(width, 3),
    )


def cnn(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Strides, dilation, groups, a bias before BatchNorm, both poolings."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), activation(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1), groups=2, bias=False), nn.BatchNorm2d(4, affine=False),
        activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3),
    )  # fmt: skip


class Residual(nn.Module):
    """A residual network with functional and in-place operations, one layer on three-dimensional
    input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(3)
        self.mix = nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(x))
        y += x
        y = nn.functional.max_pool2d(torch.relu(y), 2)
        y = torch.flatten(y, 2).view(y.size(0), -1, 3)
        y = nn.functional.relu(self.mix(y), inplace=True)
        return self.head(y.mean(1))
