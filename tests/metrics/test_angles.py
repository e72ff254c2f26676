"""The metric `angles`: against the law of random directions and angles that are known."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from point_support import dataset, generator, mlp, seeded
from scipy import integrate
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.angles import ANGLES, AnglesArgs
from phasegrid.metrics.angles.compute import compute
from phasegrid.metrics.directions.drawing import draw_directions, loss_and_gradient
from phasegrid.metrics.measured import Source
from phasegrid.models.weights import parameters_vector


def flat_data(num: int = 12) -> Dataset:
    inputs = torch.randn(num, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=generator(4)))


def measure(
    module: nn.Module, vectors: dict[str, Tensor], seed: int = 0, **args: Any
) -> list[dict[str, Any]]:
    tensors = {"directions": torch.stack([*vectors.values()])}
    tensors["weights"] = parameters_vector(module)
    source = Source(tensors, "directions", "directions", {"along": list(vectors)})
    settings = dataclasses.asdict(AnglesArgs(**args))
    return compute([module], flat_data(), generator(seed), [source], **settings)


def test_gaussian_directions_are_nearly_orthogonal_to_any() -> None:
    """Mean 90 degrees and the deviation of theory, within four standard errors."""
    module, num = seeded(lambda: mlp(width=40)), 600
    size = len(parameters_vector(module))
    one = torch.zeros(size, dtype=torch.float64)
    one[3] = -2.0
    rows = measure(module, {"gradient": one, "weights": parameters_vector(module)}, num=num)
    for row in rows:
        assert set(row) == {column.name for column in ANGLES.columns}
        assert row["theory_std"] == pytest.approx(57.2958 / size**0.5, rel=1e-6)
        assert abs(row["mean_angle"] - 90) < 4 * row["mean_angle_stderr"]
        assert abs(row["std_angle"] / row["theory_std"] - 1) < 4 / (2 * num) ** 0.5
        assert len(row["angles"]) == num
        assert row["smallest_angle"] == min(row["angles"])


@pytest.mark.parametrize("size", [50, 1000])
def test_the_deviation_of_theory_is_that_of_the_density_for_many_parameters(size: int) -> None:
    """The angle has the density sin^(P-2); the error of the formula is of the order 1/P."""

    def moment(power: int) -> float:
        def value(x: float) -> float:
            return x**power * math.cos(x) ** (size - 2)

        return float(integrate.quad(value, -math.pi / 2, math.pi / 2, points=[0.0])[0])

    exact = math.degrees(math.sqrt(moment(2) / moment(0)))
    assert exact == pytest.approx(57.2958 / size**0.5, rel=1 / size)


def test_an_angle_is_that_of_the_law_of_cosines() -> None:
    module = seeded(mlp)
    weights = parameters_vector(module)
    d = torch.linspace(-1, 2, len(weights), dtype=torch.float64)
    (row,) = measure(module, {"weights": d}, num=3, seed=5)
    rng = generator(5)
    for angle in row["angles"]:
        z = draw_directions(1, weights, rng)[0]
        a, b, c = (float(v.norm()) for v in (d, z, d - z))
        assert angle == pytest.approx(math.degrees(math.acos((a**2 + b**2 - c**2) / (2 * a * b))))


def test_the_gradient_of_a_batch_of_all_examples_is_the_gradient() -> None:
    """At angle 0; opposite to its negative, and no batch is at a right angle."""
    module, data = seeded(mlp), flat_data()
    g = loss_and_gradient(module, data.train_inputs, data.train_labels, data.scoring)[1]
    whole = measure(module, {"gradient": -g, "weights": g}, num=2, draw="gradient", batch_size=99)
    assert whole[0]["mean_angle"] == pytest.approx(0, abs=1e-4)  # acos has no digits near 1
    assert whole[1]["mean_angle"] == pytest.approx(180, abs=1e-4)
    assert whole[0]["theory_std"] is None
    (some,) = measure(module, {"gradient": -g}, num=20, draw="gradient", batch_size=6)
    assert 1 < some["mean_angle"] < 89
    assert len(set(some["angles"])) == 20


def test_what_cannot_be_compared_is_refused() -> None:
    module = seeded(mlp)
    one = torch.zeros(len(parameters_vector(module)), dtype=torch.float64)
    with pytest.raises(MetricError, match="angles: the direction weights is zero; leave it out"):
        measure(module, {"weights": one})
    with pytest.raises(MetricError, match="angles: found the direction to_1, which was not stored"):
        measure(module, {"weights": one + 1}, along=("to_1",))
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    data = flat_data()
    with torch.no_grad():  # every class equally often, so that not even the biases have a slope
        source = Source({"directions": one[None] + 1, "weights": one}, "directions", "directions", {"along": ["weights"]})  # fmt: skip
    balanced = dataclasses.replace(data, train_labels=torch.arange(12) % 3)
    settings = dataclasses.asdict(AnglesArgs(draw="gradient", batch_size=12))
    with pytest.raises(MetricError, match="angles: a drawn gradient is zero"):
        compute([module], balanced, generator(0), [source], **settings)
