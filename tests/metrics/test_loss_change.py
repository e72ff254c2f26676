"""The metric `loss_change`: on a quadratic loss everything is known."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from oracles import dense_hessian
from point_support import cnn, dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.loss_change import LOSS_CHANGE, LossChangeArgs
from phasegrid.metrics.loss_change.compute import compute, theory
from phasegrid.tasks.losses import Criterion, mse

EXAMPLES = 12


def measure(
    module: nn.Module, data: Dataset, *sizes: float, seed: int = 0, **args: Any
) -> list[dict[str, Any]]:
    settings = dataclasses.asdict(LossChangeArgs(sizes=sizes, **args))
    return compute([module], data, generator(seed), **settings)


def quadratic() -> tuple[nn.Module, Dataset, Tensor]:
    """Linear regression: half the squared distance, whose Hessian is X^T X / N for each output."""
    inputs = torch.randn(EXAMPLES, 4, generator=generator(3), dtype=torch.float64)
    labels = torch.randint(0, 3, (EXAMPLES,), generator=generator(4))
    data = dataclasses.replace(dataset(inputs, labels), objective=Criterion(mse))
    module = seeded(lambda: nn.Linear(4, 3, bias=False))
    return module, data, torch.kron(torch.eye(3).double(), inputs.t() @ inputs / EXAMPLES)


def gradient_of(module: nn.Module, data: Dataset) -> Tensor:
    (weight,) = module.parameters()
    logits = module(data.train_inputs)
    target = nn.functional.one_hot(data.train_labels, 3)
    loss = 0.5 * (logits - target).square().sum() / EXAMPLES
    return torch.autograd.grad(loss, weight)[0].flatten()


@pytest.mark.parametrize("step", [0.01, 1.0, 3.0])
def test_mean_and_deviation_are_those_of_a_gaussian_integral(step: float) -> None:
    """Gauss-Hermite quadrature of 5 points is exact for the fourth power of a quadratic."""
    H = np.array([[1.5, 0.4], [0.4, -0.7]])
    g = np.array([0.3, -1.1])
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    points = step * np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    share = np.outer(weights, weights).ravel()
    change = points @ g + np.einsum("ki,ij,kj->k", points, H, points) / 2
    mean = share @ change
    deviation = np.sqrt(share @ (change - mean) ** 2)
    found = theory(step, float(g @ g), float(np.trace(H)), float(np.trace(H @ H)))
    assert found == pytest.approx((mean, deviation), rel=1e-12)


def test_on_a_quadratic_the_change_is_that_to_second_order() -> None:
    module, data, H = quadratic()
    for row in measure(module, data, 0.01, 1.0, sigma=0.7):
        np.testing.assert_allclose(row["changes"], row["second_order"], rtol=1e-8, atol=1e-14)
        assert row["mean_change"] == pytest.approx(row["mean_second_order"], rel=1e-8)
        assert row["gradient_norm"] == pytest.approx(float(gradient_of(module, data).norm()))
        assert (row["num_parameters"], row["num_examples"]) == (len(H), EXAMPLES)


def test_on_a_quadratic_draws_have_the_mean_and_the_deviation_of_theory() -> None:
    """Of many draws, within four standard errors; that of a variance by the fourth moment."""
    module, data, H = quadratic()
    g, num = gradient_of(module, data), 800
    (row,) = measure(module, data, 0.5, num=num, trace_probes=100)
    mean, deviation = theory(0.5, float(g @ g), float(H.trace()), float((H @ H).trace()))
    changes = np.array(row["changes"])
    assert abs(row["mean_change"] - mean) < 4 * deviation / num**0.5
    squares = (changes - mean) ** 2
    assert abs(squares.mean() - deviation**2) < 4 * squares.std() / num**0.5
    assert abs(row["trace_of_square"] - (H @ H).trace()) < 4 * row["trace_of_square_stderr"]
    assert abs(row["trace"] - H.trace()) < 4 * row["trace_stderr"]
    assert row["trace_method"] == "hutchinson"
    assert row["theory_std"] == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_small_changes_are_those_to_second_order(name: str) -> None:
    """A smooth network: the error is of third order."""
    if name == "mlp":
        inputs = torch.randn(EXAMPLES, 4, generator=generator(3), dtype=torch.float64)
        data = dataset(inputs, torch.randint(0, 3, (EXAMPLES,), generator=generator(4)))
        module = seeded(lambda: mlp(nn.Tanh))
    else:
        module, data = seeded(lambda: cnn(nn.Tanh)), dataset(*images(7))
    coarse, fine = measure(module, data, 1e-2, 1e-3, num=8)
    errors = [
        np.abs(np.subtract(row["changes"], row["second_order"])).max() for row in (coarse, fine)
    ]
    assert errors[1] < errors[0] / 500 + 1e-13  # a thousandth, but for fourth order and rounding
    H = dense_hessian(module, data.train_inputs, data.train_labels)
    assert abs(coarse["trace"] - H.trace()) < 4 * coarse["trace_stderr"]


def test_the_trace_of_a_piecewise_linear_network_is_exact() -> None:
    module, data = seeded(cnn), dataset(*images(7))
    (row,) = measure(module, data, 0.1, num=4)
    H = dense_hessian(module, data.train_inputs, data.train_labels)
    assert (row["trace_method"], row["trace_stderr"]) == ("exact_ggn", 0)
    assert row["theory_mean"] == pytest.approx(0.1**2 / 2 * float(H.trace()), rel=1e-10)
    assert row["positive_percent"] in (0, 25, 50, 75, 100)
    assert row["batch_norm"] == "as_saved"
    assert set(row) == {column.name for column in LOSS_CHANGE.columns}


def test_sizes_share_their_draws_and_the_network_stays_what_it_is() -> None:
    module, data = seeded(cnn), dataset(*images(7))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    alone, both = measure(module, data, 0.1, num=3), measure(module, data, 0.2, 0.1, num=3)
    assert alone[0] == both[1]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_products_that_are_not_symmetric_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second method is then taken, with the same draws."""
    module, data, _ = quadratic()
    right, call = measure(module, data, 0.5, num=3), HessianOperator.__call__

    def skewed(self: HessianOperator, vector: Tensor) -> Tensor:
        product = call(self, vector)
        return product + 0.1 * vector.roll(1) if self.method == "double_backward" else product

    monkeypatch.setattr(HessianOperator, "__call__", skewed)
    (row,) = measure(module, data, 0.5, num=3)
    assert row["hvp_method"] == "reference"
    np.testing.assert_allclose(row["second_order"], right[0]["second_order"], rtol=1e-10)


def test_wrong_networks_are_refused() -> None:
    module, data, _ = quadratic()
    settings = dataclasses.asdict(LossChangeArgs())
    with pytest.raises(
        MetricError, match="loss_change perturbs the trainable parameters of one ne"
    ):
        compute([module, module], data, generator(0), **settings)
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(MetricError, match="the loss is nan on 12 examples"):
        measure(module, data, 0.1)
