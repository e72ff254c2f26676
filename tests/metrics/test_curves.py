import math

import pytest
import torch
from metric_oracles_curves import CurveTwin, curve_coefficients, loss_at
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity import ConnectivityArgs, curves
from phasegrid.metrics.connectivity.curves import (
    curve_length,
    edge_gram,
    place_points,
    stack_vertices,
    vertex_weights,
)
from phasegrid.metrics.connectivity.training import learning_rates, train_bends
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.turns import finished
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.weights import parameters_vector

CURVES = ["bezier", "polychain"]
T = torch.linspace(0, 1, 23, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(net: nn.Module, seed: int = 0) -> nn.Module:
    net = net.double()
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(0.5 * normal(*parameter.shape, seed=100 * seed + number))
    return net.eval()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


def images(num: int) -> tuple[Tensor, Tensor]:
    return normal(num, 1, 4, 4, seed=5), torch.arange(num) % 4


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("num_bends", [1, 2, 5])
def test_vertex_weights_are_a_partition_of_unity(curve: str, num_bends: int) -> None:
    weights = vertex_weights(curve, num_bends, T)
    assert weights.shape == (len(T), num_bends + 2)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(dim=1), torch.ones_like(T))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("num_bends", [1, 2, 5])
def test_vertex_weights_agree_with_the_slow_transcription(curve: str, num_bends: int) -> None:
    expected = torch.tensor([curve_coefficients(curve, num_bends, t) for t in T.tolist()])
    torch.testing.assert_close(vertex_weights(curve, num_bends, T).float(), expected)


@pytest.mark.parametrize("curve", CURVES)
def test_curve_run_backwards_is_the_curve_with_its_vertices_reversed(curve: str) -> None:
    torch.testing.assert_close(vertex_weights(curve, 3, 1 - T), vertex_weights(curve, 3, T).flip(1))


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("t", [-0.1, 1.5, math.nan])
def test_there_is_no_curve_outside_its_ends(curve: str, t: float) -> None:
    with pytest.raises(MetricError, match=f"found t = {t:g}; allowed: 0 to 1"):
        vertex_weights(curve, 1, torch.tensor([0.0, t]))


@pytest.mark.parametrize("num_bends", [1, 2, 4])
def test_polychain_passes_through_its_vertices(num_bends: int) -> None:
    vertices = normal(num_bends + 2, 7)
    t = torch.linspace(0, 1, num_bends + 2, dtype=torch.float64)
    torch.testing.assert_close(vertex_weights("polychain", num_bends, t) @ vertices, vertices)


@pytest.mark.parametrize("curve", CURVES)
def test_bends_evenly_on_the_segment_give_the_segment(curve: str) -> None:
    ends = normal(2, 7)
    vertices = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 5, dtype=torch.float64)[:, None])
    on_curve = vertex_weights(curve, 3, T) @ vertices
    torch.testing.assert_close(on_curve, torch.lerp(ends[0], ends[1], T[:, None]))
    assert curve_length(curve, edge_gram(vertices)) == pytest.approx(
        float((ends[1] - ends[0]).norm())
    )


@pytest.mark.parametrize("curve", CURVES)
def test_ends_of_the_curve_are_exact_even_if_a_bend_is_not_a_number(curve: str) -> None:
    vertices = normal(4, 1000).float()
    vertices[1:3] = math.nan
    points = place_points(curve, torch.tensor([0.0, 1.0]), vertices)
    for index, end in ((0, vertices[0]), (1, vertices[-1])):
        assert torch.equal(points.at(index, vertices), end)


@pytest.mark.parametrize("curve", CURVES)
def test_mixed_points_are_the_weighted_sum_of_the_vertices(curve: str) -> None:
    vertices = normal(5, 11)
    points = place_points(curve, T, vertices)
    for index, expected in enumerate(vertex_weights(curve, 3, T) @ vertices):
        torch.testing.assert_close(points.at(index, vertices), expected)


def test_length_of_a_polychain_is_the_sum_of_its_pieces() -> None:
    vertices = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert curve_length("polychain", edge_gram(vertices)) == pytest.approx(7.0, rel=1e-12)


def test_length_of_a_parabola_is_its_closed_form() -> None:
    vertices = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    # x = 2t, y = 4 t (1 - t): arc length = integral of sqrt(4 + 16 (1 - 2t)^2) = sqrt(5) + asinh(2)
    # / 2.
    exact = math.sqrt(5) + math.asinh(2) / 2
    length = curve_length("bezier", edge_gram(vertices))
    assert length < exact
    assert length == pytest.approx(exact, rel=1e-4)  # 100 chords: error of order 1/100^2


def test_edge_gram_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices = normal(4, 50)
    edges = vertices[1:] - vertices[0]
    monkeypatch.setattr(curves, "_CHUNK", 7)
    torch.testing.assert_close(edge_gram(vertices), edges @ edges.t())


