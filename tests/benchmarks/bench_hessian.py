"""One Hessian pass against PyHessian's three calls on ResNet18 of width 8, 200 images of 32x32.

PyHessian 0.1 (``pip install pyhessian==0.1``) at its defaults: eigenvalues(), trace(), density().
Its density() calls a function that torch has removed, so `torch.eig` is put back for the call;
where the package is not installed, the transcriptions of tests/oracles.py stand in for it on a
graph that is kept, and the line says so. Times are CPU seconds of one thread: other work on the
machine matters little.
"""

import copy
import time
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Metric
from phasegrid.metrics.hessian import HESSIAN, HessianArgs
from phasegrid.metrics.hessian.basis import rademacher
from phasegrid.metrics.hessian.compute import compute
from phasegrid.metrics.hessian.lanczos import lanczos
from phasegrid.metrics.hessian.operator import HessianOperator
from phasegrid.models.resnet import make
from phasegrid.models.weights import refresh_batch_norm
from tests.oracles import hutchinson, lanczos_quadrature, power_iteration

T = TypeVar("T")

EXAMPLES, UPDATES = 200, 30


@dataclass(frozen=True, slots=True)
class Peer:
    """What the peer found, and what each call took."""

    name: str
    lambda_max: float
    trace: float
    seconds: dict[str, float]


def main() -> list[str]:
    torch.set_num_threads(1)
    module, inputs, labels = _trained()
    rng = torch.Generator().manual_seed(0)
    row, ours_s = _timed(
        lambda: compute([module], _dataset(inputs, labels), rng, **_defaults(HESSIAN))
    )
    warnings.simplefilter("ignore")
    peer = _peer(module, inputs, labels)
    lambda_max, trace = _truth(module, inputs, labels)
    peer_s = sum(peer.seconds.values())
    calls = ", ".join(f"{name} {s / ours_s:.2f}" for name, s in peer.seconds.items())
    return [
        (
            f"hessian_pass_resnet18_w8_200: {peer_s / ours_s:.1f}x vs {peer.name}, three calls (of"
            f" our time: {calls}); ours {ours_s:.1f} CPU seconds, {row['num_hvps']} products"
        ),
        (
            "hessian_pass_resnet18_w8_200 lambda_max relative error: ours"
            f" {_off(row['lambda_max'], lambda_max):.1e}, {peer.name}"
            f" {_off(peer.lambda_max, lambda_max):.1e}"
        ),
        (
            "hessian_pass_resnet18_w8_200 trace relative error: ours"
            f" {_off(row['trace'], trace):.1e} ({row['trace_method']}), {peer.name}"
            f" {_off(peer.trace, trace):.1e}"
        ),
        _one_product(module, inputs, labels),
    ]


