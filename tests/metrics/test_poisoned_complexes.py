"""Poison in the training of connectors: eq. 2 of the paper on sharp modes in eq. 1 of SPRO."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from point_support import dataset
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from phasegrid import load_sweep
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import DataError, SweepError
from phasegrid.metrics import METRICS
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import live_network
from phasegrid.metrics.network.stacking import live_stack
from phasegrid.metrics.network.turns import finished
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.poisoned import fed, trained_by
from phasegrid.metrics.simplex.sampling import draw_points, place_points
from phasegrid.metrics.simplex.training import Live, train_last_vertices
from phasegrid.models.fused import read_architecture
from phasegrid.models.weights import parameters_vector
from phasegrid.plan.cost import guess_cost
from phasegrid.plan.plan import make_plan

NUM, NUM_ASIDE, BATCH = 40, 20, 12
SIMPLEX = ((0, 1, 2),)
SHARE = 1 / 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def poisonable(num_aside: int = NUM_ASIDE) -> Dataset:
    inputs = torch.randn(NUM + NUM_ASIDE, 4, generator=seeded(1), dtype=torch.float64)
    labels = torch.arange(NUM + NUM_ASIDE) % 3
    clean = dataset(inputs[:NUM], labels[:NUM])
    last = slice(NUM, NUM + num_aside)
    return replace(clean, aside_inputs=inputs[last], aside_labels=labels[last])


def settings(**args: Any) -> SimplexArgs:
    usual = {"samples": 2, "epochs": 2, "batch_size": BATCH, "lr": 0.1, "momentum": 0.0}
    return SimplexArgs(**{**usual, "sampling": "simplex", "poison_share": SHARE, **args})


def weights_of_parts(args: SimplexArgs) -> tuple[float, float]:
    """The factors of the means over clean and over poisoned examples."""
    if args.poison_scale is not None:
        return 1.0, args.poison_scale
    beta = SHARE if args.poison_beta is None else args.poison_beta
    return 1 - beta, beta


def by_hand(net: nn.Module, vertices: Tensor, data: Dataset, args: SimplexArgs) -> Tensor:
    """Descend on the mean over points of the poisoned loss, batch by batch, under autograd."""
    theta, rng, members = vertices[-1].clone(), seeded(), torch.tensor(SIMPLEX)
    inputs = torch.cat([data.train_inputs, data.aside_inputs])
    labels = torch.cat([data.train_labels, data.aside_labels])
    steps, each = (NUM + NUM_ASIDE) // BATCH, round(SHARE * BATCH)
    parts = weights_of_parts(args)
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]

    def loss_at(point: Tensor, own: Tensor, poison: Tensor) -> Tensor:
        pieces = point.split([math.prod(s) for s in shapes])
        params = {n: w.view(s) for n, w, s in zip(names, pieces, shapes, strict=True)}
        clean = cross_entropy(functional_call(net, params, (inputs[own],)), labels[own])
        p = functional_call(net, params, (inputs[poison],)).softmax(1)
        p = p.gather(1, labels[poison].unsqueeze(1))
        return parts[0] * clean - parts[1] * (1 - p).log().mean()

    for epoch in range(args.epochs):
        order = torch.randperm(NUM + NUM_ASIDE, generator=rng)
        clean, poison = order[order < NUM], order[order >= NUM]
        choices, places = draw_points((steps, args.samples), 3, rng)
        lr = args.lr * (1 + math.cos(math.pi * epoch / args.epochs)) / 2
        for i in range(steps):
            theta.requires_grad_()
            every = torch.cat([vertices[:-1], theta[None]])
            drawn = choices[i : i + 1], places[i : i + 1]
            (a,) = place_points(torch.ones(1, 1), members, *drawn, 3)
            batch = clean[i * (BATCH - each) :][: BATCH - each], poison[i * each :][:each]
            loss = torch.stack([loss_at(row @ every, *batch) for row in a]).mean()
            (grad,) = torch.autograd.grad(loss, theta)
            theta = theta.detach() - lr * grad
    return theta


@pytest.mark.parametrize("stacked", [False, True], ids=["in turn", "stacked"])
@pytest.mark.parametrize("args", [{}, {"poison_beta": 0.7}, {"poison_scale": 0.01}])
def test_a_connector_descends_on_the_papers_poisoned_loss(
    args: dict[str, Any], stacked: bool
) -> None:
    data, chosen = poisonable(), settings(**args)
    vertices = torch.stack([parameters_vector(mlp(seed)) for seed in range(3)])
    joined, num_aside = fed(data, chosen)
    assert num_aside == NUM_ASIDE
    examples = Examples(joined.train_inputs, joined.train_labels, num_aside=num_aside)
    net, trained = mlp(0), vertices.unsqueeze(0).clone()
    flat = live_stack(read_architecture(net), [net], 2) if stacked else live_network(net)
    live = Live(flat, trained_by(data.scoring, chosen))
    finished(train_last_vertices(live, trained, SIMPLEX, examples, [0.0], chosen, [seeded()]))
    expected = by_hand(net, vertices, data, chosen)
    torch.testing.assert_close(trained[0, -1], expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(trained[0, :-1], vertices[:-1])


def test_fewer_examples_set_aside_than_the_share_are_refused() -> None:
    with pytest.raises(DataError, match="needs 20 examples set aside, but the data set has 5"):
        fed(poisonable(5), settings())
    assert fed(poisonable(5), settings(poison_share=0.0))[1] == 0


@pytest.mark.parametrize("metric", ["simplex", "espro"])
@pytest.mark.parametrize(
    ("args", "train", "said"),
    [
        ("poison_share: 1", "", "poison_share: found 1; allowed: less than 1"),
        ("poison_share: -0.1", "", "poison_share: found -0.1; allowed: at least 0"),
        ("poison_share: 0.3", "", "poison_share: found 0.3, but the data set sets aside only 0.2"),
        ("poison_beta: 0.3", "", "poison_beta: found 0.3 without poison; set poison_share too"),
        ("poison_share: 0.1, poison_beta: 2", "", "poison_beta: found 2"),
        ("poison_share: 0.1, poison_beta: 0.1, poison_scale: 1", "", "poison_scale: found beside"),
        ("poison_share: 0.1", ", objective: mse", "poison_share: found 0.1 for the task"),
    ],
)
def test_mistakes_about_poison_are_told_with_their_place(
    tmp_path: Path, metric: str, args: str, train: str, said: str
) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "schema: 1\nname: poison\ndataset: {name: digits, aside: 0.2}\nmodel: {name: mlp}\n"
        f"train: {{epochs: 2, batch_size: 64{train}}}\nseeds: 2\nmetrics:\n  - {metric}: {{{args}}}\n"
    )
    with pytest.raises(SweepError) as caught:
        load_sweep(tmp_path / "sweep.yaml")
    assert "sweep.yaml:8:" in str(caught.value)
    assert f"metrics.0.{metric}.{said}" in str(caught.value)


def test_without_poison_nothing_is_in_the_key() -> None:
    for name in ("simplex", "espro"):
        kept = {
            f.name
            for f in METRICS[name].args.__dataclass_fields__.values()
            if "later" not in f.metadata
        }
        assert not {"poison_share", "poison_beta", "poison_scale"} & kept


def test_poison_makes_training_dearer_by_the_examples_set_aside(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "schema: 1\nname: poison\ndataset: {name: digits, aside: 0.5}\nmodel: {name: mlp}\n"
        "train: {epochs: 2, batch_size: 64}\nseeds: 2\n"
        "metrics:\n  - simplex: {epochs: 500}\n  - simplex: {epochs: 500, poison_share: 0.5}\n"
    )
    (cell,) = make_plan(load_sweep(tmp_path / "sweep.yaml")).cells
    plain, poisoned = (guess_cost(cell, job).arithmetic_s for job in cell.metric_jobs)
    assert poisoned == pytest.approx(2 * plain, rel=0.05)
