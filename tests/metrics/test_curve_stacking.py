"""Laws of curves that train as one stack: the numbers are those of each alone, and nothing passes
from one to another.
"""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from curve_rows import compute, compute_many
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.jobs import Part
from phasegrid.metrics import METRICS
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity import compute as engine
from phasegrid.metrics.connectivity.compute import compute_many as declared
from phasegrid.metrics.connectivity.stacked import MAX_CURVES, train_bends_together
from phasegrid.metrics.connectivity.training import train_bends
from phasegrid.metrics.network import stacking
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import Row, live_network
from phasegrid.metrics.network.stacking import choose_stacks
from phasegrid.metrics.network.turns import finished
from phasegrid.models import strategies
from phasegrid.models.build import build_model

RING = [(0, 1), (1, 2), (2, 3), (0, 3)]
NETWORKS = {
    "mlp": Part("mlp", 1, {"width": 6, "depth": 2, "activation": "relu"}),
    "cnn": Part("small_cnn", 1, {"width": 3, "batch_norm": True}),
    "resnet18": Part("resnet18", 1, {"width": 1}),
}


class Dropping(nn.Sequential):
    """Layers that a stack leaves out or keeps as they are: dropout, a weight used twice, one that
    does not train.
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 5), nn.ReLU()
        )
        self.append(nn.Linear(5, 5))
        self.append(nn.Linear(5, 3))
        self[6].weight = self[4].weight
        nn.init.constant_(self[4].bias, 0.3).requires_grad_(False)


def network(name: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    if name == "dropping":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Dropping().to(dtype).eval()
    return build_model(NETWORKS[name], (1, 8, 8), 3, seed).to(dtype).eval()


def networks(name: str, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    return [network(name, seed, dtype) for seed in range(4)]


def digits(dtype: torch.dtype = torch.float64, num: int = 49) -> Dataset:
    """Three noisy patterns of 8 x 8; 49 training examples leave a last batch of one, which joins
    the one before.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num + 20) % 3
    patterns = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), 1, 8, 8, generator=generator, dtype=torch.float64)
    inputs = (patterns[labels] + noise).to(dtype)
    unit = torch.ones(1, dtype=dtype)
    sets = inputs[:num], labels[:num], inputs[num:], labels[num:]
    return Dataset("patterns", *sets, 3, unit, 0 * unit)


def generators(num: int = 4) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(num)]


def alone(
    models: Sequence[nn.Module], groups: Sequence[tuple[int, ...]], data: Dataset, **args: object
) -> list[Row]:
    rngs = generators(len(groups))
    return [
        compute([models[i] for i in group], data, rng, **args)
        for group, rng in zip(groups, rngs, strict=True)
    ]


def together(
    models: Sequence[nn.Module], groups: Sequence[tuple[int, ...]], data: Dataset, **args: object
) -> list[Row]:
    rows = compute_many(models, groups, data, generators(len(groups)), **args)
    assert rows is not None
    return rows


def assert_close(found: Sequence[Row], expected: Sequence[Row], rel: float) -> None:
    """Numbers agree to `rel`, and nulls are nulls in both."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            for a, b in zip(
                *(v if isinstance(v, list) else [v] for v in (value, other[name])), strict=True
            ):
                assert (a is None) == (b is None), name
                assert a is None or a == pytest.approx(b, rel=rel, abs=rel), name


ARGS = {"epochs": 3, "batch_size": 16, "lr": 0.05, "points": 3}


def test_declaration_names_this_function() -> None:
    assert METRICS["connectivity"].compute_many is not None
    assert import_function(METRICS["connectivity"].compute_many) is declared


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"curve": "polychain", "bends": 2},
        {"bends": 3, "momentum": 0.0, "weight_decay": 0.1},
        {"init": "random", "refresh_examples": 20},
        {"updates": 7},
    ],
    ids=["bezier", "polychain", "three bends", "random", "updates"],
)
@pytest.mark.parametrize("name", ["mlp", "cnn", "dropping"])
def test_each_pair_gets_the_numbers_it_gets_alone(name: str, more: dict[str, object]) -> None:
    models, data = networks(name), digits()
    args = {**ARGS, **more}
    # 9 updates in float64: sums in another order differ by 1e-15 or so of each, and grow little
    assert_close(together(models, RING, data, **args), alone(models, RING, data, **args), 1e-9)


def test_a_resnet_gets_the_numbers_it_gets_alone() -> None:
    models, data, groups = networks("resnet18"), digits(), [(0, 1), (2, 3)]
    args = {**ARGS, "epochs": 2, "lr": 0.01}
    assert_close(together(models, groups, data, **args), alone(models, groups, data, **args), 1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_in_single_precision_numbers_agree_to_it(name: str) -> None:
    models, data = networks(name, torch.float32), digits(torch.float32)
    found, expected = (way(models, RING, data, **ARGS) for way in (together, alone))
    for one, other in zip(found, expected, strict=True):
        # 9 updates with rounding of 6e-8: far below 1e-4, however the network stretches them
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["final_curve_loss"] == pytest.approx(other["final_curve_loss"], rel=1e-4)


class Convolutions(TorchDispatchMode):
    """Notes in which dtype convolutions are computed, with gradients and without."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::convolution":
            self.seen[torch.is_grad_enabled()].add(result.dtype)
        return result


