"""Laws of the training of complexes: one or several, stacked or point by point, train as one under
autograd.
"""

import math
from typing import Any

import pytest
import torch
from metric_oracles_curves import log_volumes_by_qr, loss_at, total_log_volume
from point_support import dataset
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import members_of
from phasegrid.metrics.simplex.sampling import place_points
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.metrics.simplex.wiring import Simplexes
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import read_architecture
from phasegrid.models.weights import parameters_vector

NUM = 42
SHARED = ((0, 2, 3), (1, 2, 3))
LISTED = ((0, 3), (0, 1, 3), (2, 3))
ALONE = ((0, 1, 2, 3),)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(*shape: int) -> Dataset:
    """Three Gaussian clusters, float64."""
    rng, labels = seeded(), torch.arange(NUM) % 3
    centers = 2 * torch.randn(3, *shape, generator=rng, dtype=torch.float64)
    return dataset(
        centers[labels] + torch.randn(NUM, *shape, generator=rng, dtype=torch.float64), labels
    )


def mlp(seed: int, norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = nn.BatchNorm1d(6) if norm else nn.Tanh()
        return nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 3)).double()


def cnn(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3)).double()


NETWORKS = {
    "mlp": (mlp, (4,)),
    "batch norm": (lambda s: mlp(s, True), (4,)),
    "cnn": (cnn, (2, 4, 4)),
}


def vertices_of(make: Any, count: int) -> Tensor:
    """`count` complexes with four vertices each."""
    rows = [parameters_vector(make(seed)) for seed in range(4 * count)]
    return torch.stack(rows).view(count, 4, -1)


def stack_of(module: nn.Module, size: int) -> FlatNetwork:
    blueprint = read_architecture(module)
    states = [module.state_dict()] * size
    return FlatNetwork(module, states, "fused", blueprint, keeps_statistics=False)


def settings(**args: Any) -> SimplexArgs:
    return SimplexArgs(**{"epochs": 3, "samples": 3, "lr": 0.02, "batch_size": 16, **args})


def train(
    live: FlatNetwork,
    vertices: Tensor,
    simplexes: Simplexes,
    examples: Dataset,
    volume_lambda: float,
    args: SimplexArgs,
    rngs: list[torch.Generator],
) -> list[float | None]:
    sets = Examples(examples.train_inputs, examples.train_labels)
    work = train_last_vertices(
        Live(live), vertices, simplexes, sets, [volume_lambda] * len(rngs), args, rngs
    )
    return finished(work)


