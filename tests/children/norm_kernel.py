"""Run BatchNorm's Triton kernels, interpreted on the CPU, and compare outputs, gradients and
running statistics with torch's operations in float64.

Run in a process of its own, with TRITON_INTERPRET=1: Triton reads it when it is imported. The last
line on stdout says what was begun last.
"""

import itertools
import sys
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, cross_entropy

from phasegrid.jobs import Part
from phasegrid.models import merged, norm_kernel
from phasegrid.models.build import build_model
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import read_architecture

SHIPPED = norm_kernel.TILE, norm_kernel.MOST_PARTS
CASES = (  # elements of a tile and most parts (few, so that every loop turns), and a shape
    (SHIPPED, (5, 3)),
    (SHIPPED, (8, 1, 1, 1)),
    (SHIPPED, (7, 2, 9, 11)),
    ((256, 2), (3, 6, 5, 7)),
    ((256, 2), (3, 40, 3, 1)),
    ((256, 2), (29, 33)),
    ((256, 2), (4, 5, 6)),
)
MOMENTUM, EPS = 0.3, 1e-3
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # of the outputs' size; bfloat16: 2^-8


def draws(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compare(
    shape: tuple[int, ...], last: bool, dtype: torch.dtype, added: bool, relu: bool
) -> None:
    channels = shape[1]
    layout = torch.channels_last if last else torch.contiguous_format
    x = (3 * draws(shape, 0) + 10 * draws((channels, *[1] * (len(shape) - 2)), 1)).to(dtype)
    residual, *grads = (draws(shape, seed).to(dtype) for seed in (2, 3, 9))
    given = [x, residual, draws((channels,), 4), draws((channels,), 5)]
    ours = [value.clone().requires_grad_() for value in given]
    exact = [value.double().requires_grad_() for value in given]
    running = draws((channels,), 6), draws((channels,), 7).abs(), torch.tensor(41)
    mean, variance = running[0].double(), running[1].double()
    y, again = norm_kernel.norm(
        ours[0].contiguous(memory_format=layout),
        ours[1] if added else None,
        *ours[2:],
        running,
        MOMENTUM,
        EPS,
        relu,
    )
    expected = batch_norm(exact[0], mean, variance, *exact[2:], True, MOMENTUM, EPS)
    expected = expected + exact[1] if added else expected
    clear = (expected.abs() > 1e-2) | (not relu)  # rounding may decide what is nearly 0
    grads = [grad * clear for grad in grads]
    expected = expected.relu() if relu else expected
    if added:
        torch.autograd.backward([y, again], grads)
        expected.backward(grads[0].double() + grads[1].double())
    else:
        again.backward(grads[1])
        expected.backward(grads[1].double())
    assert torch.equal(y, again)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    off = TOLERANCES[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=off, atol=off)
    for mine, theirs in zip(ours, exact, strict=True):
        if theirs.grad is None:
            assert mine.grad is None
            continue
        assert mine.grad is not None
        size = float(theirs.grad.abs().max()) + 1e-3
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=off, atol=off * size)
    torch.testing.assert_close(running[0].double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(running[1].double(), variance, rtol=1e-5, atol=1e-6)
    assert running[2] == 42


def compare_networks() -> None:
    """Run a stack of two ResNets with the kernels and with torch's BatchNorm."""
    merged.merged_norm = lambda _: norm_kernel.norm
    make = partial(build_model, Part("resnet18", 1, {"width": 1}), (3, 8, 8), 4)
    modules = [make(seed) for seed in range(2)]
    states = [module.state_dict() for module in modules]
    blueprint = read_architecture(modules[0])
    inputs, labels = draws((2, 6, 3, 8, 8), 8), torch.arange(12) % 4
    found = []
    for strategy in ("fused", "merged"):
        network = FlatNetwork(make(0).train(), states, strategy, blueprint)
        logits = network.forward(inputs)
        losses = cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        network.differentiate(losses, torch.ones_like(losses))
        found.append((logits, network.gradient(), [network.state(i) for i in range(2)]))
    (logits, gradient, after), theirs = found
    size = float(gradient.abs().max())  # 1e-4: float32 through 20 layers
    torch.testing.assert_close(theirs[0], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs[1], gradient, rtol=1e-3, atol=1e-4 * size)
    torch.testing.assert_close(theirs[2], after, rtol=1e-4, atol=1e-4)
    assert after[1]["norm1.num_batches_tracked"] == 1


def main() -> None:
    flags = (False, True)
    few = "--few" in sys.argv
    if not few:
        print("networks", flush=True)
        compare_networks()
    for (sizes, shape), dtype in itertools.product(CASES[3:4] if few else CASES, TOLERANCES):
        norm_kernel.TILE, norm_kernel.MOST_PARTS = sizes
        for last, added, relu in itertools.product(flags, flags, flags):
            if not last or len(shape) == 4:
                print(*sizes, shape, dtype, last, added, relu, flush=True)
                compare(shape, last, dtype, added, relu)
    print("whole", flush=True)


if __name__ == "__main__":
    main()
