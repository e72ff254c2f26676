"""Channels that change places: which may, that the function stays, and that they are found again."""

from dataclasses import asdict
from itertools import permutations
from typing import Any

import pytest
import torch
from point_support import Residual, generator, mlp, seeded
from torch import Tensor, nn

from phasegrid.declare import import_function
from phasegrid.errors import MetricError
from phasegrid.metrics.network.matching import aligned, match_weights
from phasegrid.metrics.network.permuting import channel_groups, permuted
from phasegrid.models import MODELS
from phasegrid.models.weights import parameters_vector

FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    ("mlp", {"width": 6, "depth": 3}, 3),
    ("small_cnn", {"width": 3}, 2),
    ("small_cnn", {"width": 3, "batch_norm": True}, 2),
    ("resnet18", {"width": 2}, 12),
    ("vgg11", {"width": 2}, 8),
    ("vgg16", {"width": 2}, 15),
    ("vgg16", {"width": 2, "batch_norm": True, "dropout": 0.0}, 15),
    ("conv3fc3", {"width": 7}, 5),
    ("lenet5", {}, 4),
    ("resnet_cifar", {"depth": 8, "width": 2}, 6),
    ("resnet_cifar", {"depth": 14, "width": 2, "shortcut": "none"}, 13),
    ("preresnet", {"depth": 11, "width": 2}, 10),
    ("preresnet", {"depth": 8, "width": 2, "block": "basic"}, 7),
    ("wide_resnet", {"depth": 10, "width": 1, "dropout": 0.1}, 6),
    ("torchvision", {"arch": "mobilenet_v3_small"}, 27),  # depthwise, products of channels
]
"""Families for images, with the number of groups: hidden layers, and one for each stream."""

CASES = pytest.mark.parametrize(("name", "args"), [case[:2] for case in FAMILIES])


def network(name: str, args: dict[str, Any], seed: int = 0) -> nn.Module:
    kind = MODELS[name]
    make = import_function(kind.make)
    given = asdict(kind.args(**args))
    return seeded(lambda: make((3, 32, 32), 4, **given), seed)  # type: ignore[arg-type, return-value]


def pictures(num: int = 3) -> Tensor:
    return torch.randn(num, 3, 32, 32, generator=generator(5), dtype=torch.float64)


def shuffled(module: nn.Module, inputs: Tensor, twin: nn.Module, seed: int = 3) -> nn.Module:
    """Give `twin` the weights of `module` with the channels of every group in a random order."""
    groups = channel_groups(module, inputs)
    rng = generator(seed)
    orders = [torch.randperm(size, generator=rng) for size in groups.sizes]
    twin.load_state_dict(permuted(module.state_dict(), groups, orders))
    return twin


def apart(one: nn.Module, other: nn.Module) -> float:
    return float((parameters_vector(one) - parameters_vector(other)).norm())


def test_every_family_for_images_is_among_the_cases() -> None:
    images = {name for name, kind in MODELS.items() if kind.takes == "classification"}
    assert images - {"vit"} == {name for name, _, _ in FAMILIES}  # whose attention is not followed


@pytest.mark.parametrize(("name", "args", "num"), FAMILIES)
def test_channels_in_another_order_compute_the_same(
    name: str, args: dict[str, Any], num: int
) -> None:
    module, inputs = network(name, args), pictures()
    twin = shuffled(module, inputs, network(name, args, 1))
    assert len(channel_groups(module, inputs).sizes) == num
    assert apart(module, twin) > 1e-2
    with torch.no_grad():
        torch.testing.assert_close(twin(inputs), module(inputs), rtol=1e-10, atol=1e-10)


@CASES
def test_a_copy_in_another_order_is_found_again(name: str, args: dict[str, Any]) -> None:
    module, inputs = network(name, args), pictures()
    twin = shuffled(module, inputs, network(name, args, 1))
    back, moved = aligned(twin, module, inputs, generator(0))
    assert apart(back, module) == 0
    assert 0 < moved <= 100
    for own, other in zip(back.buffers(), module.buffers(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(
    ("name", "args"), [case[:2] for case in FAMILIES[:-1]]
)  # the last: seconds
def test_alignment_lowers_the_distance_step_by_step_and_keeps_the_function(
    name: str, args: dict[str, Any]
) -> None:
    one, other, inputs = network(name, args), network(name, args, 1), pictures()
    back, _ = aligned(other, one, inputs, generator(0))
    with torch.no_grad():
        torch.testing.assert_close(back(inputs), other(inputs), rtol=1e-10, atol=1e-10)
    found = match_weights(
        dict(one.named_parameters()),
        dict(other.named_parameters()),
        channel_groups(one, inputs),
        generator(0),
    )
    assert list(found.objective) == sorted(found.objective)
    # |a - Pb|^2 = |a|^2 + |b|^2 - 2 <a, Pb>, and nothing but the last term changes
    gained = apart(one, other) ** 2 - apart(one, back) ** 2
    a, b, placed = (parameters_vector(each) for each in (one, other, back))
    assert gained == pytest.approx(2 * float(a @ placed - a @ b), abs=1e-8)
    assert gained >= 0


def test_one_hidden_layer_is_matched_as_by_trying_every_order() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))

    one, other = seeded(make), seeded(make, 1)
    inputs = torch.randn(4, 3, generator=generator(0), dtype=torch.float64)
    groups = channel_groups(one, inputs)
    least = min(
        sum(
            float((a - b).square().sum())
            for a, b in zip(
                one.state_dict().values(),
                permuted(other.state_dict(), groups, [torch.tensor(order)]).values(),
                strict=True,
            )
        )
        for order in permutations(range(5))
    )
    back, _ = aligned(other, one, inputs, generator(0))
    assert apart(back, one) ** 2 == pytest.approx(least, rel=1e-12)