def by_autograd(
    net: nn.Module,
    vertices: Tensor,
    simplexes: Simplexes,
    examples: Dataset,
    volume_lambda: float,
    args: SimplexArgs,
) -> tuple[Tensor, float]:
    """Eq. 1 of Benton et al. 2021 under autograd and torch's own optimiser, with the same draws."""
    theta, last = vertices[-1].clone().requires_grad_(), 0.0
    decay = {"momentum": args.momentum, "weight_decay": args.weight_decay}
    optimizer = torch.optim.SGD([theta], lr=args.lr, **decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    rng, steps = seeded(), math.ceil(NUM / args.batch_size)
    shape = steps, args.samples, max(map(len, simplexes))
    for _ in range(args.epochs):
        order = torch.randperm(NUM, generator=rng)
        choices = torch.rand(steps, args.samples, generator=rng, dtype=torch.float64)
        places = torch.empty(shape, dtype=torch.float64).exponential_(generator=rng)
        last = 0.0
        for step, chosen in enumerate(order.split(args.batch_size)):
            every = torch.cat([vertices[:-1], theta[None]])
            logs = log_volumes_by_qr(every, simplexes)
            log_volume = total_log_volume(logs, simplexes)
            (shares,) = torch.autograd.grad(log_volume, logs, retain_graph=True)
            if args.sampling == "simplex":
                shares = torch.full_like(shares, 1 / len(shares))
            points = []
            for u, draws in zip(choices[step], places[step], strict=True):
                simplex = simplexes[int((shares.cumsum(0) <= u).sum())]
                weights = draws[: len(simplex)]
                points.append((weights / weights.sum()) @ every[list(simplex)])
            x, y = examples.train_inputs[chosen], examples.train_labels[chosen]
            loss = torch.stack([loss_at(net, point, x, y) for point in points]).mean()
            last += len(chosen) * loss.item() / NUM
            optimizer.zero_grad()
            (loss - volume_lambda * log_volume).backward()
            optimizer.step()
        schedule.step()
    return theta.detach(), last


@pytest.mark.parametrize("stacked", [False, True], ids=["in turn", "stacked"])
@pytest.mark.parametrize("wiring", [SHARED, LISTED, ALONE], ids=["shared", "listed", "alone"])
@pytest.mark.parametrize(
    ("volume_lambda", "args"),
    [
        (0.05, {}),
        (0.05, {"sampling": "simplex", "weight_decay": 0.01, "samples": 2}),
        (0.0, {"sampling": "simplex", "samples": 1}),
    ],
    ids=str,
)
def test_training_follows_equation_one_under_autograd(
    stacked: bool, wiring: Simplexes, volume_lambda: float, args: dict[str, Any]
) -> None:
    given, examples, vertices = settings(**args), data(4), vertices_of(mlp, 1)
    expected, loss = by_autograd(mlp(0), vertices[0], wiring, examples, volume_lambda, given)
    live = stack_of(mlp(0), given.samples) if stacked else live_network(mlp(0))
    fixed = vertices[:, :-1].clone()
    found = train(live, vertices, wiring, examples, volume_lambda, given, [seeded()])
    torch.testing.assert_close(vertices[0, -1], expected, rtol=1e-8, atol=1e-10)
    assert found == [pytest.approx(loss, rel=1e-9)]
    assert torch.equal(vertices[:, :-1], fixed)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_complex_in_a_stack_trains_as_it_does_alone(name: str) -> None:
    make, shape = NETWORKS[name]
    given, examples, vertices = settings(), data(*shape), vertices_of(make, 3)
    alone, losses = [], []
    for place, own in enumerate(vertices.clone()):
        rng = seeded(place)
        losses += train(live_network(make(0)), own[None], SHARED, examples, 0.05, given, [rng])
        alone.append((own, rng.get_state()))
    rngs = [seeded(place) for place in range(3)]
    found = train(stack_of(make(0), 9), vertices, SHARED, examples, 0.05, given, rngs)
    assert found == [pytest.approx(loss, rel=1e-7) for loss in losses]
    for own, rng, (expected, state) in zip(vertices, rngs, alone, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-8)
        assert torch.equal(rng.get_state(), state)


def test_a_complex_that_diverges_leaves_the_others_as_they_are() -> None:
    given, examples, vertices = settings(), data(4), vertices_of(mlp, 2)
    expected = vertices[1:].clone()
    (loss,) = train(live_network(mlp(0)), expected, SHARED, examples, 0.05, given, [seeded(1)])
    vertices[0, -1] = math.inf
    found = train(
        stack_of(mlp(0), 6), vertices, SHARED, examples, 0.05, given, [seeded(), seeded(1)]
    )
    assert found == [None, pytest.approx(loss, rel=1e-9)]
    torch.testing.assert_close(vertices[1:], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("times", "lr", "updates"), [(1.0, math.inf, 3), (math.inf, 0.02, 0)])
def test_training_ends_when_every_complex_has_diverged(
    times: float, lr: float, updates: int
) -> None:
    """At the end of the epoch; none begins beside a vertex that has diverged."""
    work = train_last_vertices(
        Live(live_network(mlp(0))),
        times * vertices_of(mlp, 1),
        SHARED,
        Examples(data(4).train_inputs, data(4).train_labels),
        [0.05],
        settings(epochs=50, lr=lr),
        [seeded()],
    )
    assert sum(1 for _ in work) == updates


def test_a_simplex_without_a_share_is_never_chosen() -> None:
    choices = torch.rand(1, 4000, generator=seeded(), dtype=torch.float64)
    choices[0, :2] = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    places, shares = torch.ones(1, 4000, 3, dtype=torch.float64), torch.tensor([[0.0, 1.0, 0.0]])
    points = place_points(shares, members_of(LISTED), choices, places, 4)[0]
    expected = torch.tensor([1, 1, 0, 1], dtype=torch.float64) / 3
    torch.testing.assert_close(points, expected.expand_as(points))
