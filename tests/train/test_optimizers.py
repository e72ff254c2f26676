"""Every optimizer is torch.optim's, and SAM the two passes of its papers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_support import MLP, make_data, make_trial

from phasegrid.keys import stream_seed
from phasegrid.models.build import build_model
from phasegrid.models.weights import parameters_vector
from phasegrid.train.loop import train_pack
from phasegrid.train.optimizers import (
    Rate,
    Rates,
    clip,
    new_slots,
    rate_table,
    rates_at,
    sgd_step,
    sgd_step_of_points,
    step,
)
from phasegrid.train.recipe import SAM, Recipe, RMSprop
from phasegrid.train.sharpness import ETA, sharpen

Make = Callable[[list[Tensor]], torch.optim.Optimizer]

CASES: dict[str, tuple[Recipe, Make]] = {
    "sgd": (Recipe(lr=0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=5e-4)),
    "plain sgd": (
        Recipe(lr=0.1, momentum=0.0, weight_decay=0.0),
        lambda p: torch.optim.SGD(p, 0.1),
    ),
    "nesterov": (
        Recipe(lr=0.1, momentum=0.5, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, 0.5, weight_decay=5e-4, nesterov=True),
    ),
    "adam": (
        Recipe(optimizer="adam", lr=0.01, weight_decay=0.1, betas=(0.8, 0.99), adam_eps=1e-6),
        lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.99), 1e-6, weight_decay=0.1),
    ),
    "adamw": (
        Recipe(optimizer="adamw", lr=0.01, weight_decay=0.1, betas=(0.8, 0.99), adam_eps=1e-6),
        lambda p: torch.optim.AdamW(p, 0.01, (0.8, 0.99), 1e-6, weight_decay=0.1),
    ),
    "rmsprop": (
        Recipe(optimizer="rmsprop", lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, 0.01, weight_decay=0.1),
    ),
    "rmsprop, all fields": (
        Recipe(optimizer="rmsprop", lr=0.01, rmsprop=RMSprop(0.9, 0.7, 1e-3, centered=True)),
        lambda p: torch.optim.RMSprop(
            p, 0.01, alpha=0.9, eps=1e-3, weight_decay=5e-4, momentum=0.7, centered=True
        ),
    ),
}


def draws(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_torch_optim(case: str) -> None:
    recipe, make = CASES[case]
    theirs = nn.Parameter(draws(40))
    ours = theirs.detach().clone()
    slots, optimizer = new_slots(recipe, ours), make([theirs])
    for update in range(25):
        gradient = draws(40, seed=update + 1)
        factor = 1 - update / 50
        for group in optimizer.param_groups:
            group["lr"] = factor * recipe.lr
        theirs.grad = gradient.clone()
        optimizer.step()
        both = recipe.lr, recipe.weight_decay
        step(recipe, ours, gradient, slots, *both, rates_at(recipe, *both, factor, update))
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_rates_may_differ_from_element_to_element(case: str) -> None:
    recipe, _ = CASES[case]
    lr, decay = torch.tensor([0.1, 0.02]).double(), torch.tensor([0.0, 0.3]).double()
    both = draws(2)
    slots = new_slots(recipe, both)
    alone = [both[i : i + 1].clone() for i in range(2)]
    slots_alone = [new_slots(recipe, one) for one in alone]
    for update in range(5):
        gradient = draws(2, seed=update + 1)
        for i in range(2):
            own = gradient[i : i + 1].clone()
            pair = float(lr[i]), float(decay[i])
            rates = rates_at(recipe, *pair, 0.5, update)
            step(recipe, alone[i], own, slots_alone[i], *pair, rates)
        rates = rates_at(recipe, lr, decay, 0.5, update)
        step(recipe, both, gradient, slots, lr, decay, rates)
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("vectors", ["", "lr", "decay", "lr and decay"])
def test_rates_in_a_table_on_the_device_are_those_of_each_update(case: str, vectors: str) -> None:
    recipe, _ = CASES[case]
    lr: Rate = draws(40, seed=1).abs() / 10 if "lr" in vectors else recipe.lr
    decay: Rate = draws(40, seed=2).abs() if "decay" in vectors else recipe.weight_decay
    by_floats, by_table = draws(40), draws(40)
    slots = new_slots(recipe, by_floats), new_slots(recipe, by_table)
    factors = [1.0, 0.5, 0.0, 0.3]
    table = rate_table(recipe, lr, decay, factors, 7)
    row = torch.empty(table.shape[1]).double()
    now = Rates(*row.unbind())
    for update, factor in enumerate(factors):
        gradient = draws(40, seed=update + 3)
        rates = rates_at(recipe, lr, decay, factor, 7 + update)
        step(recipe, by_floats, gradient.clone(), slots[0], lr, decay, rates)
        row.copy_(table[update])
        step(recipe, by_table, gradient, slots[1], lr, decay, now)
    torch.testing.assert_close(by_table, by_floats, rtol=1e-13, atol=1e-15)


def test_the_table_of_no_update_has_no_row() -> None:
    assert rate_table(Recipe(), 0.1, 0.0, [], 0).shape == (0, len(Rates._fields))


@pytest.mark.parametrize("shape", [(), (3,)], ids=["one curve", "three curves"])
def test_points_of_a_mixture_move_by_their_share_of_its_gradient(shape: tuple[int, ...]) -> None:
    points, shares, grads = draws(*shape, 2, 7), draws(*shape, 2, seed=1), draws(*shape, 7, seed=2)
    buffer = draws(*shape, 2, 7, seed=3)
    expected, memory = points.clone(), buffer.clone()
    own = shares.unsqueeze(-1) * grads.unsqueeze(-2)
    sgd_step(expected, own, memory, 0.1, 1.0, 0.9)
    sgd_step_of_points(points, shares, grads, buffer, 0.1, 0.9)
    torch.testing.assert_close(points, expected)
    torch.testing.assert_close(buffer, memory)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_the_gradient_at_the_worst_point_of_each_network(adaptive: bool) -> None:
    weights, curvature = draws(2 * 6), draws(2 * 6, seed=1).square()
    views, calls = [weights.view(2, 6)[:, :4], weights.view(2, 6)[:, 4:]], []
    grads = [torch.empty(2, 4).double(), torch.empty(2, 2).double()]

    def gradient_pass() -> None:  # of sum c w^4, for each network
        calls.append(1)
        for view, grad, c in zip(views, grads, curvature.view(2, 6).split([4, 2], 1), strict=True):
            grad.copy_(4 * c * view**3)

    gradient_pass()
    before = weights.clone()
    sharpen(gradient_pass, weights, views, grads, list, SAM(rho=0.3, adaptive=adaptive))
    assert torch.equal(weights, before)
    assert len(calls) == 2
    for i in range(2):
        w, c = before.view(2, 6)[i], curvature.view(2, 6)[i]
        g = 4 * c * w**3
        T = w.abs() + ETA if adaptive else torch.ones(6).double()
        e = 0.3 * T**2 * g / (T * g).norm()
        found = torch.cat([grad[i] for grad in grads])
        torch.testing.assert_close(found, 4 * c * (w + e) ** 3, rtol=1e-12, atol=0)


def test_the_second_pass_of_sam_leaves_buffers_as_the_first_left_them() -> None:
    weights, counter = draws(5), torch.zeros(1)

    def gradient_pass() -> None:
        counter.add_(1)

    sharpen(gradient_pass, weights, [weights.view(1, 5)], [draws(1, 5)], lambda: [counter], SAM())
    assert counter.item() == 0


def test_sam_of_radius_zero_and_of_a_flat_point_change_nothing() -> None:
    for settings, gradient in ((SAM(rho=0.0), draws(1, 5)), (SAM(), torch.zeros(1, 5).double())):
        weights: Any = draws(5)
        seen: list[Tensor] = []

        def gradient_pass(weights: Tensor = weights, seen: list[Tensor] = seen) -> None:
            seen.append(weights.clone())

        sharpen(gradient_pass, weights, [weights.view(1, 5)], [gradient], list, settings)
        assert torch.equal(seen[0], weights)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_gradients_are_clipped_as_torch_does_network_by_network(scale: float) -> None:
    grads = [scale * draws(2, 3, 4), scale * draws(2, 5, seed=1)]
    grads[0][1] *= 1e-6  # the second network's are small and stay as they are
    grads[1][1] *= 1e-6
    parameters = [nn.Parameter(torch.zeros_like(g[0])) for g in grads]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g[0].clone()
    nn.utils.clip_grad_norm_(parameters, 2.0)
    second = [g[1].clone() for g in grads]
    clip(grads, 2.0)
    for p, g, other in zip(parameters, grads, second, strict=True):
        torch.testing.assert_close(g[0], p.grad, rtol=1e-6, atol=0)  # torch adds 1e-6 to the norm
        assert torch.equal(g[1], other)


def test_a_gradient_that_is_not_finite_is_not_made_finite_by_clipping() -> None:
    for bad in (torch.nan, torch.inf):
        grads = [torch.tensor([[1.0, bad]])]
        clip(grads, 1.0)
        assert not bool(torch.isfinite(grads[0]).all())


def test_an_update_of_a_clipped_gradient_is_as_long_as_asked_for_every_network() -> None:
    plain = {"epochs": 1, "batch_size": 37, "momentum": 0.0, "weight_decay": 0.0, "lr": 0.5}
    trials = [make_trial(seed, **plain, clip_norm=1e-3, keep="last") for seed in (0, 1)]
    data = make_data()
    for strategy in ("loop", "fused"):
        for trial, trained in zip(
            trials, train_pack(trials, [data] * 2, device="cpu", strategy=strategy), strict=True
        ):
            module = build_model(MLP, (1, 8, 8), 4, stream_seed(trial.seed, "init"))
            before = parameters_vector(module)
            module.load_state_dict(trained.weights)
            length = float((parameters_vector(module) - before).norm())
            assert length == pytest.approx(0.5e-3, rel=1e-3)  # float32 weights


def test_a_norm_that_no_gradient_reaches_changes_no_bit() -> None:
    data = make_data()
    free, clipped = (
        train_pack([make_trial(0, clip_norm=norm)], [data], device="cpu")[0] for norm in (None, 1e9)
    )
    for name, value in free.weights.items():
        assert torch.equal(value, clipped.weights[name])
