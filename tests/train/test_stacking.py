"""Laws of stacks: members share tensors and kernels but never numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, relu
from torch.nn.utils import parametrizations
from train_support import make_trial

from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.fused import NotFusableError, fuse, read_architecture
from phasegrid.models.strategies import (
    MAX_FUSED_BYTES,
    MAX_FUSED_PRODUCTS,
    Strategy,
    choose_strategy,
    largest_output_bytes,
    products,
)
from phasegrid.models.weights import cpu_state, parameters_vector
from phasegrid.train.compat import pack_signature, packable
from phasegrid.train.optimizers import new_slots, rates_at, step
from phasegrid.train.recipe import Recipe
from phasegrid.train.stack import MemberState, Stack

NETWORKS = {
    "mlp": Part("mlp", 1, {"width": 5, "depth": 2, "activation": "gelu"}),
    "cnn": Part("small_cnn", 1, {"width": 3, "batch_norm": False}),
    "cnn with BatchNorm": Part("small_cnn", 1, {"width": 3, "batch_norm": True}),
    "resnet18": Part("resnet18", 1, {"width": 1}),
}


class Functions(nn.Module):
    """A network written with functions, BatchNorm1d, a skip, pooling, grouped convolution, no bias,
    average pooling.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding="same", groups=2, bias=False)
        self.linear = nn.Linear(4 * 4, 6, bias=False)
        self.norm = nn.BatchNorm1d(6, affine=False)
        self.last = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = avg_pool2d(relu(self.conv(x)), 2)
        x = self.drop(x).flatten(1)
        h = self.norm(self.linear(x)).relu()
        logits: Tensor = self.last(h + self.linear(x))
        return logits


