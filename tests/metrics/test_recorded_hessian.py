"""Laws of Hessians on a GPU, as far as a CPU can tell: recorded products are the products, nothing
waits for the device where it need not, and every step of Lanczos gives what it gave.
"""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from point_support import dataset, decaying, generator, symmetric
from recording_support import counting_waits, recording_here
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Part
from phasegrid.metrics.hessian import HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.compute import compute
from phasegrid.metrics.hessian.convolutions import convolve
from phasegrid.metrics.hessian.lanczos import LanczosRun, Spectrum, short_lanczos
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.metrics.hessian.trace import deflated_hutchinson, ggn_trace
from phasegrid.models.build import build_model
from phasegrid.train.precision import tensor_float_32

CPU = torch.device("cpu")
PARTS = {
    "mlp": (Part("mlp", 1, {"width": 6, "depth": 2, "activation": "relu"}), (5,)),
    "smooth": (Part("mlp", 1, {"width": 6, "depth": 2, "activation": "tanh"}), (5,)),
    "resnet18": (Part("resnet18", 1, {"width": 1}), (3, 8, 8)),
}


def network(name: str) -> tuple[nn.Module, Dataset]:
    part, shape = PARTS[name]
    rng = generator(3)
    inputs = torch.randn(24, *shape, generator=rng)
    labels = torch.randint(0, 3, (24,), generator=rng)
    data = dataset(inputs, labels)
    return build_model(part, shape, 3, seed=1).eval(), data


def row_of(name: str, **args: Any) -> dict[str, Any]:
    module, data = network(name)
    settings = {**asdict(HessianArgs(steps=6, trace_probes=5, density_probes=2)), **args}
    return compute([module], data, generator(7), **settings)  # type: ignore[return-value]


@pytest.mark.parametrize("name", list(PARTS))
def test_a_row_of_replayed_products_is_the_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = row_of(name)
    with recording_here(monkeypatch) as recordings:
        assert row_of(name) == launched
    assert recordings.made == 1
    assert recordings.replayed > 10


def low_rank() -> Tensor:
    half = torch.randn(60, 4, generator=generator(2), dtype=torch.float64)
    return half @ half.t()


MATRICES = {
    "decaying": symmetric(decaying(60)),
    "of low rank": low_rank(),
    "the identity": torch.eye(60, dtype=torch.float64),
    "zero": torch.zeros(60, 60, dtype=torch.float64),
}


def spectrum_of(H: Tensor, ahead: int, dtype: torch.dtype) -> tuple[Spectrum, Spectrum]:
    H, rng = H.to(dtype), generator(1)
    run = LanczosRun(lambda v: H @ v, rademacher(60, rng, dtype, CPU), 7, rng, ahead)
    first = run.advance(20, 40, lambda spectrum: spectrum.knows_largest(1e-6))
    return first, run.advance(50, 60, lambda spectrum: spectrum.knows_smallest(1e-3))


def same(a: Spectrum, b: Spectrum) -> bool:
    pairs = [
        (a.ritz_values, b.ritz_values),
        (a.weights, b.weights),
        (a.residuals, b.residuals),
        (a.coefficients, b.coefficients),
        *zip(a.basis, b.basis, strict=True),
    ]
    return all(torch.equal(x, y) for x, y in pairs) and a.complete == b.complete


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(MATRICES))
def test_a_run_that_reads_later_gives_what_it_gives_by_reading_every_step(
    name: str, dtype: torch.dtype
) -> None:
    H = MATRICES[name]
    for ahead in (2, 8, 100):
        for found, expected in zip(
            spectrum_of(H, ahead, dtype), spectrum_of(H, 1, dtype), strict=True
        ):
            assert same(found, expected)
        start = rademacher(60, generator(5), dtype, CPU)
        short = [short_lanczos(lambda v: H.to(dtype) @ v, start, 15, n) for n in (1, ahead)]
        assert same(*short)


def test_products_that_are_not_symmetric_are_noticed_by_a_run_that_reads_later() -> None:
    from phasegrid.metrics.hessian.lanczos import AsymmetryError

    H = symmetric(decaying(60)) + torch.triu(torch.ones(60, 60, dtype=torch.float64)) * 0.1
    for ahead in (1, 8):
        with pytest.raises(AsymmetryError, match="differ by"):
            spectrum_of(H, ahead, torch.float64)


