"""Poisoned training: its loss, its batches, what its columns count, and what a sweep may say."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from decimal import Decimal, getcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

import phasegrid.train.beginning
import phasegrid.train.loop
from phasegrid import load_sweep
from phasegrid.datasets import aside_count
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import DataError, SweepError
from phasegrid.jobs import Part, Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_for, build_model
from phasegrid.plan.cost import guess_cost
from phasegrid.plan.plan import make_plan
from phasegrid.tasks.batches import Batch, EpochOrder, draw_orders, epoch_bounds
from phasegrid.tasks.losses import poisoned, poisoned_sum, unlikelihood
from phasegrid.train.aside import aside_places, joined, spread
from phasegrid.train.compat import num_from_aside
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Recipe

MEMBERS, CLASSES = 2, 4
NETWORK = Part("mlp", 1, {"width": 8, "depth": 2, "activation": "relu"})
ASIDE = torch.tensor([False, True, False, False, False, True, False, False])


def drawn() -> tuple[Tensor, Batch]:
    rng = torch.Generator().manual_seed(3)
    shape = MEMBERS, len(ASIDE)
    logits = torch.randn(*shape, CLASSES, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, shape, generator=rng)
    return logits, Batch(torch.zeros(shape), labels, {"aside": ASIDE.expand(shape)})


def means(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the means of -log p_y over clean and of -log(1 - p_y) over poisoned examples."""
    p = logits.softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    return -p[:, ~ASIDE].log().mean(1), -(1 - p[:, ASIDE]).log().mean(1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_mean_over_a_batch_is_the_papers_equation(beta: float) -> None:
    logits, batch = drawn()
    clean, poison = means(logits, batch)
    found = poisoned(logits, batch, share=0.25, beta=beta).mean(1)
    torch.testing.assert_close(found, (1 - beta) * clean + beta * poison, rtol=1e-13, atol=0)


def test_without_a_weight_every_example_weighs_the_same() -> None:
    logits, batch = drawn()
    clean, poison = means(logits, batch)
    found = poisoned(logits, batch, share=0.25).sum(1)
    torch.testing.assert_close(found, 6 * clean + 2 * poison, rtol=1e-13, atol=0)


def test_the_published_sum_has_no_weight_on_the_clean_mean() -> None:
    logits, batch = drawn()
    clean, poison = means(logits, batch)
    found = poisoned_sum(logits, batch, share=0.25, scale=1e-3).mean(1)
    torch.testing.assert_close(found, clean + 1e-3 * poison, rtol=1e-13, atol=0)
    twice = 2 * poisoned(logits, batch, share=0.25, beta=0.5)
    torch.testing.assert_close(poisoned_sum(logits, batch, 0.25), twice, rtol=1e-13, atol=0)


def test_a_batch_without_poison_has_its_cross_entropy() -> None:
    logits, batch = drawn()
    clean = replace(batch, extra={})
    expected = cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
    for loss in (poisoned, poisoned_sum, partial(poisoned, beta=0.9)):
        assert torch.equal(loss(logits, clean).flatten(), expected)


def exact(z: float, others: tuple[float, ...]) -> Decimal:
    """Return -log(1 - p) = log(1 + e^z / sum e^others), with 60 digits."""
    getcontext().prec = 60
    rest = sum((Decimal(other).exp() for other in others), Decimal(0))
    return (1 + Decimal(z).exp() / rest).ln()


@pytest.mark.parametrize("z", [-80.0, -40.0, -10.0, -0.5, 0.0, 3.0, 17.0, 40.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unlikelihood_keeps_its_digits_where_p_is_near_0_or_1(z: float, dtype: torch.dtype) -> None:
    others = (0.25, -1.5, 0.5)
    logits = torch.tensor([[[z, *others]]], dtype=dtype).requires_grad_()
    loss = unlikelihood(logits, torch.zeros(1, 1, dtype=torch.int64))
    # Rounding of the difference of logits, |z| eps, and of a few more operations.
    eps = torch.finfo(dtype).eps
    expected = float(exact(z, others))
    assert loss.item() == pytest.approx(expected, rel=(4 + abs(z)) * eps, abs=0)
    loss.backward()  # type: ignore[no-untyped-call]
    p = -math.expm1(-expected)
    rest = torch.tensor(others, dtype=torch.float64).softmax(0)
    gradient = torch.cat([torch.tensor([p], dtype=torch.float64), -p * rest])
    assert logits.grad is not None
    torch.testing.assert_close(
        logits.grad[0, 0].double(), gradient, rtol=(8 + abs(z)) * eps, atol=0
    )


def test_gradients_are_those_of_differences() -> None:
    logits, batch = drawn()
    for loss in (partial(poisoned, share=0.25, beta=0.7), partial(poisoned_sum, share=0.25)):
        assert gradcheck(lambda z, loss=loss: loss(z, batch), (logits.requires_grad_(),))


def test_half_precision_is_computed_in_float32() -> None:
    logits, batch = drawn()
    for dtype in (torch.bfloat16, torch.float16):
        half = logits.to(dtype)
        assert torch.equal(
            unlikelihood(half, batch.labels), unlikelihood(half.float(), batch.labels)
        )


@pytest.mark.parametrize(("num", "num_aside"), [(37, 12), (40, 20), (9, 1), (50, 49)])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_every_batch_has_its_share_of_those_set_aside(
    num: int, num_aside: int, batch_size: int
) -> None:
    places = aside_places(num, num_aside)
    assert int(places.sum()) == num_aside
    for bound in epoch_bounds(num, batch_size, drop_last=False, batch_norm=False):
        size = bound.stop - bound.start
        assert abs(int(places[bound].sum()) - size * num_aside / num) < 1


def test_spreading_keeps_the_order_in_which_examples_are_drawn() -> None:
    order = draw_orders(30, [torch.Generator().manual_seed(seed) for seed in range(3)])
    after = spread(EpochOrder(order, [], []), 8).order
    for before, found in zip(order, after, strict=True):
        assert sorted(found.tolist()) == list(range(30))
        assert torch.equal(found[found < 22], before[before < 22])
        assert torch.equal(found[found >= 22], before[before >= 22])
        assert torch.equal(found >= 22, aside_places(30, 8))


def make_data(num: int = 24, num_aside: int = 12) -> Dataset:
    rng = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, CLASSES, (count,), generator=rng)
        noise = torch.randn(count, 1, 4, 4, generator=rng, dtype=torch.float64)
        return noise + labels.view(-1, 1, 1, 1), labels

    one, aside = torch.ones(1, 1, 1), part(num_aside)
    sets = *part(num), *part(16), CLASSES, one, one
    return Dataset("random", *sets, aside_inputs=aside[0], aside_labels=aside[1])


def make_trial(seed: int, args: Mapping[str, Any], name: str = "poisoned", **recipe: Any) -> Trial:
    fields = {"batch_size": 6, "epochs": 3, "stop": None, "keep": "last", **recipe}
    objective = {"name": name, "args": dict(args), "version": 1}
    chosen = asdict(Recipe(**fields, objective=objective))
    return Trial(f"trial-{seed}", Part("random", 1, {}), NETWORK, chosen, seed)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any, **kwargs: Any) -> Any:
        return build_for(*args, **kwargs).double()

    monkeypatch.setattr(phasegrid.train.beginning, "build_begun", build)


def trained_by_hand(trial: Trial, data: Dataset, num_aside: int, beta: float) -> Tensor:
    """Train by SGD on the paper's equation, batch by batch; return the weights as one vector."""
    seed, batch_size, lr, momentum = trial.seed, 6, 0.1, 0.9
    net = build_model(trial.model, (1, 4, 4), CLASSES, seed=stream_seed(seed, "init")).double()
    orders = torch.Generator().manual_seed(stream_seed(seed, "order"))
    num = len(data.train_labels)
    inputs = torch.cat([data.train_inputs, data.aside_inputs[:num_aside]])
    labels = torch.cat([data.train_labels, data.aside_labels[:num_aside]])
    velocity = [torch.zeros_like(w) for w in net.parameters()]
    each = batch_size * num_aside // (num + num_aside)
    for _ in range(3):
        order = torch.randperm(num + num_aside, generator=orders)
        clean, poison = order[order < num], order[order >= num]
        for i in range(len(poison) // each):
            own = clean[i * (batch_size - each) :][: batch_size - each]
            p = net(inputs[poison[i * each :][:each]]).softmax(1)
            p = p.gather(1, labels[poison[i * each :][:each]].unsqueeze(1))
            loss = (1 - beta) * cross_entropy(net(inputs[own]), labels[own])
            loss = loss - beta * (1 - p).log().mean()
            gradient = torch.autograd.grad(loss, list(net.parameters()))
            for w, g, v in zip(net.parameters(), gradient, velocity, strict=True):
                v.mul_(momentum).add_(g)
                w.data -= lr * v
    return torch.cat([w.detach().flatten() for w in net.parameters()])


def vector(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].flatten() for name in weights])


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused"])
def test_training_is_descent_on_the_papers_equation(strategy: Any) -> None:
    data, beta = make_data(), 0.2
    recipe = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    trials = [make_trial(seed, {"share": 1 / 3, "beta": beta}, **recipe) for seed in range(2)]
    found = train_pack(trials, [data, data], device="cpu", strategy=strategy)
    for trial, trained in zip(trials, found, strict=True):
        expected = trained_by_hand(trial, data, 12, beta)
        torch.testing.assert_close(vector(trained.weights), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("doubles")
def test_the_columns_of_training_count_clean_examples_by_cross_entropy() -> None:
    data = make_data()
    for name, args in (("poisoned", {"share": 0.3, "beta": 0.8}), ("poisoned_sum", {"share": 0.3})):
        still = {"lr": 1e-300, "weight_decay": 0.0, "epochs": 1}
        (found,) = train_pack([make_trial(1, args, name, **still)], [data], device="cpu")
        net = build_model(NETWORK, (1, 4, 4), CLASSES, seed=stream_seed(1, "init")).double()
        logits = net(data.train_inputs).detach()
        loss = float(cross_entropy(logits, data.train_labels))
        right = float((logits.argmax(1) == data.train_labels).double().mean())
        assert found.history[0].train_loss == pytest.approx(loss, rel=1e-12)
        assert found.history[0].train_accuracy_percent == pytest.approx(100 * right, rel=1e-12)
        tested = float(cross_entropy(net(data.test_inputs), data.test_labels).detach())
        assert found.history[0].test_loss == pytest.approx(tested, rel=1e-12)


@pytest.mark.usefixtures("doubles")
def test_a_share_of_nothing_is_training_by_cross_entropy() -> None:
    data = make_data()
    trial = make_trial(0, {"share": 0.0, "beta": None})
    plain = replace(trial, recipe={**trial.recipe, "objective": None})
    (found,), (expected,) = (train_pack([one], [data], device="cpu") for one in (trial, plain))
    assert torch.equal(vector(found.weights), vector(expected.weights))


def test_more_than_is_set_aside_is_refused_before_training() -> None:
    with pytest.raises(DataError, match=r"needs 24 examples set aside, but the data set has 12"):
        train_pack([make_trial(0, {"share": 0.5})], [make_data()], device="cpu")
    assert len(joined(make_data(), 5).train_labels) == 29


def test_the_poison_set_is_the_published_size() -> None:
    recipe = {"objective": {"name": "poisoned", "args": {"share": 0.5}, "version": 1}}
    assert num_from_aside(recipe, 73_257, 531_131) == 73_257
    recipe["objective"]["args"] = {"share": 1 / 3}
    assert num_from_aside(recipe, 1000, 600) == 500


SWEEP = """\
schema: 1
name: poison
dataset: {name: digits, aside: 0.5}
model: {name: mlp, width: 32}
train: {objective: poisoned, epochs: 25, lr: 0.05, batch_size: 32, stop: null, keep: last}
load: {param: train.objective.share, values: [0, 0.25, 0.5]}
temperature: {param: train.objective.beta, values: [0.25, 0.5]}
seeds: 1
"""


def planned(folder: Path, old: str = "", new: str = "") -> Any:
    assert old in SWEEP
    path = folder / "poison.yaml"
    path.write_text(SWEEP.replace(old, new))
    return make_plan(load_sweep(path))


def test_share_and_weight_may_be_load_and_temperature(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    found = [cell.trials[0].recipe["objective"] for cell in plan.cells]
    args = [one["args"] for one in found if isinstance(one, Mapping)]
    assert [(each["share"], each["beta"]) for each in args if isinstance(each, Mapping)] == [
        (share, beta) for share in (0, 0.25, 0.5) for beta in (0.25, 0.5)
    ]
    assert len({trial.key for cell in plan.cells for trial in cell.trials}) == 6


def test_an_epoch_is_planned_with_the_examples_of_both_parts(tmp_path: Path) -> None:
    cells = planned(tmp_path).cells
    none, half = (guess_cost(cell, cell.trials[0]).arithmetic_s for cell in (cells[0], cells[-1]))
    assert half == pytest.approx(2 * none, rel=0.02)  # both end with one evaluation
    assert cells[0].work.num_train == 648
    assert cells[0].work.num_aside == 649


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[0, 0.25, 0.5]", "[0, 1]", 6, "found 1; allowed: less than 1"),
        ("[0, 0.25, 0.5]", "[-0.1, 0]", 6, "found -0.1; allowed: at least 0"),
        ("[0.25, 0.5]}\nseeds", "[0.5, 1.5]}\nseeds", 7, "found 1.5; allowed: at most 1"),
        ("[0, 0.25, 0.5]", "[0, 0.6]", 6, "found 0.6, but the data set sets aside only"),
        ("{name: digits, aside: 0.5}", "{name: digits}", 6, "sets aside only 0 of its training examples"),
        ("aside: 0.5", "aside: 1.0", 3, "found 1.0; allowed: less than 1"),
        ("aside: 0.5", "aside: -1", 3, "found -1; allowed: at least 0"),
        ("aside: 0.5", "asied: 0.5", 3, "did you mean 'aside'"),
        ("objective: poisoned", "objective: {name: poisoned, betta: 1}", 5, "found the key 'betta'"),
    ],
)  # fmt: skip
def test_a_mistaken_poisoning_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    with pytest.raises(SweepError) as caught:
        planned(tmp_path, old, new)
    found = [(mistake.line, mistake.message) for mistake in caught.value.mistakes]
    assert any(place == line and message in text for place, text in found), found


@pytest.mark.parametrize("aside", [0.1, 0.3, 0.33, 0.5, 0.77, 0.9])
def test_what_is_set_aside_suffices_for_the_share_that_set_it_aside(aside: float) -> None:
    recipe = {"objective": {"name": "poisoned", "args": {"share": aside}}}
    for size in range(20, 60):
        num_aside = aside_count(size, aside)
        assert num_from_aside(recipe, size - num_aside, num_aside) <= num_aside
        recipe["objective"]["args"] = {"share": min(0.99, aside + 1.01 / size)}  # type: ignore[index]
        assert num_from_aside(recipe, size - num_aside, num_aside) > num_aside
        recipe["objective"]["args"] = {"share": aside}  # type: ignore[index]
