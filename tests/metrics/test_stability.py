"""Curvature in units of the learning rate: on quadratics, where all is known, and by hand."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from point_support import dataset, generator, mlp, seeded
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.hessian.preparing import draw_examples
from phasegrid.metrics.stability import STABILITY, StabilityArgs
from phasegrid.metrics.stability.compute import (
    batch_sharpness,
    compute,
    critical_rate,
    noise_scale,
)


def measure(model: nn.Module, data: Dataset, lr: float = 0.1, **args: Any) -> dict[str, Any]:
    settings = dataclasses.asdict(StabilityArgs(**args))
    row: dict[str, Any] = compute([model], data, generator(0), [(3.0, lr)], **settings)
    return row


def linear_data(num: int = 40) -> Dataset:
    rng = generator(3)
    inputs = torch.randn(num, 4, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=rng))


@pytest.mark.parametrize("start", [1e-3, 0.37, 50.0])
def test_critical_rate_of_a_quadratic_is_two_over_the_curvature(start: float) -> None:
    square, curvature = 3.0, 5.0
    found, passes = critical_rate(
        lambda rate: 7.0 - rate * square + rate**2 * curvature / 2, start, 1e-3
    )
    assert found == pytest.approx(2 * square / curvature, rel=1e-3)
    assert passes < 35


def test_a_critical_rate_near_the_start_takes_few_passes() -> None:
    _, passes = critical_rate(lambda rate: 7.0 - rate + rate**2 / 2, 1.5, 0.05)
    assert passes <= 8


def test_a_loss_that_no_step_changes_has_no_critical_rate() -> None:
    assert critical_rate(lambda _rate: 1.0, 0.1, 0.05)[0] is None


def test_a_loss_that_ends_in_infinity_has_a_critical_rate() -> None:
    found, _ = critical_rate(lambda rate: 1 - rate if rate < 0.5 else math.inf, 0.1, 0.01)
    assert found == pytest.approx(0.5, rel=0.01)


def test_noise_scale_is_that_of_gaussian_gradients() -> None:
    """With gradients G + N(0, s^2 I) of P weights, tr(Sigma) / |G|^2 = P s^2 / |G|^2."""
    P, s, size, num = 50, 0.7, 16, 4000
    G = torch.linspace(0, 1, P, dtype=torch.float64)
    noise = torch.randn(num, P, generator=generator(1), dtype=torch.float64)
    found, stderr = noise_scale(G + s / size**0.5 * noise, size)
    assert found is not None
    assert stderr is not None
    expected = P * s**2 / float(G.square().sum())
    assert abs(found - expected) < 4 * stderr
    assert stderr < 0.05 * expected


def test_noise_scale_needs_two_batches_and_a_gradient_beyond_noise() -> None:
    one = torch.ones(1, 3, dtype=torch.float64)
    assert noise_scale(one, 8) == (None, None)
    assert noise_scale(torch.cat([one, -one]), 8) == (None, None)
    assert noise_scale(torch.cat([one, 1.1 * one]), 8)[1] is None


def test_batch_sharpness_is_the_ratio_of_means() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    curvatures = torch.tensor([3.0, 20.0], dtype=torch.float64)
    found, stderr = batch_sharpness(gradients, curvatures)
    assert found == pytest.approx(23 / 5)
    assert stderr == pytest.approx(abs(20 / 4 - 3) / 2)
    assert batch_sharpness(0 * gradients, curvatures) == (None, None)


def derivatives(weight: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    def loss(flat: Tensor) -> Tensor:
        return cross_entropy(x @ flat.view(3, 4).t(), y)

    return torch.func.grad(loss)(weight), torch.autograd.functional.hessian(loss, weight)


def test_the_row_is_that_of_dense_derivatives_of_each_batch() -> None:
    model, data = nn.Linear(4, 3, bias=False).double(), linear_data()
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=generator(2), dtype=torch.float64))
    args = {"batches": 4, "batch_size": 10, "tolerance": 1e-6, "search_tolerance": 1e-4}
    row = measure(model, data, 0.2, **args)
    assert set(row) == {column.name for column in STABILITY.columns}
    inputs, labels = draw_examples(data, 40, 0)
    weight = model.weight.detach().flatten()
    found = [
        derivatives(weight, inputs[i : i + 10].double(), labels[i : i + 10])
        for i in range(0, 40, 10)
    ]
    g = torch.stack([one for one, _ in found])
    H = torch.stack([one for _, one in found]).mean(dim=0)
    top = float(torch.linalg.eigvalsh(H)[-1])
    assert row["lambda_max"] == pytest.approx(top, rel=1e-5)
    assert row["lambda_max_lr"] == pytest.approx(0.2 * top, rel=1e-5)
    bent = torch.stack([one @ h @ one for one, h in found])
    expected = float(bent.mean() / g.square().sum(dim=1).mean())
    assert row["batch_sharpness"] == pytest.approx(expected, rel=1e-8)
    assert row["gradient_norm"] == pytest.approx(float(g.mean(dim=0).norm()), rel=1e-10)
    assert row["gradient_noise_scale"] == noise_scale(g, 10)[0]
    assert (row["after_epochs"], row["lr"]) == (3.0, 0.2)
    assert (row["num_batches"], row["num_examples"]) == (4, 40)

    def value(rate: float) -> float:
        moved = (weight - rate * g.mean(dim=0)).view(3, 4)
        return float(cross_entropy(inputs.double() @ moved.t(), labels))

    critical = row["critical_lr"]
    assert value(0.99 * critical) < value(0) < value(1.01 * critical)
    assert row["critical_sharpness"] == 2 / critical


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    row = measure(seeded(mlp), linear_data(20))
    assert (row["num_batches"], row["num_examples"]) == (1, 20)
    assert row["gradient_noise_scale"] is row["batch_sharpness_stderr"] is None
    assert row["batch_norm"] in (None, "train")
