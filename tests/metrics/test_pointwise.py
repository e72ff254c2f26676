"""Fused convolutions, sums and ReLUs compute what the layers compute, and overwrite nothing that is
needed.
"""

from collections.abc import Callable

import pytest
import torch
from point_support import Residual, generator, images, seeded
from torch import Tensor, nn
from torch.nn.functional import relu

from phasegrid.metrics.network import pointwise
from phasegrid.metrics.network.pointwise import Fused
from phasegrid.metrics.slice.evaluation import MovingNetwork, make_examples
from phasegrid.models import resnet
from phasegrid.tasks.scoring import CLASSIFICATION


def unit(channels: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, 4, 3, padding=1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(4))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.head = unit(2), unit(4), unit(4), nn.Linear(4, 3)

    def out(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x.mean(dim=(2, 3)))
        return found


class Dense(Base):
    """A sum whose other term is needed again."""

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.one(x))
        z = relu(self.two(y) + y)
        return self.out(self.three(z) + y)


class Broadcast(Base):
    """A sum of an image and a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.one(x))
        pixel = self.two(y.mean(dim=(2, 3), keepdim=True))
        return self.out(torch.relu(torch.add(self.three(y), pixel)))


class OfInputs(Base):
    """A sum with the examples themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (
            nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)),
            unit(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.two(relu(x + self.one(x))))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "residual": (Residual, 1),
    "resnet18": (lambda: resnet.make((2, 6, 6), 3, width=4), 17),
    "dense": (Dense, 1),
    "broadcast": (Broadcast, 2),
    "of inputs": (OfInputs, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_layers_compute_the_same(name: str) -> None:
    make, fused = NETWORKS[name]
    module = seeded(make).float()
    inputs, labels = images(12)
    inputs = inputs.float()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var.uniform_(0.5, 2.0, generator=generator(1))
    network = MovingNetwork(module)
    assert sum(isinstance(layer, Fused) for layer in network._network.modules()) >= fused
    examples = make_examples(network, inputs, labels, CLASSIFICATION)
    before = inputs.clone()
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(module.eval()(inputs), labels, reduction="none")
    for _ in range(2):
        torch.testing.assert_close(network.each(examples)[0].float(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(inputs, before)


def test_in_other_precisions_layers_stay_apart() -> None:
    module = seeded(Residual)
    for network in (MovingNetwork(module), MovingNetwork(module.float(), precision="bf16")):
        assert not any(isinstance(layer, Fused) for layer in network._network.modules())


def none_such(*_args: object) -> Tensor:
    raise AttributeError("there is no such operation")


def half(_self: Fused, x: Tensor, y: Tensor | None = None) -> Tensor:
    return 0.5 * (x[:, :1, :3, :3] if y is None else y)


@pytest.mark.parametrize("wrong", [none_such, half])
def test_kernels_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[..., Tensor]
) -> None:
    right = pointwise._kernels_are_right.__wrapped__
    assert right()
    monkeypatch.setattr(Fused, "forward", wrong)
    assert not right()
