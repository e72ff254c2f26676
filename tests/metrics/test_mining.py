"""Mined directions: against the algorithms as printed, and landscapes whose shape is known."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from oracles import mined_vvv_basin, mined_w_peak
from point_support import cnn, dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.directions import DIRECTIONS, DirectionsArgs
from phasegrid.metrics.directions.compute import compute, compute_many
from phasegrid.metrics.directions.mining import choose_joint
from phasegrid.metrics.measured import Measured
from phasegrid.models.weights import parameters_vector


class Landscape(nn.Module):
    """A network of two weights whose cross-entropy for label 0 is a given function of them."""

    def __init__(self, loss: Callable[[Tensor], Tensor], at: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(at, dtype=torch.float64))
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (0, ln(e^L - 1)), of which the cross-entropy is ln(1 + e^L - 1) = L."""
        other = torch.log(torch.expm1(self.loss(self.weight)))
        return torch.stack([torch.zeros_like(other), other]).expand(len(x), 2)


def saddle(w: Tensor) -> Tensor:
    x, y = w
    return 1 + x**2 - y**2 / 2 + y**4 / 8


def wells(w: Tensor) -> Tensor:
    """A well at 0, a valley all around at distance 2, and a well halfway to it along the first
    axis: three wells in a row along this axis only.
    """
    r2, halfway = w.square().sum(), (w - w.new_tensor([1.0, 0.0])).square().sum()
    valley = r2 * (r2.clamp(min=1e-12).sqrt() - 2) ** 2
    return 0.1 + valley - 0.9 * torch.exp(-4 * halfway)


def zeros(num: int = 8) -> Dataset:
    inputs = torch.zeros(num, 1, dtype=torch.float64)
    return dataset(inputs, torch.zeros(num, dtype=torch.int64), 2)


def flat_data(num: int = 24) -> Dataset:
    inputs = torch.randn(num, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=generator(4)))


def mined(models: list[nn.Module], data: Dataset, *along: str, seed: int = 0, **args: Any) -> Any:
    settings = dataclasses.asdict(DirectionsArgs(along=along, **args))
    found = compute(models, data, generator(seed), **settings)
    assert isinstance(found, Measured)
    return found


def vector(found: Measured, place: int = 0) -> Tensor:
    return found.artifacts["directions"]["directions"][place]


def along(network: nn.Module, epsilon: Tensor, lambdas: Sequence[float]) -> list[float]:
    """The loss of a landscape at theta + lambda epsilon."""
    assert isinstance(network, Landscape)
    theta = parameters_vector(network)
    return [float(network.loss(theta + a * epsilon)) for a in lambdas]


def test_a_w_peak_is_mined_along_the_descent_direction_of_a_saddle() -> None:
    network = Landscape(saddle, [0.02, 0.01])
    found = mined([network], zeros(), "w_peak", epochs=80, batch_size=4, lr=0.4)
    epsilon = vector(found)
    assert abs(float(epsilon[1])) / float(torch.linalg.vector_norm(epsilon)) > 0.999
    *low, peak = along(network, epsilon, [-1, -0.75, -0.5, 0])
    high = along(network, epsilon, [0.5, 0.75, 1])
    assert max(min(low), min(high)) < peak - 0.1  # the loss falls on both sides
    assert found.rows[0]["mined_loss"] < peak


def test_a_vvv_basin_is_mined_where_a_well_lies_halfway() -> None:
    network, other = Landscape(wells, [0.0, 0.0]), Landscape(wells, [1.6, 1.2])
    args = {"epochs": 100, "batch_size": 8, "lr": 0.1, "start": "to_1"}
    with_well = vector(mined([network, other], zeros(), "vvv_basin", gamma=0.5, **args))
    without = vector(mined([network, other], zeros(), "vvv_basin", gamma=0.0, **args))
    torch.testing.assert_close(without, torch.tensor([1.6, 1.2]).double(), rtol=0, atol=0.05)
    assert float(with_well[0]) / float(torch.linalg.vector_norm(with_well)) > 0.99
    here, hill, half, ridge, there = along(network, with_well, [0, 0.25, 0.5, 0.75, 1])
    assert max(here, half, there) < min(hill, ridge)  # three wells


