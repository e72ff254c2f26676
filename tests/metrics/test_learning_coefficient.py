"""Laws of the local learning coefficient: chains whose stationary distribution is known."""

import math
from typing import Any

import pytest
import torch
from point_support import cnn, dataset, generator, images, mlp, seeded
from quadratic_support import quadratic
from test_sharpness import SWEEP, measure, vectors
from torch import Tensor

from phasegrid import load_sweep
from phasegrid.errors import MetricError, SweepError
from phasegrid.metrics.learning_coefficient.compute import Langevin, estimate, langevin


def sampled(
    power: Tensor, h: Tensor, dynamics: Langevin, steps: int, burn_in: int
) -> dict[str, Any]:
    """Chains on L(w) = sum_i h_i |w_i|^power_i."""
    start = torch.zeros_like(h)

    def rise(w: Tensor) -> tuple[float, Tensor]:
        slopes = h * power * w.abs() ** (power - 1) * w.sign()
        return float((h * w.abs() ** power).sum()), slopes

    rng = generator(0)
    chains = [langevin(rise, start, dynamics, steps, rng)[burn_in:] for _ in range(4)]
    return dict(estimate(torch.stack(chains), dynamics.heat))


def test_a_regular_model_has_half_its_dimension() -> None:
    """Up to the discretisation, known for a Gaussian: factors 1 / (1 - eps a_i / 4)."""
    h, heat, step = torch.linspace(0.5, 2, 300, dtype=torch.float64), 100.0, 1e-3
    row = sampled(torch.full_like(h, 2), h, Langevin(heat, step, 0.0), 400, 100)
    expected = float((0.5 / (1 - step * heat * 2 * h / 4)).sum())
    assert expected == pytest.approx(150, rel=0.1)
    assert abs(row["learning_coefficient"] - expected) < 4 * row["learning_coefficient_stderr"]
    assert row["learning_coefficient_stderr"] < 0.05 * expected


def test_what_holds_the_weights_takes_away_from_flat_directions() -> None:
    h = torch.tensor([0.0, 0.05, 1.0], dtype=torch.float64).repeat(100)
    heat, gamma, step = 100.0, 50.0, 1e-3
    row = sampled(torch.full_like(h, 2), h, Langevin(heat, step, gamma), 500, 150)
    a = heat * 2 * h + gamma
    expected = float((heat * h / a / (1 - step * a / 4)).sum())
    assert expected < 0.8 * 100
    assert abs(row["learning_coefficient"] - expected) < 4 * row["learning_coefficient_stderr"]


@pytest.mark.parametrize("power", [4, 6])
def test_a_singular_model_has_less_than_half_its_dimension(power: int) -> None:
    """|w|^2k has the coefficient 1 / 2k: n b E|w|^2k = 1 / 2k exactly, for p ~ exp(-n b |w|^2k)."""
    h = torch.ones(400, dtype=torch.float64)
    row = sampled(torch.full_like(h, power), h, Langevin(100.0, 1e-3, 0.0), 700, 250)
    expected = 400 / power
    # The discretisation adds about 2% at this step.
    tolerance = 4 * row["learning_coefficient_stderr"] + 0.02 * expected
    assert abs(row["learning_coefficient"] - expected) < tolerance
    assert row["learning_coefficient_stderr"] < 0.05 * expected


def test_of_a_network_it_is_that_of_its_quadratic_loss() -> None:
    """Batches of all examples: no noise. The gradient at w* shifts the mean of the chain."""
    q, n, gamma, step = quadratic(num=40), 40, 20.0, 4e-3
    args: dict[str, Any] = {"gamma": gamma, "step": step, "batch_size": 100, "chains": 4}
    row = measure("learning_coefficient", q.module, q.data, **args, burn_in=30, draws=120)
    heat = n / math.log(n)
    A = heat * q.H + gamma * torch.eye(len(q.w), dtype=torch.float64)
    mean = -heat * torch.linalg.solve(A, q.g)
    identity = torch.eye(len(q.w), dtype=torch.float64)
    covariance = torch.linalg.inv(A @ (identity - step * A / 4))
    expected = heat * (q.rise(mean) + float((q.H @ covariance).trace()) / 2)
    assert abs(row["learning_coefficient"] - expected) < 4 * row["learning_coefficient_stderr"]
    assert row["loss"] == pytest.approx(q.loss, rel=1e-12)
    assert (row["num_labels"], len(row["loss_trace"])) == (40, 150)
    assert len(row["chain_values"]) == 4


def test_a_step_suits_the_largest_curvature() -> None:
    q = quadratic()
    args: dict[str, Any] = {"chains": 2, "draws": 2, "burn_in": 0}
    row = measure("learning_coefficient", q.module, q.data, gamma=7.0, **args)
    top = float(torch.linalg.eigvalsh(q.H)[-1])
    assert row["step"] == pytest.approx(0.5 / (8 / math.log(8) * top + 7.0), rel=0.05)
    q.data.train_inputs.zero_()
    with pytest.raises(MetricError, match="nothing says how large a step may be; give step"):
        measure("learning_coefficient", q.module, q.data, gamma=0.0, **args)


def test_a_chain_that_diverges_gives_no_number() -> None:
    row = measure("learning_coefficient", seeded(mlp), vectors(), step=1e3, draws=20, burn_in=2)
    assert row["learning_coefficient"] is None
    assert row["learning_coefficient_stderr"] is row["loss_trace"] is None


def test_a_network_with_batch_norm_is_left_alone() -> None:
    module, data = seeded(cnn), dataset(*images(12))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    args: dict[str, Any] = {"draws": 4, "burn_in": 1, "batch_size": 5, "batch_norm": "refreshed"}
    row = measure("learning_coefficient", module, data, **args)
    assert row["batch_norm"] == "refreshed"
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert measure("learning_coefficient", module, data, **args) == row


def test_one_chain_or_two_labels_are_too_few() -> None:
    with pytest.raises(SweepError, match=r"chains: found 1; allowed: at least 2"):
        load_sweep({**SWEEP, "metrics": [{"learning_coefficient": {"chains": 1}}]})
    with pytest.raises(MetricError, match="found 2 training labels; allowed: 3 or more"):
        measure("learning_coefficient", seeded(mlp), vectors(2))
