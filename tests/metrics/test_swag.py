"""SWAG's Gaussian, over weights and over the bends of a curve, against numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from point_support import dataset, generator, images, mlp, seeded
from torch import Tensor, nn

from phasegrid.config.load import load_sweep
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError, SweepError
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.collecting import BendMoments
from phasegrid.metrics.connectivity.compute import compute as connect
from phasegrid.metrics.connectivity.compute import compute_many
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.gaussian import gaussian_of, sampled_networks
from phasegrid.metrics.network.left import Refresh
from phasegrid.metrics.swag_curves.compute import compute as swag_curves
from phasegrid.models.weights import batch_norm_modules, parameters_vector
from phasegrid.train.taking import take_moments

CURVE: dict[str, Any] = {"epochs": 6, "lr": 0.1, "batch_size": 16, "points": 3}


def vectors() -> Dataset:
    inputs = torch.randn(40, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, (2 * inputs[:, :3]).argmax(dim=1))


def iterates(num: int = 7, size: int = 5) -> Tensor:
    return torch.randn(num, size, generator=generator(1), dtype=torch.float64)


def moments_of(weights: Tensor, rank: int = 4) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for one in weights:
        state = take_moments(state, one, rank)
    return state


def covariance(moments: dict[str, Tensor], scale: float) -> np.ndarray:  # type: ignore[type-arg]
    """Maddox et al. 2019, equation 1: with a scale of 1/2."""
    mean, square, D = (moments[n].double().numpy() for n in ("mean", "square", "deviations"))
    return scale * (np.diag(square - mean**2) + D.T @ D / (len(D) - 1))


def test_moments_are_those_of_numpy() -> None:
    weights = iterates()
    found, all_of_them = moments_of(weights), weights.numpy()
    running = np.cumsum(all_of_them, axis=0) / np.arange(1, 8)[:, None]
    np.testing.assert_allclose(found["mean"], all_of_them.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["square"], (all_of_them**2).mean(0), rtol=1e-12)
    expected = (all_of_them - running)[-4:]
    np.testing.assert_allclose(found["deviations"], expected, rtol=1e-5)  # in float32


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_samples_have_the_mean_and_the_covariance_of_the_formula(scale: float) -> None:
    moments, rng, num = moments_of(iterates()), generator(0), 20_000
    gaussian = gaussian_of(moments, "test")
    drawn = torch.stack([gaussian.sample(scale, rng) for _ in range(num)]).numpy()
    expected = covariance(moments, scale)
    far = np.abs(drawn.mean(0) - moments["mean"].numpy())
    assert np.all(far < 5 * np.sqrt(np.diag(expected) / num))
    # The variance of an entry of a sample covariance is (s_ii s_jj + s_ij^2) / n.
    own = np.diag(expected)
    spread = np.sqrt((np.outer(own, own) + expected**2) / num)
    assert np.all(np.abs(np.cov(drawn.T) - expected) < 5 * spread)


def test_a_covariance_needs_two_deviations() -> None:
    with pytest.raises(MetricError, match="found 1 deviation; collect more often"):
        gaussian_of(moments_of(iterates(1)), "test")
    with pytest.raises(MetricError, match="allowed: the moments of SWAG"):
        gaussian_of({"bends": torch.zeros(1)}, "test")


def test_sampled_networks_have_the_sampled_weights_and_refreshed_statistics() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )
    model, data = seeded(lambda: net), dataset(*images(30))
    centre = parameters_vector(model)
    around = centre + 0.1 * iterates(7, len(centre))
    gaussian = gaussian_of(moments_of(around), "test")
    found = list(sampled_networks(gaussian, 3, 0.5, model, data, Refresh(), generator(5)))
    rng = generator(5)
    torch.randperm(30, generator=rng)  # the order of the examples that refresh BatchNorm
    for network in found:
        expected = gaussian.sample(0.5, rng)
        assert torch.equal(parameters_vector(network), expected)
        convolved = network[0](data.train_inputs)
        torch.testing.assert_close(
            batch_norm_modules(network)[0].running_mean, convolved.mean(dim=(0, 2, 3))
        )


def test_moments_of_bends_are_those_of_the_bends_after_each_epoch() -> None:
    settings, bends = ConnectivityArgs(swag_from_epoch=3, swag_rank=3), iterates(6, 8)
    taken = BendMoments(settings)
    for epoch, bend in enumerate(bends, start=1):
        taken.take(epoch, bend.view(2, 4))
    left = taken.left(bends[-1].view(2, 4))["curve_moments"]
    for name, expected in moments_of(bends[2:], rank=3).items():
        assert torch.equal(left[name], expected)
    assert int(left["count"]) == 4
    assert BendMoments(ConnectivityArgs()).left(bends) == {}


def test_collecting_changes_no_number_of_a_curve() -> None:
    models, data = [seeded(mlp, seed) for seed in range(2)], vectors()
    plain = connect(models, data, generator(0), **CURVE)
    found = connect(models, data, generator(0), **CURVE, swag_from_epoch=2)
    assert plain.rows == found.rows
    assert set(found.artifacts) == {"curve", "curve_moments"}
    assert torch.equal(found.artifacts["curve_moments"]["bends"], found.artifacts["curve"]["bends"])


def test_curves_that_train_together_collect_the_moments_of_each() -> None:
    models, data = [seeded(mlp, seed).float() for seed in range(4)], vectors()
    data = dataset(data.train_inputs.float(), data.train_labels)
    args: dict[str, Any] = {**CURVE, "swag_from_epoch": 2}
    pairs = [(0, 1), (2, 3)]
    together = compute_many(models, pairs, data, [generator(i) for i in range(2)], **args)
    assert together is not None
    for i, (pair, found) in enumerate(zip(pairs, together, strict=True)):
        alone = connect([models[k] for k in pair], data, generator(i), **args)
        for name, expected in alone.artifacts["curve_moments"].items():
            # Stacked kernels round otherwise, and deviations are small differences.
            torch.testing.assert_close(
                found.artifacts["curve_moments"][name], expected, rtol=1e-3, atol=1e-5
            )


def measured(**args: Any) -> tuple[Any, dict[str, Tensor]]:
    models, data = [seeded(mlp, seed) for seed in range(2)], vectors()
    curve = {**CURVE, "curve": "bezier", "swag_from_epoch": 2, "weight_decay": 5e-4}
    found = connect(models, data, generator(0), **curve)
    left = found.artifacts["curve_moments"]
    source = Source(left, "curve_moments", "connectivity", curve)
    return swag_curves(models, data, generator(1), [source], samples=3, **args), dict(left)


def test_sampled_curves_go_through_the_sampled_bends() -> None:
    row, _ = measured(points=5, resolution=4)
    assert len(row["sample_mean_train_loss"]) == len(row["samples_u"]) == 3
    assert row["num_collected"] == 5
    assert row["step_distance"] == pytest.approx(row["sample_distance"])
    worst = max(row["sample_mean_train_loss"]) / row["trained_mean_train_loss"]
    assert row["highest_sample"] == pytest.approx(worst, rel=1e-12)
    # A Bezier curve of one bend is at 1/4 e_0 + 1/2 bend + 1/4 e_1 in its middle.
    middle = [u[20] for u in row["samples_path_u"]]
    ends = 0.25 * (row["points_u"][0] + row["points_u"][-1])
    expected = [ends + 0.5 * u for u in row["samples_u"]]
    assert middle == pytest.approx(expected, rel=1e-9)


def test_bends_without_spread_give_the_mean_curve() -> None:
    row, _ = measured(points=5, resolution=None, scale=1e-30)
    assert row["sample_mean_train_loss"] == pytest.approx([row["mean_bend_mean_train_loss"]] * 3)
    assert row["lowest_random"] > row["highest_sample"]
    assert "axis" not in row


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("connectivity: {epochs: 5, swag_from_epoch: 5}", "allowed: at most 4, since a covariance"),
        ("connectivity: {bends: 0, swag_from_epoch: 5}", "found 5, but bends: 0"),
        (
            "connectivity: {id: bend, epochs: 5}\n  - swag_curves: {of: bend}",
            "found a curve without moments; give it swag_from_epoch",
        ),
        ("swag_curves", "reads the curve_moments that another metric leaves"),
    ],
)
def test_moments_that_no_curve_has_are_a_mistake(
    tmp_path: Path, metrics: str, message: str
) -> None:
    path = tmp_path / "swag.yaml"
    path.write_text(
        "schema: 1\nname: swag\ndataset: {name: digits}\nmodel: {name: mlp}\n"
        f"train: {{epochs: 1}}\nseeds: 2\nmetrics:\n  - {metrics}\n",
        encoding="utf-8",
    )
    with pytest.raises(SweepError, match=message):
        load_sweep(path)
