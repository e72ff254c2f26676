"""Ensembles and planes against plain formulas, in float64."""

import math
from dataclasses import replace

import pytest
import torch
from point_support import dataset, generator, images, mlp, seeded
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.compute import compute as connect
from phasegrid.metrics.ensemble.compute import compute as ensemble
from phasegrid.metrics.measured import Source
from phasegrid.metrics.plane.compute import compute as plane
from phasegrid.models.evaluation import evaluate
from phasegrid.models.weights import parameters_vector
from phasegrid.tasks.losses import CROSS_ENTROPY, Criterion, mse


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


def pictures() -> Dataset:
    return dataset(*images(40, channels=1))


def vectors() -> Dataset:
    inputs = torch.randn(40, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (40,), generator=generator(4)))


def bent(models: list[nn.Module], data: Dataset, **args: object) -> tuple[Source, dict]:  # type: ignore[type-arg]
    args = {
        "curve": "bezier",
        "batch_size": 16,
        "epochs": 4,
        "lr": 0.1,
        "points": 3,
        "weight_decay": 5e-4,
        **args,
    }
    found = connect(models, data, generator(0), **args)
    return Source(found.artifacts["curve"], "curve", "connectivity", args), found.rows


def test_an_ensemble_is_the_mean_of_what_its_networks_predict() -> None:
    models, data = [seeded(mlp, seed) for seed in range(3)], vectors()
    row = ensemble(models, data, generator(0))
    with torch.no_grad():
        each = torch.stack([model(data.test_inputs).softmax(1) for model in models])
    mean, labels = each.mean(0), data.test_labels
    expected = -mean[torch.arange(len(labels)), labels].log().mean()
    assert row["test_loss"] == pytest.approx(float(expected), rel=1e-12)
    wrong = (mean.argmax(1) != labels).double().mean()
    assert row["test_error_percent"] == pytest.approx(100 * float(wrong))
    own = [evaluate(model, data.test_inputs, labels).loss for model in models]
    assert row["mean_test_loss"] == pytest.approx(sum(own) / 3, rel=1e-12)


def test_an_ensemble_without_probabilities_averages_outputs_and_is_scored_by_the_objective() -> (
    None
):
    models, data = [seeded(mlp, seed) for seed in range(3)], vectors()
    row = ensemble(models, replace(data, objective=Criterion(mse)), generator(0))
    with torch.no_grad():
        mean = torch.stack([model(data.test_inputs) for model in models]).mean(0)
    target = torch.nn.functional.one_hot(data.test_labels, 3).double()
    assert row["test_loss"] == pytest.approx(
        float((mean - target).square().sum(1).mean() / 2), rel=1e-12
    )
    wrong = (mean.argmax(1) != data.test_labels).double().mean()
    assert row["test_error_percent"] == pytest.approx(100 * float(wrong))
    assert row["test_loss"] <= row["mean_test_loss"]  # type: ignore[operator]  # it is convex
    assert row["test_ece"] is row["train_ece"] is None


@pytest.mark.parametrize("objective", [CROSS_ENTROPY, Criterion(mse)])
def test_an_ensemble_of_one_network_is_that_network_by_any_objective(
    objective: Criterion,
) -> None:
    model, data = seeded(convolutional), replace(pictures(), objective=objective)
    row = ensemble([model], data, generator(0))
    assert row["test_loss"] == pytest.approx(
        evaluate(model, data.test_inputs, data.test_labels, data.scoring).loss
    )
    assert row["mean_train_loss"] == pytest.approx(row["train_loss"])


def test_the_networks_of_a_curve_are_those_that_mode_connectivity_measured() -> None:
    """With BatchNorm, whose statistics are recomputed at every point from all training examples."""
    models, data = [seeded(convolutional, seed) for seed in (0, 1)], pictures()
    source, curve = bent(models, data, batch_size=40)  # one batch: its order is rounding
    row = ensemble(models, data, generator(5), [source], points=3)
    for name in ("train_loss", "test_loss", "train_error_percent"):
        assert row[f"mean_{name}"] == pytest.approx(sum(curve[name]) / 3, rel=1e-5)


def test_the_three_points_of_a_plane_are_its_vertices() -> None:
    """Without a margin the corners are the ends where the bend is above the line between them."""
    models, data = [seeded(mlp, seed) for seed in (0, 1)], vectors()
    source, _ = bent(models, data)
    row = plane(models, data, generator(0), [source], points=2, margin=0.0)
    for i, model in enumerate(models):
        loss = evaluate(model, data.test_inputs, data.test_labels).loss
        assert row["test_loss"][0][i] == pytest.approx(loss, rel=1e-9)  # type: ignore[index]


def test_points_of_a_plane_lie_where_the_axes_say() -> None:
    models, data = [seeded(mlp, seed) for seed in (0, 1)], vectors()
    source, _ = bent(models, data)
    row = plane(models, data, generator(0), [source], points=3, margin=0.2)
    first, last = (parameters_vector(model) for model in models)
    u = (last - first) / (last - first).norm()
    above = source.tensors["bends"][0] - first
    v = above - above.dot(u) * u
    v = v / v.norm()
    assert row["points_v"][1] == pytest.approx(float(above.dot(v)))  # type: ignore[index]
    assert row["points_u"][1] == pytest.approx(float(above.dot(u)))  # type: ignore[index]
    moved = seeded(mlp)
    for i, x in enumerate(row["axis"]):  # type: ignore[arg-type]
        for j, y in enumerate(row["axis_2"]):  # type: ignore[arg-type]
            vector_to_parameters(first + x * u + y * v, moved.parameters())
            loss = evaluate(moved, data.train_inputs, data.train_labels).loss
            assert row["train_loss"][j][i] == pytest.approx(loss, rel=1e-9)  # type: ignore[index]


def test_a_plane_needs_points_that_are_not_on_a_line() -> None:
    models, data = [seeded(mlp, seed) for seed in (0, 1)], vectors()
    source, _ = bent(models, data, lr=0.0)
    with pytest.raises(MetricError, match="lie on a line"):
        plane(models, data, generator(0), [source], points=2)


@pytest.mark.parametrize("metric", [ensemble, plane])
def test_what_is_no_curve_between_the_networks_is_refused(metric: object) -> None:
    models, data = [seeded(mlp, seed) for seed in (0, 1)], vectors()
    other: dict[str, Tensor] = {"bends": torch.zeros(1, 7)}
    source = Source(other, "curve", "mine", {"curve": "bezier", "batch_size": 16})
    with pytest.raises(
        MetricError, match="the artifact of mine does not hold the bends of a curve"
    ):
        metric(models, data, generator(0), [source])  # type: ignore[operator]
    with pytest.raises(MetricError, match="reads one curve between two models"):
        metric(models[:1], data, generator(0), [source])  # type: ignore[operator]


def test_a_bend_that_the_curve_does_not_have_is_refused() -> None:
    models, data = [seeded(mlp, seed) for seed in (0, 1)], vectors()
    source, _ = bent(models, data)
    with pytest.raises(MetricError, match="found bend 2, but the curve has 1"):
        plane(models, data, generator(0), [source], points=2, bend=2)


def test_outputs_that_are_not_finite_are_refused() -> None:
    model, data = seeded(mlp), vectors()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(MetricError, match="outputs of a network on the train set are not finite"):
        ensemble([model], data, generator(0))