def _one_product(module: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Compare single products in turns, graph kept in both."""
    H = HessianOperator(copy.deepcopy(module), inputs, labels)
    plain = _kept_graph(module, inputs, labels)
    v = rademacher(H.size, torch.Generator().manual_seed(0), torch.float32, inputs.device)
    ours, theirs = [], []
    for _ in range(7):
        ours.append(_timed(lambda: H(v))[1])
        theirs.append(_timed(lambda: plain(v))[1])
    ratio = sorted(theirs)[3] / sorted(ours)[3]
    return (
        f"hessian_product_resnet18_w8_200: {ratio:.2f}x vs autograd with the graph kept, not folded"
        " (medians of 7)"
    )


def _peer(module: nn.Module, inputs: Tensor, labels: Tensor) -> Peer:
    try:
        import pyhessian
    except ImportError:
        return _transcribed(module, inputs, labels)
    seconds: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        peer, setup_s = _timed(
            lambda: pyhessian.hessian(
                copy.deepcopy(module), nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False
            )
        )
        (values, _), seconds["eigenvalues"] = _timed(peer.eigenvalues)
        draws, seconds["trace"] = _timed(peer.trace)
        with _removed_function():
            _, seconds["density"] = _timed(peer.density)
    seconds["eigenvalues"] += setup_s
    return Peer("PyHessian 0.1", float(values[0]), sum(draws) / len(draws), seconds)


def _transcribed(module: nn.Module, inputs: Tensor, labels: Tensor) -> Peer:
    product, setup_s = _timed(lambda: _kept_graph(module, inputs, labels))
    size = sum(p.numel() for p in module.parameters())
    rng = torch.Generator().manual_seed(0)

    def double(v: Tensor) -> Tensor:
        return product(v.float()).double()

    start = torch.randn(size, generator=rng)
    (value, _), power_s = _timed(lambda: power_iteration(product, start))
    (trace, _), trace_s = _timed(lambda: hutchinson(double, size, rng))
    _, density_s = _timed(lambda: lanczos_quadrature(product, start.sign(), 100))
    seconds = {"eigenvalues": setup_s + power_s, "trace": trace_s, "density": density_s}
    return Peer("a transcription of PyHessian", value, trace, seconds)


@contextmanager
def _removed_function() -> Iterator[None]:
    """Put back `torch.eig` as PyHessian calls it, for symmetric matrices."""

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        assert eigenvectors
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    with unittest.mock.patch.object(torch, "eig", eig, create=True):
        yield


def _kept_graph(module: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    module = copy.deepcopy(module)
    parameters = list(module.parameters())
    loss = cross_entropy(module(inputs), labels)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)

    def product(v: Tensor) -> Tensor:
        parts = [
            part.view(p.shape)
            for part, p in zip(v.split([p.numel() for p in parameters]), parameters, strict=True)
        ]
        found = torch.autograd.grad(gradients, parameters, parts, retain_graph=True)
        return torch.cat([f.reshape(-1) for f in found])

    return product


def _truth(module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return lambda_max converged and the trace of the Gauss-Newton matrix, both in float64.

    The trace comes from the gradients of every example alone, not from the layer formulas being
    measured.
    """
    module, inputs = copy.deepcopy(module).double(), inputs.double()
    H = HessianOperator(copy.deepcopy(module), inputs, labels)
    rng = torch.Generator().manual_seed(1)
    start = rademacher(H.size, rng, torch.float64, inputs.device)
    spectrum = lanczos(H, start, 10, rng, 1e-10)
    trace, parameters = 0.0, list(module.parameters())
    for x in inputs:
        logits = module(x.unsqueeze(0))
        p = logits.detach().softmax(1)
        for c in range(p.shape[1]):
            column = -p * p[0, c].sqrt()
            column[0, c] += p[0, c].sqrt()
            found = torch.autograd.grad(logits, parameters, column, retain_graph=True)
            trace += sum(float(f.square().sum()) for f in found) / len(inputs)
    return float(spectrum.ritz_values[-1]), trace


def _trained() -> tuple[nn.Module, Tensor, Tensor]:
    """Train a ResNet18 of width 8 a little on faint patterns, one a class, in noise; refresh its
    BatchNorm statistics.
    """
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=rng)
    patterns = torch.randn(10, 3, 32, 32, generator=rng)
    inputs = 0.3 * patterns[labels] + torch.randn(EXAMPLES, 3, 32, 32, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = make((3, 32, 32), 10, width=8)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(UPDATES):
        chosen = torch.randint(0, EXAMPLES, (50,), generator=rng)
        optimizer.zero_grad()
        cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    refresh_batch_norm(module, inputs)
    return module.eval(), inputs, labels


def _dataset(inputs: Tensor, labels: Tensor) -> Dataset:
    one = torch.ones(3, 1, 1)
    return Dataset("random", inputs, labels, inputs[:1], labels[:1], 10, one, one)


def _defaults(metric: Metric) -> dict[str, object]:
    return {name: getattr(HessianArgs(), name) for name in metric.args.__dataclass_fields__}


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def _off(found: object, exact: float) -> float:
    assert isinstance(found, float)
    return abs(found / exact - 1)


if __name__ == "__main__":
    print("\n".join(main()))
