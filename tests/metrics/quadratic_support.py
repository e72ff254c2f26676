"""A network whose loss is a quadratic form of its weights, known in closed form."""

from dataclasses import dataclass, replace

import torch
from point_support import dataset, generator
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.tasks.losses import Criterion, mse, one_hot_columns

HALF_SQUARE = Criterion(mse, one_hot_columns)


@dataclass(frozen=True)
class Quadratic:
    """L(w + e) = `loss` + g . e + e . H e / 2 at the weights w (P,) of `module`."""

    module: nn.Module
    data: Dataset
    w: Tensor
    loss: float
    g: Tensor
    H: Tensor

    def rise(self, e: Tensor) -> float:
        """L(w + e) - L(w)."""
        return float(self.g @ e + e @ self.H @ e / 2)


def quadratic(num: int = 8, features: int = 4, classes: int = 3, axes: bool = False) -> Quadratic:
    """A linear map without bias and half the squared distance from the one-hot label: H is E[x x^T]
    for each class. With `axes`, inputs lie on the axes, so H is diagonal.
    """
    rng = generator(1)
    x = torch.randn(num, features, generator=rng, dtype=torch.float64)
    if axes:
        x = torch.eye(features, dtype=torch.float64).repeat(-(-num // features), 1)[:num] * x
    y = torch.randint(0, classes, (num,), generator=rng)
    module = nn.Linear(features, classes, bias=False).double()
    W = torch.randn(classes, features, generator=rng, dtype=torch.float64)
    module.weight.data.copy_(W)
    return of_linear(module, x, y, classes)


def of_linear(module: nn.Linear, x: Tensor, y: Tensor, classes: int) -> Quadratic:
    W = module.weight.detach()
    residual = x @ W.t() - nn.functional.one_hot(y, classes).double()
    M = x.t() @ x / len(x)
    return Quadratic(
        module.eval(),
        replace(dataset(x, y, classes), objective=HALF_SQUARE),
        W.flatten().clone(),
        float(residual.square().sum() / 2 / len(x)),
        (residual.t() @ x / len(x)).flatten(),
        torch.block_diag(*[M] * classes),
    )
