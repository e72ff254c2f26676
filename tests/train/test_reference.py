"""Every strategy trains as the plain loop of `phasegrid.train.reference` does, in float64."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from train_support import CLASSES, MLP, PLAIN_CNN, SMALL_CNN, make_data, make_trial

import phasegrid.train.beginning
import phasegrid.train.reference
from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part, Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_for, build_model
from phasegrid.models.weights import Weights
from phasegrid.train.loop import train_pack
from phasegrid.train.member import EpochRecord
from phasegrid.train.recipe import SAM, RMSprop, Schedule, Stop
from phasegrid.train.reference import train_alone

NETWORKS = {"mlp": MLP, "cnn with BatchNorm": SMALL_CNN}
RATES = ((0.05, 5e-4), (0.02, 1e-2), (0.02, 1e-2))
CASES: dict[str, dict[str, Any]] = {
    "plain sgd": {"momentum": 0.0},
    "nesterov, cosine after a warm-up": {
        "nesterov": True,
        "schedule": Schedule("cosine", warmup_updates=3, final=0.1),
    },
    "label smoothing, step, flips and crops": {
        "label_smoothing": 0.1,
        "schedule": Schedule("step", at_epochs=(1,), factor=0.3),
        "augment": "flip_crop",
    },
    "adam, cyclic": {
        "optimizer": "adam",
        "schedule": Schedule("cyclic", cycle_updates=4, low=0.01),
    },
    "adamw, restarts, last batch dropped": {
        "optimizer": "adamw",
        "schedule": Schedule("cosine_restarts", cycle_epochs=1),
        "drop_last": True,
    },
    "rmsprop, updates": {"optimizer": "rmsprop", "updates": 7, "keep": "last"},
    "rmsprop, all its fields": {
        "optimizer": "rmsprop",
        "rmsprop": RMSprop(0.9, 0.5, 1e-4, centered=True),
        "schedule": Schedule("pieces", pieces=((0.5, 1.0), (0.9, 0.01))),
    },
    "sam": {"sam": SAM(rho=0.1), "keep": "best_test"},
    "accumulated, sam": {"accumulate": 3, "sam": SAM(rho=0.1), "clip_norm": 1e6},
    "adaptive sam, adam": {"sam": SAM(rho=0.5, adaptive=True), "optimizer": "adam"},
    "squared loss": {
        "objective": {"name": "mse", "args": {"reduction": "mean"}, "version": 1},
    },
    "early stopping": {"stop": Stop(min_delta=0.1, patience=1), "epochs": 6, "keep": "last"},
}
IMAGES = ("train_inputs", "test_inputs")
WITH_IMAGES = (
    "nesterov, cosine after a warm-up",
    "label smoothing, step, flips and crops",
    "rmsprop, updates",
    "sam",
    "adaptive sam, adam",
    "early stopping",
)


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: Any, **kwargs: Any) -> nn.Module:
        return build_for(*args, **kwargs).double()

    for module in (phasegrid.train.beginning, phasegrid.train.reference):
        monkeypatch.setattr(module, "build_begun", build)


def doubled(data: Dataset) -> Dataset:
    names = ("train_inputs", "test_inputs", "padding")
    return replace(data, **{name: getattr(data, name).double() for name in names})


def of_case(name: str, network: str) -> tuple[list[Trial], list[Dataset]]:
    recipe = dict(CASES[name])
    augment = recipe.pop("augment", "none")
    trials = [
        make_trial(seed, NETWORKS[network], lr=lr, weight_decay=decay, **{"epochs": 2, **recipe})
        for seed, (lr, decay) in enumerate(RATES)
    ]
    return trials, [doubled(make_data(seed=seed, augment=augment)) for seed in (0, 0, 1)]


@cache
def expected(name: str, network: str) -> list[tuple[Weights, list[EpochRecord]]]:
    return [train_alone(trial, data) for trial, data in zip(*of_case(name, network), strict=True)]


@pytest.mark.parametrize(
    ("case", "network"),
    [*((case, "mlp") for case in CASES), *((case, "cnn with BatchNorm") for case in WITH_IMAGES)],
)
@pytest.mark.parametrize("strategy", ["loop", "vmap", "fused", "merged"])
def test_a_pack_trains_each_of_its_trials_as_the_plain_loop_does(
    strategy: Any, case: str, network: str
) -> None:
    trials, data = of_case(case, network)
    results = train_pack(trials, data, device="cpu", strategy=strategy)
    for result, (weights, history) in zip(results, expected(case, network), strict=True):
        assert result.strategy == strategy
        # float64 rounding, grown by 10 updates
        torch.testing.assert_close(result.weights, weights, rtol=1e-7, atol=1e-9)
        assert len(result.history) == len(history)
        for ours, theirs in zip(result.history, history, strict=True):
            assert ours.lr == pytest.approx(theirs.lr, rel=1e-12)
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-9)
            assert ours.train_accuracy_percent == pytest.approx(theirs.train_accuracy_percent)
            if ours.test_loss is not None:
                assert ours.test_loss == pytest.approx(theirs.test_loss, rel=1e-8)


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention member by member
def test_vision_transformers_train_as_the_plain_loop_does(strategy: Any) -> None:
    sizes = {"patch": 4, "width": 8, "depth": 1, "heads": 2, "feed_forward": 2, "dropout": 0.0}
    recipe: dict[str, Any] = {"epochs": 2, "optimizer": "adam", "lr": 0.01, "accumulate": 2}
    trials = [make_trial(seed, Part("vit", 1, sizes), **recipe) for seed in (0, 1)]
    grey = doubled(make_data(16))
    shape = {name: getattr(grey, name).repeat(1, 3, 1, 1) for name in IMAGES}
    data = [replace(grey, **shape)] * 2
    for result, trial in zip(
        train_pack(trials, data, device="cpu", strategy=strategy), trials, strict=True
    ):
        assert result.strategy == strategy
        torch.testing.assert_close(result.weights, train_alone(trial, data[0])[0])


def test_some_of_the_trials_that_stop_early_stop_before_the_others() -> None:
    lengths = {len(history) for _, history in expected("early stopping", "mlp")}
    assert len(lengths) > 1


def test_the_plain_loop_is_what_torch_would_do() -> None:
    data = doubled(make_data())
    recipe: dict[str, Any] = {"nesterov": True, "label_smoothing": 0.1, "keep": "last"}
    weights, history = train_alone(make_trial(3, PLAIN_CNN, lr=0.1, **recipe), data)
    seed = stream_seed(3, "init")
    net = build_model(PLAIN_CNN, (1, 8, 8), CLASSES, seed=seed).double()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    order = torch.Generator().manual_seed(stream_seed(3, "order"))
    for record in history:
        total = 0.0
        for index in torch.randperm(37, generator=order).split(8):
            optimizer.zero_grad()
            logits = net(data.train_inputs[index])
            loss = cross_entropy(logits, data.train_labels[index], label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            total += len(index) * loss.item()
        assert record.train_loss == pytest.approx(total / 37, rel=1e-12)
    torch.testing.assert_close(weights, dict(net.state_dict()), rtol=1e-10, atol=1e-12)