@pytest.mark.parametrize("way", ["together", "alone"])
def test_a_precision_is_that_of_training_and_not_of_the_points(way: str) -> None:
    models, data = networks("cnn", torch.float32), digits(torch.float32)
    measure = {"together": together, "alone": alone}[way]
    usual = measure(models, RING, data, **ARGS)
    assert measure(models, RING, data, precision="fp32", **ARGS) == usual
    assert measure(models, RING, data, precision="tf32", **ARGS) == usual  # here all are the same
    with Convolutions() as convolutions:
        found = measure(models, RING, data, precision="bf16", **ARGS)
    assert convolutions.seen == {True: {torch.bfloat16}, False: {torch.float32}}
    for one, other in zip(found, usual, strict=True):
        assert one["final_curve_loss"] != other["final_curve_loss"]
        # bfloat16 has 8 bits; 9 updates
        assert one["final_curve_loss"] == pytest.approx(other["final_curve_loss"], rel=0.05)
        assert one["train_loss"][0] == other["train_loss"][0]  # the end was not trained


@pytest.mark.parametrize("updates", [None, 6])
def test_each_generator_gives_what_it_gives_alone(updates: int | None) -> None:
    models, data = networks("cnn"), digits()
    args = {**ARGS, "init": "random", "updates": updates}
    packed, single = generators(), generators()
    compute_many(models, RING, data, packed, **args)
    for group, rng in zip(RING, single, strict=True):
        compute([models[i] for i in group], data, rng, **args)
    for one, other in zip(packed, single, strict=True):
        assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("curve", ["bezier", "polychain"])
def test_a_diverging_pair_leaves_and_the_others_do_not_notice(curve: str) -> None:
    models, data = networks("mlp"), digits()
    with torch.no_grad():
        for parameter in models[3].parameters():
            parameter.mul_(1e150)  # logits of 1e450: infinite
    rows = together(models, RING, data, curve=curve, **ARGS)
    assert_close(rows, alone(models, RING, data, curve=curve, **ARGS), 1e-9)
    assert [row["final_curve_loss"] is None for row in rows] == [False, False, True, True]


def test_curves_may_all_diverge() -> None:
    models, data = networks("mlp"), digits()
    args = {**ARGS, "lr": 1e200, "epochs": 20}
    rows = together(models, RING, data, **args)
    assert_close(rows, alone(models, RING, data, **args), 1e-9)
    assert [row["final_curve_loss"] for row in rows] == [None] * 4


def test_a_curve_that_diverges_in_its_last_epoch_has_no_final_loss() -> None:
    models, data = networks("mlp"), digits()
    rows = together(models, RING, data, **{**ARGS, "epochs": 1, "lr": 1e200})
    assert [row["final_curve_loss"] for row in rows] == [None] * 4


def test_the_order_of_the_groups_is_that_of_the_rows_and_nothing_else() -> None:
    models, data = networks("cnn"), digits()
    forward = compute_many(models, RING, data, generators(), **ARGS)
    backward = compute_many(models, RING[::-1], data, generators()[::-1], **ARGS)
    assert forward is not None
    assert backward is not None
    assert_close(backward[::-1], forward, 1e-9)


