"""Laws of simplexes that are measured together: the numbers are those of each alone."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from point_support import dataset, generator
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.jobs import Part
from phasegrid.metrics import METRICS
from phasegrid.metrics.measured import Measured
from phasegrid.metrics.network.turns import MOST, in_turn
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex import compute as engine
from phasegrid.metrics.simplex.growing import begin, live_networks
from phasegrid.models import strategies
from phasegrid.models.build import build_model
from phasegrid.train.lanes import Lanes

PARTS = {
    "mlp": Part("mlp", 1, {"width": 5, "depth": 1, "activation": "relu"}),
    "cnn": Part("small_cnn", 1, {"width": 2, "batch_norm": True}),
}
SHAPE = (1, 4, 4)
QUICK = {"epochs": 2, "samples": 3, "batch_size": 16, "eval_samples": 3, "connectors": 2}
NUMBERS = (
    "log_volume",
    "log_volumes",
    "connector_losses",
    "expected_train_loss",
    "expected_test_loss_stderr",
    "expected_test_accuracy_percent",
)
EACH = [(0,), (1,), (2,)]


def networks(name: str, num: int = 4) -> list[nn.Module]:
    return [build_model(PARTS[name], SHAPE, 3, seed).double().eval() for seed in range(num)]


def data() -> Dataset:
    rng = generator(4)
    inputs = torch.randn(40, *SHAPE, generator=rng, dtype=torch.float64)
    return dataset(inputs, torch.randint(0, 3, (40,), generator=rng))


def generators(num: int) -> list[torch.Generator]:
    return [generator(place) for place in range(num)]


def together(models: list[nn.Module], **args: Any) -> list[Measured]:
    found = engine.espro_many(models, EACH, data(), generators(3), **{**QUICK, **args})
    assert found is not None
    return found


def alone(models: list[nn.Module], **args: Any) -> list[Measured]:
    return [
        engine.compute_espro([models[place]], data(), rng, **{**QUICK, **args})
        for place, rng in enumerate(generators(3))
    ]


def assert_same(found: list[Measured], expected: list[Measured]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one.rows, dict)
        assert isinstance(other.rows, dict)
        for column in NUMBERS:
            assert one.rows[column] == pytest.approx(other.rows[column], rel=1e-6), column
        for name, tensor in other.artifacts.get("complex", {}).items():
            torch.testing.assert_close(one.artifacts["complex"][name], tensor)


def test_the_functions_are_those_declared() -> None:
    declared = METRICS["espro"]
    named = {declared.compute_many: engine.espro_many, declared.by_turns: engine.espro_by_turns}
    named[METRICS["simplex"].by_turns] = engine.by_turns
    for name, function in named.items():
        assert name is not None
        assert import_function(name) is function


@pytest.mark.parametrize("name", list(PARTS))
def test_each_simplex_gets_the_numbers_it_gets_alone(name: str) -> None:
    models = networks(name)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    assert_same(together(models), alone(models))
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_a_network_of_another_shape_is_measured_beside_the_stack() -> None:
    models = networks("mlp")
    models[1] = networks("cnn")[1]
    assert_same(together(models), alone(models))


def test_a_diverged_simplex_is_a_row_of_nulls_beside_the_others() -> None:
    models = networks("mlp")
    with torch.no_grad():
        next(models[0].parameters()).fill_(torch.inf)
    found = together(models)
    assert found[0].artifacts == {}
    assert isinstance(found[0].rows, dict)
    assert found[0].rows["connector_losses"] == [None, None]
    assert_same(found[1:], alone(models)[1:])


def test_points_of_a_simplex_are_stacked_or_in_turn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    models = networks("cnn")
    stacked = alone(models)
    monkeypatch.setattr(strategies, "MAX_FUSED_BYTES", 0)
    assert_same(alone(models), stacked)
    assert engine.espro_many(models, EACH, data(), generators(3), **QUICK) is None


class Bare(nn.Module):
    """A network without a stacked form."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)[:, :3]


def test_networks_without_a_stacked_form_are_measured_alone() -> None:
    models: list[nn.Module] = [Bare() for _ in range(4)]
    assert engine.espro_many(models, EACH, data(), generators(3), **QUICK) is None


def test_modes_that_differ_in_what_does_not_train_are_mixed_in_turn() -> None:
    models = networks("mlp", 2)
    for model in models:
        next(model.parameters()).requires_grad_(False)
    settings = SimplexArgs(samples=3)
    sizes = [
        live_networks(begin(modes, data(), settings, generator(0)), data(), settings).flat.size
        for modes in (models, models[:1])
    ]
    assert sizes == [1, 3]


def test_one_simplex_is_no_stack_of_several() -> None:
    assert engine.espro_many(networks("mlp"), EACH[:1], data(), generators(1), **QUICK) is None


def test_a_group_of_two_models_is_refused() -> None:
    with pytest.raises(MetricError, match="from one model, got 2"):
        engine.espro_many(networks("mlp"), [(0,), (0, 1)], data(), generators(2), **QUICK)


@pytest.mark.parametrize("num_modes", [1, 2])
def test_complexes_that_take_turns_are_those_alone(num_modes: int) -> None:
    models = networks("mlp")
    ways = {1: (engine.espro_by_turns, engine.compute_espro), 2: (engine.by_turns, engine.compute)}
    by_turns, compute = ways[num_modes]
    chosen = [models[place : place + num_modes] for place in range(3)]
    works = [
        partial(by_turns, own, data(), generator(place), **QUICK)
        for place, own in enumerate(chosen)
    ]
    found = in_turn(works, Lanes(torch.device("cpu"), MOST))
    expected = [compute(own, data(), generator(i), **QUICK) for i, own in enumerate(chosen)]
    assert_same(found, expected)


def test_statistics_of_the_modes_are_not_those_of_a_batch_of_a_stack() -> None:
    models, rngs = networks("cnn"), generators(3)
    args = {**QUICK, "batch_norm": "saved"}
    assert engine.espro_many(models, EACH, data(), rngs, **args) is None
    assert engine.espro_many(networks("mlp"), EACH, data(), rngs, **args) is not None


def test_each_simplex_has_the_lambdas_that_its_own_draws_give() -> None:
    models = networks("mlp")
    assert_same(together(models, volume_schedule="paper"), alone(models, volume_schedule="paper"))
