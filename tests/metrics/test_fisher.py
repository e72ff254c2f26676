"""Laws of the Fisher trace, of effective dimension and of relative flatness: against dense matrices,
and invariances.
"""

import copy
import math
from typing import Any

import pytest
import torch
from oracles import dense_ggn, dense_hessian
from point_support import cnn, dataset, images, mlp, seeded
from quadratic_support import quadratic
from test_sharpness import measure, rescaled, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.errors import MetricError
from phasegrid.metrics.effective_dimension.compute import shares


def normalised() -> nn.Module:
    """With LayerNorm, whose weights no formula of a layer covers."""
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3))


NETWORKS: dict[str, Any] = {
    "mlp": (mlp, lambda: vectors(12), "layers"),
    "smooth": (lambda: mlp(nn.Tanh), lambda: vectors(12), "layers"),
    "cnn": (cnn, lambda: dataset(*images(7)), "layers"),
    "layer norm": (normalised, lambda: vectors(12), "examples"),
}


def squares(module: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """|grad|^2 of the loss of each example alone."""
    found = []
    for n in range(len(x)):
        loss = cross_entropy(module(x[n : n + 1]), y[n : n + 1])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        found.append(sum(float(g.square().sum()) for g in gradients))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fisher_trace_is_that_of_the_dense_gauss_newton_matrix(name: str) -> None:
    make, draw, by = NETWORKS[name]
    module, data = seeded(make), draw()
    row = measure("fisher", module, data)
    assert row["gradients_by"] == by
    expected = float(dense_ggn(module, data.train_inputs).trace())
    assert row["fisher_trace"] == pytest.approx(expected, rel=1e-9)
    own = torch.tensor(squares(module, data.train_inputs, data.train_labels))
    assert row["empirical_fisher_trace"] == pytest.approx(float(own.mean()), rel=1e-6)
    stderr = float(own.std()) / math.sqrt(len(own))
    assert row["empirical_fisher_trace_stderr"] == pytest.approx(stderr, rel=1e-6)


def test_frozen_weights_are_no_part_of_the_fisher_trace() -> None:
    module, data = seeded(mlp), vectors(12)
    module[0].requires_grad_(False)  # type: ignore[index]
    part = measure("fisher", module, data)["fisher_trace"]
    last = float(dense_ggn(module, data.train_inputs).trace())
    assert part == pytest.approx(last, rel=1e-9)


def test_the_fisher_trace_of_a_linear_map_with_squares_is_that_of_the_hessian() -> None:
    q = quadratic()
    row = measure("fisher", q.module, q.data)
    assert row["fisher_trace"] == pytest.approx(float(q.H.trace()), rel=1e-12)
    assert row["loss"] == pytest.approx(q.loss, rel=1e-12)


@pytest.mark.parametrize("z", [0.01, 1.0])
def test_the_effective_dimension_of_a_quadratic_is_known(z: float) -> None:
    q = quadratic()
    row = measure("effective_dimension", q.module, q.data, z=z)
    values = torch.linalg.eigvalsh(q.H)
    assert row["effective_dimension"] == pytest.approx(float((values / (values + z)).sum()))
    assert row["effective_dimension_stderr"] == 0
    summed = measure("effective_dimension", q.module, q.data, z=8 * z, scale="sum")
    assert summed["effective_dimension"] == pytest.approx(row["effective_dimension"], rel=1e-9)


def test_negative_eigenvalues_count_negatively() -> None:
    module, data = seeded(mlp), vectors()
    values = torch.linalg.eigvalsh(dense_hessian(module, data.train_inputs, data.train_labels))
    assert float(values[0]) < -0.01
    expected = sum(float(x) / (abs(float(x)) + 0.1) for x in values)
    row = measure("effective_dimension", module, data, z=0.1)
    assert row["effective_dimension"] == pytest.approx(expected, rel=1e-6)


def test_the_effective_dimension_is_estimated_within_its_error() -> None:
    q = quadratic(num=60, features=20, classes=10)
    module, data = q.module, q.data
    expected = float(shares(torch.linalg.eigvalsh(q.H), 0.05).sum())
    args: dict[str, Any] = {"z": 0.05, "exact_parameters": 0, "steps": 20, "probes": 8}
    row = measure("effective_dimension", module, data, **args)
    assert 0 < row["effective_dimension_stderr"] < 0.05 * expected
    assert abs(row["effective_dimension"] - expected) < 4 * row["effective_dimension_stderr"]
    whole = measure("effective_dimension", module, data, z=0.05, exact_parameters=1000)
    assert whole["effective_dimension"] == pytest.approx(expected, rel=1e-6)
    assert whole["found_part"] == whole["effective_dimension"]


def by_definition(module: nn.Module, name: str, x: Tensor, y: Tensor) -> float:
    """sum_{s,s'} <w_s, w_s'> Tr(H_ss') from the dense Hessian."""
    H, start = dense_hessian(module, x, y), 0
    for parameter_name, p in module.named_parameters():
        if parameter_name == f"{name}.weight":
            W = p.detach().flatten(1)
            S, M = W.shape
            blocks = H[start : start + S * M, start : start + S * M].reshape(S, M, S, M)
            traces = blocks.diagonal(dim1=1, dim2=3).sum(-1)
            return float(((W @ W.t()) * traces).sum())
        start += p.numel()
    raise AssertionError(name)


@pytest.mark.parametrize("layer", ["0", "2", "4"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_relative_flatness_of_a_linear_layer_is_exact(layer: str, activation: Any) -> None:
    module, data = seeded(lambda: mlp(activation)), vectors(12)
    expected = by_definition(module, layer, data.train_inputs, data.train_labels)
    row = measure("relative_flatness", module, data, layer=layer)
    assert (row["method"], row["layer"]) == ("exact", layer)
    assert row["relative_flatness"] == pytest.approx(expected, rel=1e-9)


def test_relative_flatness_of_a_convolution_is_estimated_within_its_error() -> None:
    module, data = seeded(cnn), dataset(*images(7))
    expected = by_definition(module, "0", data.train_inputs, data.train_labels)
    row = measure("relative_flatness", module, data, layer="0", probes=80)
    assert row["method"] == "estimate"
    assert abs(row["relative_flatness"] - expected) < 4 * row["relative_flatness_stderr"]
    assert row["relative_flatness_stderr"] < 0.5 * abs(expected)


def test_the_last_linear_layer_is_exact_and_its_estimate_agrees() -> None:
    module, data = seeded(mlp), vectors(12)
    exact, rough = (
        measure("relative_flatness", module, data, method=method, probes=200)
        for method in ("auto", "estimate")
    )
    assert exact["layer"] == "4"
    difference = exact["relative_flatness"] - rough["relative_flatness"]
    assert abs(difference) < 4 * rough["relative_flatness_stderr"]
    assert exact["loss"] == pytest.approx(rough["loss"], rel=1e-12)


def test_relative_flatness_stays_when_layers_are_rescaled() -> None:
    module, data = seeded(mlp), vectors(12)
    for layer in ("0", "2", "4"):
        found = [
            measure("relative_flatness", rescaled(module, factor), data, layer=layer)
            for factor in (1.0, 4.0)
        ]
        assert found[1]["relative_flatness"] == pytest.approx(found[0]["relative_flatness"])


def test_a_layer_without_a_matrix_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(MetricError, match=r"found layer: 1, but .* allowed: 0, 2, 4"):
        measure("relative_flatness", seeded(mlp), vectors(), layer="1")
    convolutional = nn.Sequential(nn.Conv2d(2, 3, 6), nn.Flatten()).double()
    with pytest.raises(MetricError, match=r"found layer: last, but .* allowed: 0"):
        measure("relative_flatness", convolutional, dataset(*images(7)))


@pytest.mark.parametrize("name", ["fisher", "effective_dimension", "relative_flatness"])
def test_they_leave_networks_with_batch_norm_alone_and_name_what_they_did(name: str) -> None:
    module, data = seeded(cnn), dataset(*images(9))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    few: dict[str, Any] = (
        {"steps": 5, "exact_parameters": 0} if name == "effective_dimension" else {}
    )
    row = measure(name, module, data, batch_norm="refreshed", **few)
    assert row["batch_norm"] == "refreshed"
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert measure(name, module, data, batch_norm="refreshed", **few) == row


@pytest.mark.parametrize("name", ["fisher", "effective_dimension", "relative_flatness"])
def test_a_loss_that_is_not_finite_is_refused(name: str) -> None:
    broken = copy.deepcopy(seeded(mlp))
    broken[0].weight.data.fill_(math.nan)  # type: ignore[index]
    with pytest.raises(MetricError, match="the loss is nan on 40 examples"):
        measure(name, broken, vectors())


@pytest.mark.parametrize("name", ["fisher", "relative_flatness"])
def test_outputs_of_another_shape_are_refused(name: str) -> None:
    module = nn.Sequential(seeded(mlp), nn.Unflatten(1, (3, 1)))
    with pytest.raises(MetricError, match=f"{name}: the network maps"):
        measure(name, module, vectors(), **({"layer": "0.4"} if name != "fisher" else {}))
