"""Second derivatives are not taken on trust: networks whose kernels have none, or wrong ones,
against differences of gradients.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from point_support import dataset, generator, mlp, seeded
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils.parametrizations import weight_norm

from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.compute import compute
from phasegrid.metrics.hessian.lanczos import AsymmetryError, lanczos
from phasegrid.metrics.hessian.operator import METHODS, HessianOperator, Method
from phasegrid.metrics.hessian.preparing import draw_examples
from phasegrid.metrics.slice.compute import compute as slice_compute

CPU = torch.device("cpu")


def blobs(num: int = 97) -> tuple[Tensor, Tensor]:
    """Draw points around three centres in eight dimensions, and standardise them."""
    centres = np.random.default_rng(42).normal(size=(3, 8)) * 1.2
    labels = np.random.default_rng(1).integers(0, 3, num)
    labels[:3] = range(3)
    inputs = centres[labels] + np.random.default_rng(2).normal(size=(num, 8))
    inputs = inputs.astype(np.float32)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def built(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().eval()


def measure(module: nn.Module, num: int = 64, **args: Any) -> dict[str, Any]:
    row: dict[str, Any] = compute([module], dataset(*blobs()), generator(0), examples=num, **args)
    return row


def differences(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the Hessian by central differences of the gradient in float64, right to 1e-8: first
    derivatives alone.
    """
    module = copy.deepcopy(module).double()
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for p in parameters:
        for place in range(p.numel()):
            sides = []
            for step in (1e-5, -1e-5):
                old = float(p.data.view(-1)[place])
                p.data.view(-1)[place] = old + step
                loss = cross_entropy(module(inputs.double()), labels)
                found = torch.autograd.grad(loss, parameters)
                sides.append(torch.cat([g.reshape(-1) for g in found]))
                p.data.view(-1)[place] = old
            rows.append((sides[0] - sides[1]) / 2e-5)
    return torch.stack(rows)


def check_row(module: nn.Module, method: str) -> None:
    """Compare the row of a network with the eigenvalues of its dense Hessian."""
    inputs, labels = draw_examples(dataset(*blobs()), 16, 0)
    values = torch.linalg.eigvalsh(differences(module, inputs, labels))
    row = measure(module, 16)
    assert row["hvp_method"] == method
    assert row["lambda_max"] == pytest.approx(float(values[-1]), rel=2e-3)
    assert row["lambda_min"] == pytest.approx(float(values[0]), rel=2e-3)
    assert abs(row["trace"] - float(values.sum())) < 4 * row["trace_stderr"] + 1e-5


# --- weight norm, whose second derivative in torch is not symmetric


def normed_linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(8, 4)), nn.ReLU(), nn.Linear(4, 3))


def normed_columns() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(8, 4), dim=1), nn.Tanh(), nn.Linear(4, 3))


def normed_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), weight_norm(nn.Conv2d(1, 3, 2)), nn.ReLU(), nn.Flatten(),
        nn.Linear(9, 3),
    )  # fmt: skip


class Written(nn.Module):
    """weight_norm(Linear) by operations: g v / |v|, row by row."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.bias = nn.Parameter(like.bias.detach().clone())
        self.g = nn.Parameter(like.parametrizations.weight.original0.detach().clone())
        self.v = nn.Parameter(like.parametrizations.weight.original1.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.g * self.v / self.v.norm(dim=1, keepdim=True)
        return nn.functional.linear(x, weight, self.bias)


@pytest.mark.parametrize("make", [normed_linear, normed_columns, normed_convolution])
def test_weight_norm_has_the_eigenvalues_of_its_hessian(make: Callable[[], nn.Module]) -> None:
    check_row(built(make, 3), "reference")


def test_weight_norm_has_the_row_of_the_network_written_out() -> None:
    normed = built(normed_linear, 3)
    written = nn.Sequential(nn.Flatten(), Written(normed[1]), nn.ReLU(), copy.deepcopy(normed[3]))
    row, expected = measure(normed), measure(written.eval())
    # By central differences, beforehand: -0.40156, 0.45691, 0.54921.
    assert row["lambda_min"] == pytest.approx(-0.40156, abs=1e-5)
    assert row["lambda_max"] == pytest.approx(0.45691, abs=1e-5)
    assert abs(row["trace"] - 0.54921) < 4 * row["trace_stderr"]
    # The same draws as those of a network that needs no second try.
    assert row["trace"] == pytest.approx(expected["trace"], rel=1e-5)
    assert (row["hvp_method"], expected["hvp_method"]) == ("reference", "double_backward")


# --- attention, whose fused kernels have no second derivative


class Encoder(nn.Module):
    """A transformer layer over the eight numbers of an example."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.e = nn.Linear(1, 8)
        self.l = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.o = nn.Linear(8, 3)
        self.l.self_attn.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.o(self.l(self.e(x.unsqueeze(2))).mean(1))
        return y


class Heads(nn.Module):
    """Multi-head attention, with or without its weights as output."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(2, 4), nn.Linear(4, 3)
        self.attention, self.need = nn.MultiheadAttention(4, 2, batch_first=True), need_weights

    def forward(self, x: Tensor) -> Tensor:
        h = self.e(x.view(len(x), 4, 2))
        y: Tensor = self.o(self.attention(h, h, h, need_weights=self.need)[0].mean(1))
        return y


class Bare(nn.Module):
    """Attention as a function, causal."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(2, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.e(x.view(len(x), 1, 4, 2)).chunk(3, dim=-1)
        y: Tensor = self.o(scaled_dot_product_attention(q, k, v, is_causal=True).mean((1, 2)))
        return y


