"""Connectors follow their gradient as torch's own optimizers do."""

from typing import Any

import pytest
import torch
from point_support import generator
from torch import Tensor

from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.descent import Descent


@pytest.mark.parametrize(
    ("args", "optimizer"),
    [
        ({}, lambda w: torch.optim.SGD(w, 0.1, momentum=0.9)),
        ({"momentum": 0.0}, lambda w: torch.optim.SGD(w, 0.1)),
        ({"optimizer": "adam"}, lambda w: torch.optim.Adam(w, 0.1)),
    ],
)
@pytest.mark.parametrize("shape", [(6,), (3, 6)])
def test_updates_are_those_of_torch(
    args: dict[str, Any], optimizer: Any, shape: tuple[int, ...]
) -> None:
    start = torch.randn(shape, generator=generator(0), dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    descent, reference = Descent(SimplexArgs(**args), ours), optimizer([theirs])

    def gradient(point: Tensor) -> Tensor:
        return 2 * point + point.pow(3)

    for update in range(7):
        lr = 0.1 if update < 4 else 0.02
        descent.begin_epoch(lr)
        reference.param_groups[0]["lr"] = lr
        descent.update(ours, gradient(ours))
        theirs.grad = gradient(theirs.detach())
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)