@pytest.mark.parametrize("batch_size", [24, 7], ids=["one batch", "several batches"])
def test_algorithms_are_those_of_the_paper(batch_size: int) -> None:
    model, other, data = seeded(lambda: mlp(nn.Tanh)), seeded(lambda: mlp(nn.Tanh), 1), flat_data()
    rng, epochs = generator(0), 3
    draws = []
    for _ in range(2 * epochs):  # of the first algorithm, then of the second
        order = torch.randperm(24, generator=rng)
        chosen = [order[start : start + batch_size] for start in range(0, 24, batch_size)]
        uniform = torch.rand(len(chosen), generator=rng, dtype=torch.float64).tolist()
        draws.append(list(zip(chosen, uniform, strict=True)))
    settings = {"epochs": epochs, "lr": 0.3, "alpha": 0.2, "gamma": 0.7, "start": "to_1"}
    found = mined([model, other], data, "w_peak", "vvv_basin", batch_size=batch_size, **settings)
    batches = [[(data.train_inputs[c], data.train_labels[c], u) for c, u in e] for e in draws]
    expected = mined_w_peak(model, batches[:epochs], 0.3)
    torch.testing.assert_close(vector(found, 0), expected, rtol=1e-9, atol=1e-12)
    expected = mined_vvv_basin(model, parameters_vector(other), batches[epochs:], 0.3, 0.2, 0.7)
    torch.testing.assert_close(vector(found, 1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "make"), [("w_peak", mlp), ("vvv_basin", mlp), ("w_peak", cnn)])
def test_minings_of_several_networks_are_those_of_each_alone(kind: Any, make: Any) -> None:
    models = [seeded(make, seed) for seed in range(3)]
    data = flat_data() if make is mlp else dataset(*images(24))
    assert choose_joint(kind, models, data, 8)
    settings = dataclasses.asdict(
        DirectionsArgs(along=("gaussian_0", kind), epochs=2, batch_size=8)
    )
    rngs = [generator(seed) for seed in range(3)]
    together = compute_many(models, [(0,), (1,), (2,)], data, rngs, **settings)
    assert together is not None
    for seed, found in enumerate(together):
        alone = compute([models[seed]], data, generator(seed), **settings)
        for place in (0, 1):
            # the order of sums alone differs, over few updates
            torch.testing.assert_close(vector(found, place), vector(alone, place), rtol=1e-6, atol=1e-9)  # fmt: skip
        assert found.rows[1]["mined_loss"] == pytest.approx(alone.rows[1]["mined_loss"], rel=1e-7)


def test_jobs_without_a_mining_are_not_done_together() -> None:
    models = [seeded(mlp, seed) for seed in range(2)]
    settings = dataclasses.asdict(DirectionsArgs())
    rngs = [generator(0), generator(1)]
    assert compute_many(models, [(0,), (1,)], flat_data(), rngs, **settings) is None


def test_mining_uses_the_statistics_of_each_batch() -> None:
    """Saved statistics say nothing about a mining: other ones give the same direction."""
    data, first, other = dataset(*images(24)), seeded(cnn), seeded(cnn)
    for layer in other.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.add_(1)
            layer.running_var.mul_(3)
    found = [vector(mined([m], data, "w_peak", epochs=2, batch_size=8)) for m in (first, other)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_mining_that_diverges_is_a_result_without_directions() -> None:
    network = Landscape(lambda w: 1 + w.square().sum(), [3.0, 0.0])
    found = mined([network], zeros(), "w_peak", "weights", epochs=40, lr=1e3, batch_size=2)
    assert found.artifacts == {}
    assert found.rows[0]["mined_loss"] is None
    assert found.rows[0]["norm"] is None
    assert found.rows[0]["cosine"] == [None, None]
    assert found.rows[1]["norm"] == pytest.approx(3)


def test_a_network_that_cannot_begin_anew_mines_from_another() -> None:
    with pytest.raises(MetricError, match=r"no reset_parameters\(\).*use start: to_1"):
        mined([Landscape(wells, [0.0, 0.0])], zeros(), "vvv_basin", epochs=1)


def test_the_network_is_left_as_it_was() -> None:
    network = seeded(cnn)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    mined([network], dataset(*images(24)), "w_peak", "vvv_basin", epochs=1, batch_size=8)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_mining_counts_as_many_passes_as_it_takes_gradients() -> None:
    assert DIRECTIONS.passes is not None
    args = {"along": ["w_peak", "vvv_basin", "gradient"], "epochs": 20}
    assert DIRECTIONS.passes(args, 1000) == 60
    assert DIRECTIONS.passes({"along": ["gradient"], "epochs": 20}, 1000) == 0