def test_lanczos_waits_for_the_device_once_in_eight_steps() -> None:
    H, rng = symmetric(decaying(60)), generator(1)
    run = LanczosRun(lambda v: H @ v, rademacher(60, rng, torch.float64, CPU), 40, rng, 8)
    with counting_waits() as waits:
        run._go_on(8)
    assert waits.found == ["tolist"]
    start = rademacher(60, generator(5), torch.float64, CPU)
    with counting_waits() as waits:
        short_lanczos(lambda v: H @ v, start, 8, 8)
    assert waits.found == ["tolist"]


def test_an_estimated_trace_waits_once_for_all_its_probes() -> None:
    H, rng = symmetric(decaying(60)), generator(1)
    run = LanczosRun(lambda v: H @ v, rademacher(60, rng, torch.float64, CPU), 10, rng)
    spectrum = run.advance(10, 10, lambda _: True)
    found = []
    for probes in (3, 9):
        with counting_waits() as waits:
            deflated_hutchinson(lambda v: H @ v, spectrum, probes, rng)
        found.append(len(waits.found))
    assert found[0] == found[1]


def test_an_exact_trace_waits_once_a_chunk() -> None:
    module, data = network("resnet18")
    with counting_waits() as waits:
        ggn_trace(module, data.train_inputs)
    assert waits.found == ["tolist"]


def test_a_product_waits_for_nothing() -> None:
    module, data = network("resnet18")
    H = HessianOperator(module, data.train_inputs, data.train_labels)
    v = torch.randn(H.size, generator=generator(0))
    with counting_waits() as waits:
        H(v)
    assert not waits.found


LAYERS = {
    "plain": (8, 5, 3, {}),
    "strided": (8, 6, 3, {"stride": 2, "padding": 1}),
    "pointwise": (8, 4, 1, {"stride": (2, 1)}),
    "dilated": (8, 4, 3, {"dilation": 2, "padding": (2, 1)}),
    "grouped": (8, 4, 3, {"groups": 4, "padding": 1}),
    "by name": (8, 4, 3, {"padding": "same"}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_convolution_has_torchs_derivatives_of_any_order(name: str, bias: bool) -> None:
    wide, out, kernel, how = LAYERS[name]
    groups = how.get("groups", 1)
    rng = generator(0)
    shapes = [(2, wide, 7, 6), (out, wide // groups, kernel, kernel), (out,)]
    drawn = [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes[: 2 + bias]]
    vectors = [torch.randn(s.shape, generator=rng, dtype=torch.float64) for s in drawn]
    found: list[list[Tensor]] = []
    for convolution in (convolve, torch.conv2d):
        leaves = [value.clone().requires_grad_() for value in drawn]
        loss = convolution(*leaves, **how).tanh().square().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(first, leaves, vectors)
        found.append([loss, *first, *second])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_frozen_kernel_leaves_its_part_out() -> None:
    x = torch.randn(2, 8, 5, 5, generator=generator(0), dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 8, 3, 3, generator=generator(1), dtype=torch.float64)
    found = []
    for convolution in (convolve, torch.conv2d):
        (first,) = torch.autograd.grad(convolution(x, kernel).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_neither_tf32_nor_bf16_around_it_reaches_a_hessian() -> None:
    plain = row_of("resnet18")
    allowed: list[bool] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
            allowed.append(products.allow_tf32 or convolutions.allow_tf32)
            return x

    module, data = network("mlp")
    args = asdict(HessianArgs(steps=4, batch_norm="refreshed"))
    with tensor_float_32(True), torch.autocast("cpu", dtype=torch.bfloat16):
        assert row_of("resnet18") == plain
        compute([nn.Sequential(Watching(), module, Watching())], data, generator(0), **args)
    assert allowed
    assert not any(allowed)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(PARTS))
def test_a_recorded_hessian_is_the_launched_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = network(name)
    module, device = module.cuda(), torch.device("cuda")
    inputs, labels = data.train_inputs.to(device), data.train_labels.to(device)
    vectors = torch.randn(8, sum(p.numel() for p in module.parameters()), device=device)
    recorded = HessianOperator(module, inputs, labels)
    monkeypatch.setattr("phasegrid.metrics.network.recording.recorder_on", lambda _: None)
    launched = HessianOperator(module, inputs, labels)
    for v in vectors:  # the first ones warm up
        torch.testing.assert_close(recorded(v), launched(v), rtol=1e-4, atol=1e-5)
    assert recorded._product._recorder is not None
    assert recorded._product._recorder._recorded