def test_models_of_two_architectures_cannot_be_joined() -> None:
    with pytest.raises(MetricError, match="the parameters of model 1 differ from those of model 0"):
        stack_vertices([nn.Linear(2, 2), nn.Linear(2, 3)])


@pytest.mark.parametrize(
    ("epoch", "factor"), [(1, 1.0), (25, 1.0), (35, 0.505), (45, 0.01), (50, 0.01)]
)
def test_lr_is_constant_for_one_half_then_falls_to_one_percent(epoch: int, factor: float) -> None:
    rates = learning_rates(ConnectivityArgs(lr=1.0), 1)
    assert rates[epoch - 1] == pytest.approx([factor])


@pytest.mark.parametrize("curve", CURVES)
def test_first_step_follows_the_gradient_of_autograd(curve: str) -> None:
    net = randomized(convolutional())
    x, y = images(8)
    settings = ConnectivityArgs(
        curve=curve, bends=2, epochs=1, batch_size=8, lr=0.1, weight_decay=0.03
    )
    vertices = 0.5 * normal(4, len(parameters_vector(net)), seed=3)
    before = vertices.clone().requires_grad_()
    finished(
        train_bends(
            FlatNetwork.of(net),
            vertices,
            Examples(x, y),
            settings,
            torch.Generator().manual_seed(0),
        )
    )

    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(8, generator=rng)
    t = float(torch.rand(1, generator=rng, dtype=torch.float64))
    gamma = torch.tensor(curve_coefficients(curve, 2, t), dtype=torch.float64) @ before
    loss = loss_at(net.train(), gamma, x[order], y[order]) + 0.015 * gamma.square().sum()
    (gradient,) = torch.autograd.grad(loss, before)
    lr = 0.1 * 0.01  # the only epoch is the last
    torch.testing.assert_close(vertices[1:-1], (before - lr * gradient).detach()[1:-1])
    assert torch.equal(vertices[[0, -1]], before.detach()[[0, -1]])


@pytest.mark.parametrize(("curve", "num_bends"), [("bezier", 1), ("bezier", 3), ("polychain", 2)])
def test_training_in_place_follows_the_twin_architecture(curve: str, num_bends: int) -> None:
    settings = ConnectivityArgs(
        curve=curve, bends=num_bends, epochs=4, batch_size=6, lr=0.05, weight_decay=0.01
    )
    net = randomized(convolutional())
    x, y = images(17)  # batches of 6, 6 and 5
    vertices = 0.5 * normal(num_bends + 2, len(parameters_vector(net)), seed=3)
    twin = CurveTwin(randomized(convolutional()), vertices.clone())
    flat = live_network(net)
    final = finished(
        train_bends(flat, vertices, Examples(x, y), settings, torch.Generator().manual_seed(0))
    )

    optimizer = torch.optim.SGD(twin.bends(), lr=1.0, momentum=0.9)
    rng = torch.Generator().manual_seed(0)
    twin.train()
    for factor in (1.0, 1.0, 1.0 - 0.99 * 0.25 / 0.4, 0.01):
        optimizer.param_groups[0]["lr"] = 0.05 * factor
        order = torch.randperm(17, generator=rng)
        times = torch.rand(3, generator=rng, dtype=torch.float64).tolist()
        total = 0.0
        for chosen, t in zip(order.split(6), times, strict=True):
            optimizer.zero_grad()
            outputs = twin(x[chosen], curve_coefficients(curve, num_bends, t))
            loss = cross_entropy(outputs, y[chosen]) + 0.01 * twin.l2()
            loss.backward()
            optimizer.step()
            total += len(chosen) * loss.item()
    for v in range(num_bends + 2):
        expected = nn.utils.parameters_to_vector(twin.vertex(v)).detach()
        torch.testing.assert_close(vertices[v], expected, rtol=1e-9, atol=1e-11)
    assert final == pytest.approx(total / 17, rel=1e-9)


def test_last_batch_of_one_example_joins_the_one_before_it() -> None:
    net = randomized(convolutional())
    x, y = images(9)
    vertices = 0.5 * normal(3, len(parameters_vector(net)), seed=3)
    settings = ConnectivityArgs(epochs=1, batch_size=4)
    rng = torch.Generator().manual_seed(0)
    finished(train_bends(FlatNetwork.of(net), vertices, Examples(x, y), settings, rng))
    drawn = torch.Generator().manual_seed(0)
    torch.randperm(9, generator=drawn)
    torch.rand(2, generator=drawn, dtype=torch.float64)
    assert torch.equal(rng.get_state(), drawn.get_state())


def test_diverged_bend_has_no_final_loss() -> None:
    net = randomized(convolutional())
    x, y = images(8)
    vertices = normal(3, len(parameters_vector(net)), seed=3)
    settings = ConnectivityArgs(epochs=30, lr=1e200, batch_size=4)
    rng = torch.Generator().manual_seed(0)
    assert (
        finished(train_bends(FlatNetwork.of(net), vertices, Examples(x, y), settings, rng)) is None
    )
