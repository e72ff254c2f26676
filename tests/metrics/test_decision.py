"""Fields over the plane of two inputs, against plain formulas in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from point_support import dataset, generator
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.decision.compute import compute
from phasegrid.metrics.decision.fields import Grid, are_away, grid_around, roughness, usual_radius
from phasegrid.metrics.measured import Source

POINTS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)


def square() -> Dataset:
    return dataset(POINTS, torch.tensor([0, 1, 0, 1]), classes=2)


def border(slope: tuple[float, float], shift: float = 0.0) -> nn.Module:
    """A network with the logits (0, slope x + shift)."""
    net = nn.Linear(2, 2).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0], slope]))
        net.bias.copy_(torch.tensor([0.0, shift]))
    return net


def measured(*nets: nn.Module, **args: Any) -> dict[str, Any]:
    return compute(nets, square(), generator(0), **{"grid": 4, "margin": 0.5, **args})


def test_the_field_of_a_logistic_network_is_the_sigmoid() -> None:
    found = measured(border((2.0, 1.0), 0.5), border((2.0, 1.0), 0.5))
    x = np.linspace(-2, 2, 4)
    expected = 1 / (1 + np.exp(-(2 * x[None, :] + x[:, None] + 0.5)))
    np.testing.assert_allclose(found["field"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["sample_fields"][1], expected.ravel(), rtol=1e-12)
    np.testing.assert_allclose(
        measured(*[border((2.0, 1.0), 0.5)] * 2, label=0)["field"], 1 - expected
    )
    assert found["axis"] == found["axis_2"] == pytest.approx(x.tolist())
    assert (found["num_networks"], found["num_samples"], found["train_x"][0]) == (2, 2, -1.0)


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_the_field_of_several_is_their_mean_probability_or_that_of_mean_logits(mean: str) -> None:
    nets = [border((3.0, 0.0), 1.0), border((0.0, -1.0)), border((1.0, 1.0), -2.0)]
    found = measured(*nets, mean=mean, samples=2)
    x = np.linspace(-2, 2, 4)
    X, Y = x[None, :], x[:, None]
    z = np.stack([3 * X + 1 + 0 * Y, -Y + 0 * X, X + Y - 2])
    expected = (
        (1 / (1 + np.exp(-z))).mean(0) if mean == "probabilities" else 1 / (1 + np.exp(-z.mean(0)))
    )
    np.testing.assert_allclose(found["field"], expected, rtol=1e-12)
    assert len(found["sample_fields"]) == 2  # the first and the last
    np.testing.assert_allclose(found["sample_fields"][1], (1 / (1 + np.exp(-z[2]))).ravel())


def test_networks_that_agree_on_the_data_can_differ_away_from_it() -> None:
    """They choose by the sign of y, but one of them otherwise where x > 1.5: on the grid at -2,
    -0.67, 0.67 and 2 in the last of four columns.
    """
    late = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    with torch.no_grad():
        late[0].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]]))
        late[0].bias.copy_(torch.tensor([0.0, 0.0, -1.5]))
        late[2].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 50.0]]))
        late[2].bias.zero_()
    found = measured(border((0.0, 1.0)), late, radius=1.4)
    assert found["train_agreement_percent"] == 100
    assert found["train_error_percent"] == 0
    # the corners are 1.41 from a point, and all else is nearer: two of four corners differ, none
    # of the other twelve places but those where x = 2 and y = -0.67
    assert found["away_percent"] == 25
    assert found["away_disagreement_percent"] == pytest.approx(100 * 1 / 4)
    assert found["near_disagreement_percent"] == pytest.approx(100 * 1 / 12)
    alike = measured(late, late, radius=1.4)
    assert alike["away_disagreement_percent"] == alike["near_disagreement_percent"] == 0


def test_without_a_place_away_from_the_data_there_is_no_share() -> None:
    assert (
        measured(border((1.0, 0.0)), border((0.0, 1.0)), radius=9.0)["away_disagreement_percent"]
        is None
    )


def test_roughness_is_the_mean_squared_slope_and_grows_with_its_square() -> None:
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    grid = Grid(axis, 3 * axis)
    places = grid.places

    def of(values: Tensor) -> float:
        return roughness(values.view(201, 201), grid)

    assert of(0.3 * places[:, 0] - 0.4 * places[:, 1] + 5) == pytest.approx(0.25, rel=1e-12)
    wave = torch.sin(places[:, 0] * torch.pi)  # its mean squared slope is pi^2 / 2
    assert of(wave) == pytest.approx(torch.pi**2 / 2, rel=1e-2)
    assert of(2 * wave) == pytest.approx(4 * of(wave), rel=1e-12)


def test_distances_from_the_data_are_those_of_a_slow_loop() -> None:
    points = torch.randn(30, 2, generator=generator(0), dtype=torch.float64)
    places = grid_around(points, 5, 0.1).places
    apart = np.linalg.norm(places.numpy()[:, None] - points.numpy()[None], axis=2).min(1)
    assert are_away(places, points, 0.3).tolist() == (apart > 0.3).tolist()
    own = [min(float((p - q).norm()) for q in points if not torch.equal(p, q)) for p in points]
    assert usual_radius(points) == pytest.approx(sorted(own)[14], rel=1e-12)  # torch: the lower
    low, high = points.numpy().min(0), points.numpy().max(0)
    np.testing.assert_allclose(places[0], low - 0.1 * (high - low))
    np.testing.assert_allclose(places[-1], high + 0.1 * (high - low))


def test_a_complex_is_measured_at_points_drawn_from_it() -> None:
    """On the segment from (0, x) to (0, 3 x) all are of the form (0, a x), 1 <= a <= 3, and the mean
    of many is nearly the mean of the sigmoid over a, in closed form.
    """
    net = border((1.0, 0.0))
    far = torch.cat([p.flatten() for p in border((3.0, 0.0)).parameters()])[None]
    args = {"batch_size": 4, "sampling": "volume"}
    left = {"connectors": far.detach(), "simplexes": torch.tensor([[0, 1]])}
    source = Source(left, "complex", "espro", args)
    found = compute([net], square(), generator(0), (source,), grid=3, points=400, samples=7)
    assert (found["num_networks"], found["num_samples"]) == (400, 7)
    x = found["axis"][2]  # the mean of s(a x) over a in [1, 3] is ln((1 + e^3x) / (1 + e^x)) / 2x
    expected = np.log((1 + np.exp(3 * x)) / (1 + np.exp(x))) / (2 * x)
    slopes = np.log([1 / (1 / f[2] - 1) for f in found["sample_fields"]]) / x
    assert 1 <= min(slopes) < max(slopes) <= 3
    assert found["field"][0][2] == pytest.approx(expected, abs=3 * 0.06 / 20)  # 3 standard errors


def test_a_curve_is_measured_at_points_from_end_to_end() -> None:
    ends = border((1.0, 0.0)), border((0.0, 1.0))
    args = {"curve": "bezier", "batch_size": 4}
    left = {"bends": torch.zeros(1, 6, dtype=torch.float64)}
    source = Source(left, "curve", "connectivity", args)
    found = compute(ends, square(), generator(0), (source,), grid=3, points=5, samples=3)
    alone = [measured(end, end, grid=3, margin=0.2)["field"] for end in ends]
    assert found["num_networks"] == 5
    for end, place in zip(alone, (0, 2), strict=True):
        np.testing.assert_allclose(found["sample_fields"][place], np.ravel(end))


def test_inputs_that_are_not_two_numbers_and_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(MetricError, match=r"decision needs inputs of two numbers, got \(3,\)"):
        compute([border((1.0, 0.0))], dataset(torch.zeros(4, 3), torch.zeros(4)), generator(0))
    broken = border((float("nan"), 0.0))
    with pytest.raises(MetricError, match="decision: the outputs of a network are not finite"):
        measured(broken, broken)
