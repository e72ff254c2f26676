"""Laws of sharpness by perturbed weights: closed forms on a quadratic loss, and invariances."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from point_support import cnn, dataset, generator, images, mlp, seeded
from quadratic_support import Quadratic, of_linear, quadratic
from torch import Tensor, nn

from phasegrid import load_sweep
from phasegrid.declare import import_function
from phasegrid.errors import MetricError, SweepError
from phasegrid.metrics import METRICS
from phasegrid.metrics.network.losses import MovingLoss
from phasegrid.tasks.scoring import CLASSIFICATION

NAMES = ("sam_sharpness", "average_sharpness", "epsilon_sharpness")


def measure(name: str, module: nn.Module, data: Any, seed: int = 0, **args: Any) -> dict[str, Any]:
    metric = METRICS[name]
    settings = dataclasses.asdict(metric.args(**args))
    row: dict[str, Any] = import_function(metric.compute)(
        [module], data, generator(seed), **settings
    )
    assert set(row) == {column.name for column in metric.columns}
    return row


def of(q: Quadratic, name: str, seed: int = 0, **args: Any) -> dict[str, Any]:
    row = measure(name, q.module, q.data, seed, **args)
    assert row["loss"] == pytest.approx(q.loss, rel=1e-12)
    return row


def test_a_step_of_sam_on_a_quadratic_is_known() -> None:
    q, rho = quadratic(), 0.3
    T = q.w.abs() + 0.1
    u = q.g / q.g.norm()
    steps = {
        (): rho * u,
        (("norm", "linf"),): rho * q.g.sign(),
        (("adaptive", True), ("eta", 0.1)): rho * T**2 * q.g / (T * q.g).norm(),
        (("adaptive", True), ("eta", 0.1), ("norm", "linf")): rho * T * q.g.sign(),
    }
    for args, e in steps.items():
        found = of(q, "sam_sharpness", rho=rho, **dict(args))["sam_sharpness"]
        assert found == pytest.approx(q.rise(e), rel=1e-12)
    assert q.rise(rho * u) == pytest.approx(float(rho * q.g.norm() + rho**2 / 2 * u @ q.H @ u))


def test_ascent_finds_the_highest_point_of_the_ball() -> None:
    """The maximum of a convex quadratic over |e| <= rho: (lambda - H) e = g with |e| = rho."""
    q, rho = quadratic(), 0.5
    values, V = torch.linalg.eigh(q.H)
    low, high = float(values[-1]), float(values[-1] + 10 * q.g.norm() / rho)
    for _ in range(200):
        middle = (low + high) / 2
        e = V @ ((V.t() @ q.g) / (middle - values))
        low, high = (middle, high) if float(e.norm()) > rho else (low, middle)
    many = of(q, "sam_sharpness", rho=rho, steps=100)["sam_sharpness"]
    assert many == pytest.approx(q.rise(e), rel=1e-6)
    assert of(q, "sam_sharpness", rho=rho)["sam_sharpness"] < many


def test_sharpness_of_batches_is_the_mean_of_that_of_each() -> None:
    q = quadratic(num=8)
    row = of(q, "sam_sharpness", m=3, example_seed=5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(_stream(5)))
    rises = []
    for some in order.split(3):
        x, y = q.data.train_inputs[some], q.data.train_labels[some]
        part = of_linear(q.module, x, y, 3)  # type: ignore[arg-type]
        rises.append(part.rise(0.05 * part.g / part.g.norm()))
    mean = (3 * rises[0] + 3 * rises[1] + 2 * rises[2]) / 8
    assert row["sam_sharpness"] == pytest.approx(mean, rel=1e-12)
    spread = torch.tensor(rises, dtype=torch.float64).std() / math.sqrt(3)
    assert row["sam_sharpness_stderr"] == pytest.approx(float(spread))
    assert row["num_batches"] == 3


def _stream(seed: int) -> int:
    from phasegrid.keys import stream_seed

    return stream_seed(seed, "examples")


@pytest.mark.parametrize("adaptive", [False, True])
def test_average_sharpness_of_a_quadratic_is_half_a_trace(adaptive: bool) -> None:
    """The mean is rho^2 tr(T H T) / 2, the variance of a pair rho^4 |T H T|_F^2 / 2."""
    q, rho, pairs = quadratic(), 0.2, 200
    row = of(q, "average_sharpness", rho=rho, pairs=pairs, adaptive=adaptive)
    T = torch.diag(q.w.abs()) if adaptive else torch.eye(len(q.w), dtype=torch.float64)
    A = T @ q.H @ T
    stderr = rho**2 * float(A.norm()) / math.sqrt(2 * pairs)
    assert row["average_sharpness_stderr"] == pytest.approx(stderr, rel=0.2)  # 1/sqrt(2 pairs) = 4%
    assert abs(row["average_sharpness"] - rho**2 * float(A.trace()) / 2) < 4 * stderr


def test_epsilon_sharpness_of_a_separable_quadratic_is_at_a_corner() -> None:
    q, epsilon = quadratic(axes=True), 0.01
    assert float((q.H - torch.diag(q.H.diagonal())).abs().max()) == 0
    e = epsilon * (q.w.abs() + 1) * torch.where(q.g == 0, 1.0, q.g.sign())
    row = of(q, "epsilon_sharpness", epsilon=epsilon, iterations=50, starts=3)
    assert row["epsilon_sharpness"] == pytest.approx(100 * q.rise(e) / (1 + q.loss), rel=1e-9)


def test_epsilon_sharpness_on_a_random_line_is_at_one_of_its_ends() -> None:
    q, epsilon = quadratic(), 0.01
    a = torch.randn(len(q.w), generator=generator(3), dtype=torch.float64)
    reach = epsilon * (abs(float(a @ q.w / (a @ a))) + 1)
    highest = max(q.rise(reach * a), q.rise(-reach * a))
    row = of(q, "epsilon_sharpness", seed=3, epsilon=epsilon, dimension=1)
    assert row["epsilon_sharpness"] == pytest.approx(100 * highest / (1 + q.loss), rel=1e-9)


def test_at_a_minimum_starts_in_the_box_find_a_corner_near_the_best() -> None:
    """At the weights the gradient is zero; the maximum of a convex function is at a corner."""
    q = quadratic(num=3, features=4)
    x, y = q.data.train_inputs, q.data.train_labels
    W = torch.linalg.lstsq(x, nn.functional.one_hot(y, 3).double()).solution.t()
    q.module.weight.data.copy_(W)  # type: ignore[union-attr]
    flat = of_linear(q.module, x, y, 3)  # type: ignore[arg-type]
    signs = torch.tensor([[1 if i >> k & 1 else -1 for k in range(12)] for i in range(2**12)])
    corners = 1e-3 * (flat.w.abs() + 1) * signs
    most = 100 * float(((corners @ flat.H) * corners).sum(1).max()) / 2 / (1 + flat.loss)
    found = of(flat, "epsilon_sharpness", starts=10)["epsilon_sharpness"]
    assert 0.8 * most < found <= most * (1 + 1e-9)


def rescaled(module: nn.Module, factor: float) -> nn.Module:
    """Multiply the first layer and divide the second: a ReLU network computes the same."""
    other = copy.deepcopy(module)
    first, second = other[0], other[2]  # type: ignore[index]
    first.weight.data *= factor
    first.bias.data *= factor
    second.weight.data /= factor
    return other


def test_adaptive_sharpness_stays_when_layers_are_rescaled_and_the_plain_one_does_not() -> None:
    module, data = seeded(mlp), vectors()
    for name in ("sam_sharpness", "average_sharpness"):
        for adaptive, same in ((True, True), (False, False)):
            found = [
                measure(name, rescaled(module, factor), data, adaptive=adaptive)[name]
                for factor in (1.0, 4.0)
            ]
            assert (found[1] == pytest.approx(found[0], rel=1e-9)) == same


def vectors(num: int = 40) -> Any:
    inputs = torch.randn(num, 4, generator=generator(3), dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (num,), generator=generator(4)))


def test_normalised_logits_do_not_see_the_scale_of_the_last_layer() -> None:
    module, data = seeded(mlp), vectors()
    larger = copy.deepcopy(module)
    larger[-1].weight.data *= 3  # type: ignore[index]
    larger[-1].bias.data *= 3  # type: ignore[index]
    for name in ("sam_sharpness", "average_sharpness"):
        rows = [
            measure(name, net, data, normalize_logits=True, adaptive=True)
            for net in (module, larger)
        ]
        assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-12)
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-9)


def plain_gradient(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = nn.functional.cross_entropy(module(inputs), labels)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])


def test_batches_and_folded_batch_norm_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegrid.metrics.network.losses.GRADIENT_BATCH", 4)
    module, (inputs, labels) = seeded(cnn), images(9)
    loss = MovingLoss(module, inputs, labels, CLASSIFICATION, "x")
    value, gradient = loss.gradient(loss.weights, loss.all)
    torch.testing.assert_close(
        gradient, plain_gradient(module, inputs, labels), rtol=1e-10, atol=1e-13
    )
    assert value == pytest.approx(loss.at_weights, rel=1e-13)
    assert [part.stop for part in loss.batches(4)] == [4, 8, 9]


@pytest.mark.parametrize("policy", ["as_saved", "refreshed", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_every_policy_of_batch_norm_is_named_and_leaves_the_network_alone(
    name: str, policy: str
) -> None:
    module, (inputs, labels) = seeded(cnn), images(9)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    row = measure(name, module, dataset(inputs, labels), batch_norm=policy)
    assert row["batch_norm"] == policy
    assert row[name] != 0
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert measure(name, module, dataset(inputs, labels), batch_norm=policy) == row


def test_the_loss_of_batch_statistics_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (inputs, labels) = seeded(cnn), images(9)
    whole = measure("sam_sharpness", module, dataset(inputs, labels), batch_norm="train")
    monkeypatch.setattr("phasegrid.metrics.network.losses.GRADIENT_BATCH", 2)
    assert measure("sam_sharpness", module, dataset(inputs, labels), batch_norm="train") == whole


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_measured_is_refused_by_name(name: str) -> None:
    compute, module, data = import_function(METRICS[name].compute), seeded(mlp), vectors()
    with pytest.raises(MetricError, match=f"{name} is measured on one model, got 2"):
        compute([module] * 2, data, generator(0))
    with pytest.raises(MetricError, match=f"{name}: Sequential has no trainable parameter"):
        compute([copy.deepcopy(module).requires_grad_(False)], data, generator(0))
    broken = copy.deepcopy(module)
    broken[0].weight.data.fill_(math.nan)  # type: ignore[index]
    with pytest.raises(MetricError, match=f"{name}: the loss is nan on 40 examples"):
        compute([broken], data, generator(0))
    with pytest.raises(MetricError, match=f"{name}: the network maps"):
        compute([nn.Sequential(module, nn.Unflatten(1, (3, 1)))], data, generator(0))


def test_a_subspace_has_at_most_as_many_dimensions_as_there_are_parameters() -> None:
    with pytest.raises(MetricError, match="found dimension: 1000, but the network has 73"):
        measure("epsilon_sharpness", seeded(mlp), vectors(), dimension=1000)


SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "sharpness",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {"epochs": 1},
    "load": {"param": "model.width", "values": [4, 8]},
    "seeds": 1,
    "temperature": {"param": "train.batch_size", "values": [16, 32]},
}


@pytest.mark.parametrize("name", ["sam_sharpness", "average_sharpness"])
def test_an_eta_without_effect_is_a_mistake_of_the_sweep(name: str) -> None:
    with pytest.raises(SweepError, match=r"eta.*found 0\.1 with adaptive: false; allowed: 0"):
        load_sweep({**SWEEP, "metrics": [{name: {"eta": 0.1}}]})
    assert load_sweep({**SWEEP, "metrics": [{name: {"eta": 0.1, "adaptive": True}}]})
