"""The trace without an error is taken only where the network itself shows that the formula
holds.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracles import dense_hessian
from point_support import cnn, dataset, generator, images, mlp, seeded
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from phasegrid.metrics.hessian.compute import compute
from phasegrid.metrics.hessian.exact_trace import (
    exact_trace,
    is_affine_in_each_tensor,
    layers_give_the_gradients,
)
from phasegrid.metrics.hessian.piecewise import is_piecewise_linear
from phasegrid.metrics.hessian.trace import RowsError, ggn_trace
from phasegrid.metrics.network.folding import fold_batch_norm


def flat_inputs(num: int = 12) -> tuple[Tensor, Tensor]:
    rng = generator(3)
    inputs = torch.randn(num, 4, generator=rng, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (num,), generator=rng)


def check_row(module: nn.Module, inputs: Tensor, labels: Tensor, method: str) -> None:
    """Compare trace and eigenvalue of a row with the dense Hessian's: to rounding where exact, else
    within the error.
    """
    H = dense_hessian(module, inputs, labels)
    row: Any = compute([module], dataset(inputs, labels), generator(0), examples=len(labels), steps=6)  # fmt: skip
    assert row["trace_method"] == method
    within = 4 * row["trace_stderr"] if method != "exact_ggn" else 0.0
    assert abs(row["trace"] - float(H.trace())) <= within + 1e-9 * abs(float(H.trace()))
    assert row["lambda_max"] == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=2e-3)


def _output_hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda _layer, _args, out: 0.3 * out**2)


def _input_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda _layer, args: (args[0] ** 2,))


def _own_forward(module: nn.Module) -> None:
    module.forward = types.MethodType(
        lambda self, x: 0.3 * type(self).forward(self, x) ** 2, module
    )


HOOKS = {"output": _output_hook, "input": _input_hook, "forward": _own_forward}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("make", [mlp, cnn])
def test_what_hooks_of_the_root_do_is_in_every_number(make: Any, hook: str) -> None:
    module = seeded(make)
    HOOKS[hook](module)
    inputs, labels = flat_inputs() if make is mlp else images(12)
    assert fold_batch_norm(module) is module
    check_row(module, inputs, labels, "hutchinson_deflated")


@pytest.fixture
def squared_logits() -> Iterator[None]:
    """Square what every layer of three outputs gives, by a hook that no network carries."""
    handle = register_module_forward_hook(
        lambda layer, _args, out: out**2 if getattr(layer, "out_features", 0) == 3 else None
    )
    yield
    handle.remove()


@pytest.mark.usefixtures("squared_logits")
def test_code_that_the_list_cannot_see_is_found_by_trying() -> None:
    module, (inputs, labels) = seeded(mlp), flat_inputs()
    assert is_piecewise_linear(module)
    assert exact_trace(module, inputs) is None
    check_row(module, inputs, labels, "hutchinson_deflated")


class _Patches(nn.Module):
    """Linear layers on the rows of a map, as rows of a matrix."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.a(x.reshape(-1, 2))))
        y: Tensor = self.b(h.reshape(-1, 6))
        return y


class _Tiles(nn.Module):
    """A convolution on the halves of an image, as images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x.reshape(-1, 2, 3, 6))).mean((2, 3))
        y: Tensor = self.b(h.reshape(-1, 6))
        return y


def test_rows_of_an_example_that_follow_one_another_keep_the_exact_trace() -> None:
    check_row(seeded(_Patches), *flat_inputs(), "exact_ggn")


def test_rows_of_other_layers_get_an_estimate() -> None:
    normed = seeded(lambda: _Patches(norm=True))
    with pytest.raises(RowsError, match="layer 'norm' is given 2 rows for 1 examples"):
        ggn_trace(normed, flat_inputs()[0])
    check_row(normed, *flat_inputs(), "hutchinson_deflated")
    check_row(seeded(_Tiles), *images(12), "hutchinson_deflated")


class _Turned(nn.Module):
    """The rows of all examples in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x.view(len(x), 2, 2).transpose(0, 1).reshape(-1, 2)))
        y: Tensor = self.b(h.view(2, len(x), 2).transpose(0, 1).reshape(len(x), 4))
        return y


class _Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        y: Tensor = self.b(torch.relu(h - h.mean(0, keepdim=True)))
        return y


@pytest.mark.parametrize("make", [_Turned, _Centred])
def test_rows_that_belong_to_other_examples_are_found(make: Callable[[], nn.Module]) -> None:
    inputs = flat_inputs()[0][:2]
    assert not layers_give_the_gradients(seeded(make), inputs, generator(0))
    assert layers_give_the_gradients(seeded(mlp), inputs, generator(0))
    assert layers_give_the_gradients(seeded(cnn), images(2)[0], generator(0))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus, nn.Hardswish])
def test_smooth_units_are_not_affine(activation: Callable[[], nn.Module]) -> None:
    inputs = flat_inputs()[0][:2]
    for dtype in (torch.float32, torch.float64):
        smooth, plain = (seeded(lambda: mlp(a)).to(dtype) for a in (activation, nn.LeakyReLU))  # noqa: B023
        assert not is_affine_in_each_tensor(smooth, inputs.to(dtype), generator(0))
        assert is_affine_in_each_tensor(plain, inputs.to(dtype), generator(0))


def test_trying_changes_nothing() -> None:
    module, (inputs, _) = seeded(cnn), images(5)
    module[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.random.get_rng_state()
    found = exact_trace(module, inputs)
    assert found is not None
    assert found.trace == sum(ggn_trace(module, inputs).values())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert [p.requires_grad for p in module.parameters()][:2] == [True, False]


def test_one_example_is_enough() -> None:
    module, (inputs, labels) = seeded(mlp), flat_inputs(1)
    check_row(module, inputs, labels, "exact_ggn")