def test_the_same_generator_gives_the_same_order() -> None:
    one, other = network("vgg11", {"width": 2}), network("vgg11", {"width": 2}, 1)
    twice = [aligned(other, one, pictures(), generator(7))[0] for _ in range(2)]
    assert apart(*twice) == 0


class Written(nn.Module):
    """A network as users write them: functions, a residual sum, a view, a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.each = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.mixed = nn.Sequential(nn.Linear(24, 20), nn.LayerNorm(20))
        self.norm = nn.GroupNorm(1, 6)
        for layer in (self.norm, self.mixed[1]):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
        self.twice = nn.Linear(20, 20)
        self.head = nn.Linear(20, 3)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.each(self.first(x))))
        y = self.second(x)
        y += self.scale * x
        y = nn.functional.avg_pool2d(nn.functional.relu(y), 3).view(x.size(0), -1)
        y = self.twice(torch.relu(self.twice(self.mixed(y))))
        return self.head(y)


def test_a_users_network_is_followed_through_its_code() -> None:
    module = seeded(Written)
    inputs = torch.randn(3, 2, 6, 6, generator=generator(1), dtype=torch.float64)
    groups = channel_groups(module, inputs)
    # all convolutions are joined by the depthwise one and the sum; `twice` has one group on both
    # sides, as it reads its own outputs
    assert groups.sizes == (6, 20)
    assert [axis.inner for axis in groups.axes["mixed.0.weight"]] == [4, 1]
    assert "scale" not in groups.axes
    twin = shuffled(module, inputs, seeded(Written, 1))
    with torch.no_grad():
        torch.testing.assert_close(twin(inputs), module(inputs), rtol=1e-10, atol=1e-10)
    assert apart(aligned(twin, module, inputs, generator(0))[0], module) == 0


class Concatenates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.one(x), x], 1))


class Repeats(nn.Module):
    """Reads a flattened value and a value of features by one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv1d(2, 2, 1), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.two(self.one(x).flatten(1))))


class Places(nn.Module):
    """Adds a number to each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.added = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x) + self.added)


class Mixes(nn.Module):
    """Adds values of which one is flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 2, 1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(x.flatten(1)) + self.one(x).flatten(1)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), x


def hooked() -> nn.Module:
    module = mlp()
    module[2].register_forward_pre_hook(lambda _, args: (args[0].cumsum(1),))
    return module


REFUSED = [
    (Concatenates, (4,), "at cat of Concatenates: found an argument that is not a value"),
    (Repeats, (2, 4), "at two of Repeats: found one weight for values with different channels"),
    (Places, (4,), "at add of Places: found a tensor without known channels"),
    (Mixes, (2, 4), "at add of Mixes: found values with different channels"),
    (Two, (4,), "the output is not one value with channels"),
    (Residual, (2, 6, 6), r"at flatten of Residual: found a change of shape from \(2, 3, 3, 3\)"),
    (lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 3)), (4,), "at 1 .* GLU"),
    (lambda: nn.Sequential(nn.Linear(4, 3)), (5, 4), "a value of 3 dimensions"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), (4,), "Softmax.*use align: none"),
    (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4)), (2, 4), "GroupNorm"),
    (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.LayerNorm(4)), (2, 4), "LayerNorm"),
    (hooked, (4,), "at 2 of Sequential: found Linear"),
]


@pytest.mark.parametrize(("make", "shape", "match"), REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(
    make: Any, shape: tuple[int, ...], match: str
) -> None:
    inputs = torch.randn(3, *shape, generator=generator(1), dtype=torch.float64)
    with pytest.raises(MetricError, match=match):
        channel_groups(seeded(make), inputs)


class Peeks(nn.Module):
    """Multiplies by a number of its first channel, which its graph shows as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.one(x))) * float(self.norm.running_mean[0])


def test_code_that_reads_the_order_of_channels_is_found_by_its_outputs() -> None:
    module = seeded(Peeks)
    inputs = torch.randn(4, 4, generator=generator(1), dtype=torch.float64)
    twin = shuffled(module, inputs, seeded(Peeks, 1))
    with pytest.raises(MetricError, match=r"Peeks .* computes another function"):
        aligned(twin, module, inputs, generator(0))


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) if x.sum() > 0 else self.one(-x)

    with pytest.raises(MetricError, match="Branches cannot be traced"):
        channel_groups(seeded(Branches), torch.ones(2, 4, dtype=torch.float64))


def test_networks_of_two_shapes_are_not_matched() -> None:
    inputs = torch.ones(2, 4, dtype=torch.float64)
    with pytest.raises(MetricError, match="same architecture"):
        aligned(seeded(mlp), seeded(lambda: mlp(width=6)), inputs, generator(0))
