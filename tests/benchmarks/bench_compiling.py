"""torch.compile of a stack's forward and backward pass against the same kernels launched as they
are; minutes of compilation.
"""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phasegrid.jobs import Part
from phasegrid.models.build import build_model
from phasegrid.models.fused import read_architecture
from phasegrid.train.stack import MemberState, Stack

CASES = [(4, (3, 8, 8), 16, 5), (8, (3, 32, 32), 64, 2)]
ROUNDS, CLASSES = 15, 10


def main() -> list[str]:
    """Return the ratio for each case, and how long compiling took."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about machines without a GPU
        return [_case(*case) for case in CASES]


def _case(width: int, shape: tuple[int, ...], batch: int, members: int) -> str:
    module = build_model(Part("resnet18", 1, {"width": width}), shape, CLASSES, seed=0)
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    stack = Stack(module, [MemberState(tensors)] * members, "fused", read_architecture(module))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(members, batch, *shape, generator=generator)
    labels = torch.randint(0, CLASSES, (members, batch), generator=generator)
    compiled = torch.compile(lambda x: stack.network.forward(x))

    def update(forward: Callable[[Tensor], Tensor]) -> float:
        started = time.process_time()
        stack.network.grads.zero_()
        cross_entropy(forward(inputs).flatten(0, 1), labels.flatten()).backward()
        return time.process_time() - started

    started = time.perf_counter()
    update(compiled)
    compiling_s = time.perf_counter() - started
    update(compiled), update(stack.network.forward)
    turns = [(update(stack.network.forward), update(compiled)) for _ in range(ROUNDS)]
    plain, fast = (1e3 * statistics.median(times) for times in zip(*turns, strict=True))
    what = f"{members} seeds of ResNet18 w{width}, {shape[1]}x{shape[2]}, batch {batch}"
    return (
        f"torch.compile of a stack's passes, {what} | as it is | {plain / fast:.2f}x ({plain:.1f} /"
        f" {fast:.1f} ms CPU) | {compiling_s:.0f} s to compile: not used"
    )