class Twice(nn.Module):
    """A network with a value that ReLU must not overwrite: a skip needs it too (He et al. 2016,
    pre-activation).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.rectify = nn.ReLU()
        self.conv2 = nn.Conv2d(3, 3, 1)
        self.last = nn.Linear(3 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv1(x))
        y = self.rectify(self.conv2(self.rectify(h))) + h
        logits: Tensor = self.last(y.flatten(1))
        return logits


OWN = {"functions": Functions, "a value used twice": Twice}


def seeded_module(make: Any, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module: nn.Module = make()
        return module


def modules_of(name: str, count: int) -> list[nn.Module]:
    if name in OWN:
        return [seeded_module(OWN[name], seed).double() for seed in range(count)]
    return [build_model(NETWORKS[name], (2, 4, 4), 3, seed=seed).double() for seed in range(count)]


def stack_of(modules: list[nn.Module], strategy: Strategy, recipe: Recipe | None = None) -> Stack:
    states = [
        MemberState(cpu_state(m), new_slots(recipe, parameters_vector(m)) if recipe else {})
        for m in modules
    ]
    blueprint = read_architecture(modules[0]) if strategy in ("fused", "merged") else None
    return Stack(modules[0], states, strategy, blueprint)


@pytest.mark.parametrize("strategy", ["vmap", "fused", "merged"])
@pytest.mark.parametrize("name", [*NETWORKS, *OWN])
def test_a_stack_gives_each_member_its_own_logits_gradient_and_statistics(
    name: str, strategy: Strategy
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 2, 4, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (3, 6), generator=generator)
    alone = modules_of(name, 3)
    stack = stack_of(modules_of(name, 3), strategy)
    logits = stack.network.forward(x)
    losses = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    stack.network.grads.fill_(7.0)  # as another update left it
    stack.network.differentiate(losses, torch.ones_like(losses))
    grads = stack.network.views()[1]
    for i, module in enumerate(alone):
        expected = module.train()(x[i])
        cross_entropy(expected, y[i], reduction="sum").backward()
        torch.testing.assert_close(logits[i], expected)
        for grad, parameter in zip(grads, module.parameters(), strict=True):
            torch.testing.assert_close(grad[i], parameter.grad)
        torch.testing.assert_close(stack.state(i), cpu_state(module))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rates_per_member_are_those_of_the_member_alone(optimizer: Any) -> None:
    recipe = Recipe(optimizer=optimizer)
    rates, decays = [0.1, 0.01], [0.0, 0.2]
    grads = torch.randn(4, 2, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    linear = [nn.Linear(10, 1).double() for _ in range(2)]
    both = stack_of(linear, "vmap", recipe)
    lr, weight_decay = both.network.per_element(rates), both.network.per_element(decays)
    for update in range(4):
        both.network.grads.copy_(both.network.flat(list(grads[update])))
        step(
            recipe,
            both.network.weights,
            both.network.grads,
            both.slots,
            lr,
            weight_decay,
            rates_at(recipe, lr, weight_decay, 0.5, update),
        )
    for i in range(2):
        weights = parameters_vector(linear[i])
        slots = new_slots(recipe, weights)
        for update in range(4):
            grad = grads[update, i].clone()
            own = rates[i], decays[i]
            step(recipe, weights, grad, slots, *own, rates_at(recipe, *own, 0.5, update))
        torch.testing.assert_close(
            torch.cat([both.state(i)["weight"].flatten(), both.state(i)["bias"]]), weights
        )


def test_equal_rates_are_one_number() -> None:
    stack = stack_of([nn.Linear(2, 1), nn.Linear(2, 1)], "vmap")
    assert stack.network.per_element([0.1, 0.1]) == 0.1
    assert torch.equal(
        stack.network.per_element([1.0, 2.0]),  # type: ignore[arg-type]
        # weights of both, then biases of both, each from a multiple of 64 elements on
        torch.tensor([1.0, 1.0, 2.0, 2.0, *[0.0] * 60, 1.0, 2.0, *[0.0] * 62]),
    )


def test_members_survive_leaving_and_entering_a_stack() -> None:
    recipe = Recipe(optimizer="adam")
    modules = modules_of("cnn with BatchNorm", 3)
    stack = stack_of(modules, "vmap", recipe)
    for slot in stack.slots.values():
        slot.normal_(generator=torch.Generator().manual_seed(4))
    members = [stack.member(i) for i in range(3)]
    again = Stack(modules_of("cnn with BatchNorm", 1)[0], [members[2], members[0]], "vmap")
    for i, j in ((0, 2), (1, 0)):
        torch.testing.assert_close(again.member(i).tensors, members[j].tensors, rtol=0, atol=0)
        torch.testing.assert_close(again.member(i).slots, members[j].slots, rtol=0, atol=0)


def test_a_member_that_is_not_finite_is_named() -> None:
    stack = stack_of([nn.Linear(2, 1) for _ in range(3)], "vmap")
    with torch.no_grad():
        stack.network.parameters["bias"][1] = torch.nan
    assert stack.network.finite() == [True, False, True]


@pytest.mark.parametrize("strategy", ["vmap", "fused", "merged"])
def test_frozen_and_tied_parameters_stay_what_they_are(strategy: Strategy) -> None:
    def make() -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        net[2].weight.requires_grad_(False)
        return net

    modules = [seeded_module(make, seed) for seed in range(2)]
    stack = stack_of(modules, strategy)
    assert stack.state(1).keys() == modules[1].state_dict().keys()
    assert "2.weight" in stack.network.constants
    trained = ["0.weight", "0.bias", "1.bias", "2.bias"]
    assert list(stack.network.parameters) == trained  # the tied weight once
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(5))
    outputs = stack.network.forward(x)
    torch.testing.assert_close(outputs[1], modules[1](x[1]))
    outputs[1].square().sum().backward()
    modules[1](x[1]).square().sum().backward()
    grad = stack.network.parameters["0.weight"].grad
    assert grad is not None
    torch.testing.assert_close(grad[1], modules[1][0].weight.grad)  # of both of its uses


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return nn.Sequential(layer)


class FrozenNorm(nn.Module):
    """A network whose BatchNorm keeps its statistics in training too, as is done in fine-tuning."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x)
        return result


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), "Dropout"),
        (lambda: nn.Sequential(nn.LayerNorm(4)), "LayerNorm"),
        (lambda: nn.BatchNorm1d(4, track_running_stats=False), "BatchNorm1d"),
        (lambda: nn.Sequential(nn.BatchNorm1d(4, momentum=None)), "BatchNorm1d"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular")), "Conv2d"),
        (lambda: Lambda(lambda x: x * 2), "mul"),
        (lambda: Lambda(lambda x: torch.add(1.0, x)), "add"),
        (lambda: Lambda(lambda x: x if x.sum() > 0 else -x), "cannot be traced"),
        (lambda: nn.Bilinear(2, 2, 2), "several inputs|no stacked form"),
        (lambda: Lambda(lambda x: torch.add(x, x, alpha=0.5)), "add"),
        (lambda: Lambda(lambda x: torch.flatten(x, end_dim=1)), "flatten"),
        (lambda: Lambda(lambda x: torch.flatten(x, 2)), "flatten"),
        (lambda: Lambda(lambda x: x.flatten(1, 2)), "flatten"),
        (lambda: hooked(nn.ReLU()), "0 has hooks"),
        (lambda: hooked(nn.Sequential()), "0 has hooks"),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))), "computes its"),
        (FrozenNorm, "norm .* stays in eval mode"),
    ],
)
def test_what_cannot_be_fused_is_named(make: Any, what: str) -> None:
    with pytest.raises(NotFusableError, match=what):
        read_architecture(make())