@pytest.mark.parametrize(
    "make", [lambda: Heads(need_weights=False), lambda: Heads(need_weights=True), Bare]
)
def test_attention_has_the_eigenvalues_of_its_hessian(make: Callable[[], nn.Module]) -> None:
    check_row(built(make, 0), "double_backward")


def test_a_transformer_layer_has_a_hessian() -> None:
    row = measure(built(Encoder, 0))
    assert row["lambda_max"] == pytest.approx(3.1905, abs=1e-4)
    assert abs(row["trace"] - 1.02) < 3 * 0.64
    assert row["hvp_method"] == "double_backward"


def test_a_transformer_layer_with_frozen_attention_has_a_hessian() -> None:
    module = built(lambda: Encoder(frozen=True), 0)
    inputs, labels = (part[:8] for part in blobs())
    H, right = HessianOperator(module, inputs, labels), differences(module, inputs, labels)
    v = torch.randn(H.size, generator=generator(0))
    torch.testing.assert_close(H(v).double(), right @ v.double(), rtol=1e-4, atol=1e-4)


def test_slices_along_eigenvectors_go_through_attention() -> None:
    module = built(Encoder, 0)
    row: Any = slice_compute(
        [module], dataset(*blobs()), generator(0), directions="hessian", dimensions=1, points=3, examples=64
    )  # fmt: skip
    assert row["hvp_method"] == "double_backward"
    assert row["eigenvalues"][0] == pytest.approx(3.1905, abs=1e-3)


# --- kernels of the user's own


class Square(torch.autograd.Function):
    """x^2 with a backward pass that is right and cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found: Tensor = 2 * x * gradient
        return found


class Normalise(torch.autograd.Function):
    """x / |x| with a backward pass that is right and takes |x| for a constant when it is
    differentiated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x / x.norm(dim=1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        norm = x.detach().norm(dim=1, keepdim=True)
        found: Tensor = gradient / norm - x * (x * gradient).sum(1, keepdim=True) / norm**3
        return found


class OtherGradient(Square):
    """x^2 with a backward pass that is not its derivative, nor that of anything."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found: Tensor = (2 * x + x.roll(1, dims=1)) * gradient
        return found


class Squaring(nn.Module):
    def __init__(self, function: Any, unless: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.a, self.b, self.function, self.unless = (
            nn.Linear(8, 3),
            nn.Linear(3, 3),
            function,
            unless,
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        y: Tensor = self.b(h * h if self.unless() else self.function.apply(h))
        return y


@pytest.mark.parametrize("function", [Square, Normalise])
def test_without_right_second_derivatives_first_ones_do(function: Any) -> None:
    check_row(built(lambda: Squaring(function), 0), "differences")


def test_a_kernel_without_second_derivatives_is_left_out_where_it_can_be() -> None:
    # As cuDNN's recurrent layers are on a GPU.
    module = built(lambda: Squaring(Square, lambda: not torch.backends.cudnn.enabled), 0)
    check_row(module, "reference")
    assert torch.backends.cudnn.enabled


def test_a_gradient_of_no_loss_is_an_error_that_says_so() -> None:
    module = built(lambda: Squaring(OtherGradient), 0)
    with pytest.raises(MetricError, match="no method gives Squaring a symmetric matrix") as caught:
        measure(module)
    assert all(method in str(caught.value) for method in METHODS)


class Faulty(nn.Module):
    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self.a, self.fault = nn.Linear(8, 3), fault

    def forward(self, _x: Tensor) -> Tensor:
        raise self.fault


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("mat1 and mat2"), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")],
)  # fmt: skip
def test_what_no_method_would_mend_is_raised_as_it_is(fault: Exception) -> None:
    with pytest.raises(type(fault)) as caught:
        measure(Faulty(fault))
    assert str(caught.value) == str(fault)  # of a copy of the network


# --- the check and the methods


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_products_of_the_dense_hessian(method: Method) -> None:
    module = seeded(lambda: mlp(nn.Tanh))
    rng = generator(3)
    inputs = torch.randn(12, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 3, (12,), generator=rng)
    right = differences(module, inputs, labels)
    before = [p.detach().clone() for p in module.parameters()]
    for memory_bytes in (None, 1):
        H = HessianOperator(module, inputs, labels, memory_bytes, method=method)
        v = 30 * torch.randn(H.size, generator=generator(0), dtype=torch.float64)
        # Differences with steps of 1e-8 in float64 leave 1e-8 of the gradient.
        torch.testing.assert_close(H(v), right @ v, rtol=1e-5, atol=1e-5)
        assert not H(torch.zeros_like(v)).any()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("size", [2, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_that_is_not_symmetric_is_noticed(size: int, dtype: torch.dtype) -> None:
    drawn = torch.randn(size, size, generator=generator(0), dtype=torch.float64)
    even, odd = (drawn + drawn.t()) / 2, (drawn - drawn.t()) / 2

    def run(share: float) -> None:
        H = (even + share * odd).to(dtype)
        rng = generator(1)
        lanczos(lambda v: H @ v, rademacher(size, rng, dtype, CPU), 20, rng)

    run(0.0)
    run(1e-7)  # as rounding in float32 leaves it
    for share in (1e-2, 1.0):
        with pytest.raises(AsymmetryError, match="of the norm of H"):
            run(share)


def test_the_check_scales_with_the_matrix() -> None:
    H = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    for factor in (1e-30, 1.0, 1e30):
        with pytest.raises(AsymmetryError):
            lanczos(lambda v, factor=factor: factor * (H @ v), torch.tensor([1.0, 0.0]).double(), 2, generator(0))  # fmt: skip