def members_of_stacks(
    models: list[nn.Module], most: int = MAX_CURVES, points: int = 1
) -> list[list[int]]:
    return [members for _, members in choose_stacks(models, digits(), 16, most, points)]


def test_pairs_of_other_networks_train_beside_the_stack() -> None:
    models = [*networks("mlp"), network("cnn", 0), network("cnn", 1)]
    models[3] = build_model(
        Part("mlp", 1, {"width": 6, "depth": 2, "activation": "tanh"}), (1, 8, 8), 3, 9
    )
    models[3] = models[3].double().eval()
    groups = [(0, 1), (4, 5), (3, 3), (1, 2)]
    data = digits()
    assert members_of_stacks([models[g[0]] for g in groups]) == [[0, 3]]
    assert_close(together(models, groups, data, **ARGS), alone(models, groups, data, **ARGS), 1e-9)


def test_a_large_stack_is_cut_into_equal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    models, data = networks("mlp"), digits()
    expected = together(models, RING, data, **ARGS)
    monkeypatch.setattr(engine, "MAX_CURVES", 3)
    assert members_of_stacks(models, 3) == [[0, 2], [1, 3]]
    assert_close(together(models, RING, data, **ARGS), expected, 1e-9)


def test_pieces_of_several_points_share_the_networks_of_a_stack() -> None:
    models = networks("mlp")
    assert members_of_stacks(models, 10, points=5) == [[0, 2], [1, 3]]
    assert members_of_stacks(models[:1], 10, points=12) == [[0]]


def test_a_stack_whose_outputs_are_large_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    # Images of 8x8 pixels; three channels of float64 in batches of 16.
    monkeypatch.setattr(stacking, "MAX_BYTES", 2 * 16 * 3 * 64 * 8)
    assert members_of_stacks(networks("cnn")) == [[0, 2], [1, 3]]


def test_where_one_network_keeps_a_core_busy_there_is_no_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strategies, "MAX_FUSED_PRODUCTS", {"linear": 0, "convolution": 0})
    assert compute_many(networks("cnn"), RING, digits(), generators(), **ARGS) is None


class Bare(nn.Module):
    """A network without a stacked form, with a parameter that nobody can initialise."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)[:, :3]


def test_networks_without_a_stacked_form_are_left_to_compute() -> None:
    models = [Bare().double() for _ in range(4)]
    assert compute_many(models, RING, digits(), generators(), **ARGS) is None


def test_one_pair_alone_is_no_stack() -> None:
    assert compute_many(networks("mlp"), RING[:1], digits(), generators(1), **ARGS) is None


def test_a_group_that_is_no_pair_is_refused() -> None:
    with pytest.raises(MetricError, match="between two models, got 3"):
        compute_many(networks("mlp"), [(0, 1), (0, 1, 2)], digits(), generators(2), **ARGS)


def test_networks_are_left_as_they_were() -> None:
    models, data = networks("dropping"), digits()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    state = torch.get_rng_state()
    together(models, RING, data, **ARGS)
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in zip(models, before, strict=True):
        assert not any(module.training for module in model.modules())
        assert model.get_submodule("3").p == 0.5  # type: ignore[union-attr]
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_the_bends_are_those_that_each_curve_finds_alone() -> None:
    models, data = networks("cnn"), digits()
    settings = ConnectivityArgs(epochs=2, batch_size=16, lr=0.05, bends=2)
    ((blueprint, members),) = choose_stacks(models, data, 16, MAX_CURVES)
    assert members == [0, 1, 2, 3]
    flats = [live_network(model) for model in models]
    # four curves from each network to itself, so that every bend moves by its own gradients only
    begun = [flat.rows().expand(4, -1).contiguous() for flat in flats]
    packed, single = [v.clone() for v in begun], [v.clone() for v in begun]
    examples = Examples(data.train_inputs, data.train_labels)
    modules = [flat.module for flat in flats]
    losses = train_bends_together(blueprint, modules, packed, examples, settings, generators())
    for i, rng in enumerate(generators()):
        assert finished(train_bends(flats[i], single[i], examples, settings, rng)) == pytest.approx(
            losses[i]
        )
        assert not torch.equal(packed[i][1], begun[i][1])
        assert torch.equal(packed[i][[0, 3]], begun[i][[0, 3]])  # the ends stay
        torch.testing.assert_close(packed[i], single[i], rtol=1e-9, atol=1e-12)