def test_an_architecture_is_read_as_it_trains_and_left_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    assert read_architecture(net).modules["1"] is net[1]
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("flatten", [{"start_dim": 1}, {"start_dim": 1, "end_dim": -1}])
def test_flatten_is_read_by_the_names_of_its_arguments(flatten: dict[str, int]) -> None:
    modules: list[nn.Module] = [Lambda(lambda x: torch.flatten(x, **flatten)) for _ in range(2)]
    forward = fuse(read_architecture(modules[0]), {}, {}, 2)
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(forward(x), x.flatten(2), rtol=0, atol=0)


def test_linear_layers_over_rows_of_an_example_are_fused() -> None:
    modules = [
        seeded_module(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), seed) for seed in (0, 1)
    ]
    stack = stack_of(modules, "fused")
    x = torch.randn(2, 5, 2, 6, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([module(rows) for module, rows in zip(modules, x, strict=True)])
    torch.testing.assert_close(stack.network.forward(x), expected)


class Lambda(nn.Module):
    """A network that is one function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


@pytest.mark.parametrize(
    ("net", "trouble"),
    [
        (nn.Sequential(nn.Dropout(0.5)), "it draws random numbers"),
        (nn.Sequential(nn.BatchNorm1d(3, momentum=None)), "0 averages its statistics"),
    ],
)
def test_what_vmap_cannot_train_is_named(net: nn.Module, trouble: str) -> None:
    with pytest.raises(ValueError, match=trouble):
        choose_strategy("vmap", net, torch.zeros(1, 3), 2, 8)


def test_auto_fuses_small_networks_and_loops_over_the_rest() -> None:
    image = torch.zeros(1, 2, 4, 4)
    mlp = build_model(NETWORKS["mlp"], (2, 4, 4), 3, seed=0)
    huge = MAX_FUSED_PRODUCTS["linear"]
    assert choose_strategy("auto", mlp, image, 3, 64)[0] == "fused"
    assert choose_strategy("auto", mlp, image, 1, 64)[0] == "loop"
    assert choose_strategy("auto", mlp, image, 3, huge)[0] == "loop"
    assert choose_strategy("loop", mlp, image, 3, 64)[0] == "loop"
    assert choose_strategy("auto", nn.Dropout(0.5), image, 3, 64)[0] == "loop"


def test_auto_loops_where_the_outputs_of_a_layer_leave_the_cache() -> None:
    image = torch.zeros(1, 2, 4, 4)
    cnn = build_model(NETWORKS["cnn"], (2, 4, 4), 3, seed=0)
    assert largest_output_bytes(cnn, image) == 4 * 3 * 16  # conv 2->3 on 4x4, float32
    fits = (MAX_FUSED_BYTES - 1) // (4 * 3 * 16)
    assert choose_strategy("auto", cnn, image, 3, fits)[0] == "fused"
    assert choose_strategy("auto", cnn, image, 3, fits + 1)[0] == "loop"


def test_products_of_a_known_network() -> None:
    cnn = build_model(NETWORKS["cnn"], (2, 4, 4), 3, seed=0)
    # conv 2->3 on 4x4, conv 3->6 on 2x2, linear 6->3
    assert products(cnn, torch.zeros(1, 2, 4, 4)) == 16 * 2 * 3 * 9 + 4 * 3 * 6 * 9 + 6 * 3
    assert cnn.training


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"lr": 0.3, "weight_decay": 0.0}, True),
        ({"batch_size": 9}, False),
        ({"momentum": 0.5}, False),
        ({"model": NETWORKS["cnn"]}, False),
    ],
)
def test_which_trials_pack(changes: dict[str, Any], together: bool) -> None:
    a, b = make_trial(0), make_trial(1, **changes)
    assert packable(a, b) is together
    assert (pack_signature(a) == pack_signature(b)) is together
