"""Laws of magnitude pruning: how many weights stay, which, and that the others stay zero."""

from typing import Any

import pytest
import torch
from train_support import SMALL_CNN, Kept, make_data, make_trial

from phasegrid.models.build import build_model
from phasegrid.train.beginning import Beginning, initial_network
from phasegrid.train.loop import train_pack
from phasegrid.train.pruning import density_of, masks, prunable
from phasegrid.train.recipe import SAM, Prune


def networks() -> tuple[dict[str, torch.Tensor], list[str]]:
    module = build_model(SMALL_CNN, (1, 8, 8), 4, seed=0)
    return module.state_dict(), prunable(module)


def test_neither_biases_nor_batch_norm_are_pruned() -> None:
    weights, names = networks()
    assert names
    assert all(weights[name].dim() in (2, 4) for name in names)
    assert all(weights[name].dim() not in (2, 4) for name in weights if name not in names)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_the_largest_of_the_whole_network_stay(density: float) -> None:
    weights, names = networks()
    found = masks(weights, names, Prune(density))
    sizes = torch.cat([weights[name].abs().flatten() for name in names])
    stays = torch.cat([found[name].flatten() for name in names]).bool()
    assert int(stays.sum()) == round(density * len(sizes))
    assert density == 1 or sizes[stays].min() >= sizes[~stays].max()


def test_by_layer_every_layer_has_its_share() -> None:
    weights, names = networks()
    for name, mask in masks(weights, names, Prune(0.25, "layer")).items():
        assert int(mask.sum()) == max(1, round(0.25 * weights[name].numel()))


def test_of_equal_weights_the_first_stay() -> None:
    # more than 16 equal numbers: torch sorts fewer stably, whether asked to or not
    weights = {"a": torch.full((500,), -0.5), "b": torch.full((500,), 0.5)}
    found = masks(weights, ["a", "b"], Prune(0.7))
    assert torch.equal(found["a"], torch.ones(500))
    assert torch.equal(found["b"], torch.arange(500).lt(200).float())


@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
@pytest.mark.parametrize("recipe", [{}, {"optimizer": "adam"}, {"sam": SAM(0.1)}])
def test_pruned_weights_stay_zero_and_the_others_train(strategy: Any, recipe: Any) -> None:
    kept = Kept()
    trials = [make_trial(i, SMALL_CNN, prune=Prune(0.3), keep_every=1, **recipe) for i in (0, 1)]
    results = train_pack(trials, [make_data()] * 2, device="cpu", strategy=strategy, publisher=kept)
    _, names = networks()
    for trial, result in zip(trials, results, strict=True):
        begun = kept.at(trial, "epoch-0")
        total = sum(begun[name].numel() for name in names)
        assert result.density == pytest.approx(round(0.3 * total) / total)
        for name in names:
            assert torch.equal(begun[name] == 0, result.weights[name] == 0)
        assert any(not torch.equal(begun[name], result.weights[name]) for name in names)


def test_a_trained_network_is_pruned_and_trained_on() -> None:
    dense = train_pack([make_trial(0, SMALL_CNN)], [make_data()], device="cpu")[0]
    trial, kept = make_trial(1, SMALL_CNN, prune=Prune(0.2), keep_every=1), Kept()
    (sparse,) = train_pack(
        [trial], [make_data()], device="cpu", starts=[Beginning(dense.weights)], publisher=kept
    )
    assert dense.density is None
    _, names = networks()
    begun = kept.at(trial, "epoch-0")
    for name in names:
        stays = begun[name] != 0
        assert torch.equal(begun[name][stays], dense.weights[name][stays])
    assert sparse.density == density_of(begun, names) == pytest.approx(0.2, abs=0.01)


def test_the_number_of_weights_that_stay_is_rounded_and_at_least_one() -> None:
    weights = {"w": torch.arange(1.0, 8.0)}
    kept = [
        int(masks(weights, ["w"], Prune(density, scope))["w"].sum())
        for density in (0.55, 0.4, 0.001)
        for scope in ("global", "layer")
    ]
    assert kept == [4, 4, 3, 3, 1, 1]  # of seven: 3.85, 2.8 and 0.007


def test_the_norm_that_clips_a_gradient_is_of_the_weights_that_stay() -> None:
    fields = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "updates": 1, "keep": "last"}
    trial = make_trial(0, prune=Prune(0.1), clip_norm=1e-3, stop=None, **fields)
    data = make_data()
    (found,) = train_pack([trial], [data], device="cpu")
    module = initial_network(trial, data)
    names = [name for name, _ in module.named_parameters()]
    start = module.state_dict()
    start |= {n: start[n] * mask for n, mask in masks(start, prunable(module), Prune(0.1)).items()}
    moved = torch.cat([(found.weights[n].double() - start[n].double()).flatten() for n in names])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)
