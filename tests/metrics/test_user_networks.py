"""Laws of networks that do to their inputs, buffers and weights what ours do not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from point_support import dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics import accuracy, cka, connectivity, hessian, simplex
from phasegrid.metrics import slice as slices
from phasegrid.stacking import products

CURVE: dict[str, Any] = {"epochs": 2, "points": 3, "batch_size": 16}
SIMPLEX: dict[str, Any] = {
    "connectors": 1, "samples": 2, "epochs": 1, "batch_size": 16, "eval_samples": 2
}  # fmt: skip
METRICS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "accuracy": (accuracy.compute, 1, {}),
    "hessian": (hessian.compute, 1, {"examples": 20, "steps": 5}),
    "hessian, BatchNorm refreshed": (hessian.compute, 1, {"examples": 20, "steps": 5, "batch_norm": "refreshed"}),
    "cka": (cka.compute, 2, {"examples": 20}),
    "cka of the examples": (cka.compute, 2, {"examples": 20, "mixup_alpha": None}),
    "slice": (slices.compute, 1, {"points": 3, "dimensions": 1, "examples": 20}),
    "connectivity": (connectivity.compute, 2, CURVE),
    "simplex": (simplex.compute, 2, SIMPLEX),
}  # fmt: skip


class Shifted(nn.Module):
    """Moves its input by 1/4, in place or not, and gives it to `inner`."""

    def __init__(self, inner: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            x += 0.25
        else:
            x = x + 0.25
        logits: Tensor = self.inner(x)
        return logits


def vectors() -> Dataset:
    rng = generator(3)
    inputs = torch.randn(40, 4, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (40,), generator=rng))


def pictures() -> Dataset:
    """Of one channel: laying them out channels last copies nothing."""
    return dataset(*images(40, channels=1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def shifted(inner: Callable[[], nn.Module], in_place: bool, count: int) -> list[nn.Module]:
    return [seeded(lambda: Shifted(inner(), in_place), seed) for seed in range(count)]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("inner", "make_data"), [(mlp, vectors), (convolutional, pictures)])
def test_a_network_that_writes_into_its_input_is_measured_as_one_that_does_not(
    name: str, inner: Callable[[], nn.Module], make_data: Callable[[], Dataset]
) -> None:
    compute, count, args = METRICS[name]
    data = make_data()
    rows = [
        compute(shifted(inner, in_place, count), data, generator(0), **args)
        for in_place in (False, True)
    ]
    assert rows[0] == rows[1]
    assert torch.equal(data.train_inputs, make_data().train_inputs)
    assert torch.equal(data.test_inputs, make_data().test_inputs)


def test_counting_the_work_of_a_network_leaves_the_data_alone() -> None:
    data = vectors()
    products(shifted(mlp, True, 1)[0], data.train_inputs[:1])
    assert torch.equal(data.train_inputs, vectors().train_inputs)
