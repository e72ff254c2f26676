"""The steps ``kernels``, ``deterministic`` and ``profile`` of the script for a GPU: own kernels
beside torch's, what deterministic kernels cost and why, and how many kernels an update takes.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import pad

from phasegrid.models.compiled import kernels_of
from phasegrid.models.image_layouts import Layouts
from phasegrid.models.norms import Norm, merged_norm, norm_by_torch
from phasegrid.train import optimizers
from phasegrid.train.loop import train_pack
from phasegrid.train.optimizers import Rates, new_slots, rates_at
from phasegrid.train.precision import deterministic_kernels, tensor_float_32
from phasegrid.train.recipe import Recipe
from tests.benchmarks.bench_packing import random_data

if TYPE_CHECKING:
    from tests.benchmarks.gpu_steps import Record, Sizes

Run = Callable[[], object]
Way = Callable[[], AbstractContextManager[Any]]
FEW, MANY = 10, 5
"""Repetitions within a graph, and replays of it."""
TILES = ((4096, 8, 128), (2048, 4, 128), (4096, 8, 64))
"""Elements of a tile, warps and most parts of the kernels of BatchNorm; the first is shipped."""


def kernels(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Time own kernels and torch's in the shapes of a ResNet18: BatchNorm with what follows it,
    weight gradients, the optimizers.
    """
    for width in sizes.widths[:2]:
        for stage, pixels in ((1, sizes.pixels), (4, max(sizes.pixels // 8, 1))):
            channels = width * 2 ** (stage - 1)
            shape = (sizes.batch, channels, pixels, pixels)
            for dtype in (torch.bfloat16, torch.float32):
                yield {"norm of": shape, "dtype": str(dtype), **_norms(device, shape, dtype)}
            yield {"weight gradient of": shape, **_weight_gradients(device, shape)}
        for optimizer in ("sgd", "adam"):
            yield {"width": width, "step of": optimizer, **_steps(device, width, optimizer)}


def deterministic(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Train twice with deterministic kernels: whether the weights are equal, what it costs against
    the usual kernels of the same way, and which of its settings costs.
    """
    usual: dict[tuple[str, str], float] = {}
    shipped = partial(deterministic_kernels, device, wanted=True)
    convolutions = partial(torch.backends.cudnn.flags, enabled=True, deterministic=True)
    ways: list[tuple[str, str, str, Way]] = [
        ("loop", "fp32", "as shipped", shipped),
        ("merged", "bf16", "as shipped", shipped),
        ("merged", "fp32", "as shipped", shipped),
        ("merged", "tf32", "as shipped", shipped),
        ("loop", "fp32", "convolutions alone", convolutions),
        ("loop", "fp32", "other operations alone", _only_operations),
        ("loop", "fp32", "as shipped, channels first", partial(_channels_first, device)),
        ("merged", "bf16", "as shipped, channels first", partial(_channels_first, device)),
        ("merged", "tf32", "as shipped, channels first", partial(_channels_first, device)),
    ]
    for strategy, precision, name, way in ways:
        if (strategy, precision) not in usual:
            took, _ = _trained(device, sizes, strategy, precision, nullcontext)
            usual[strategy, precision] = took
        took, equal = _trained(device, sizes, strategy, precision, way)
        yield {
            "strategy": strategy,
            "precision": precision,
            "way": name,
            "bit_equal": equal,
            "ms": 1e3 * took,
            "over_usual": took / usual[strategy, precision],
        }


def profile(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Count the kernels of an update of one training, with torch's kernels (before) and merged
    (after), the share of time the device is busy, and which kernels take it.
    """
    for precision in ("fp32", "bf16"):
        for strategy in ("loop", "merged"):
            small, large = (
                _profiled(device, sizes, strategy, precision, count) for count in sizes.updates
            )
            num = sizes.updates[1] - sizes.updates[0]
            taken = large[0] - small[0]
            all_us = sum(taken.values()) or 1
            counts = large[1] - small[1]
            yield {
                "strategy": strategy,
                "precision": precision,
                "kernels_an_update": sum(counts.values()) / num,
                "busy_share": sum(taken.values()) / 1e6 / max(large[2] - small[2], 1e-9),
                "most": [
                    [name[:80], round(us / all_us, 3), counts[name] / num]
                    for name, us in taken.most_common(12)
                ],
            }


def _norms(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float]:
    """Return the milliseconds of BatchNorm, an addition and ReLU, forward and backward."""
    layout = torch.channels_last
    x, residual, grad = (
        torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
        for _ in range(3)
    )
    leaves = x.requires_grad_(), residual.requires_grad_()
    gain, shift = torch.ones(2, shape[1], device=device).requires_grad_()
    running = gain.detach().clone(), shift.detach().clone(), torch.tensor(0, device=device)

    def run(norm: Norm) -> None:
        y, _ = norm(*leaves, gain, shift, running, 0.1, 1e-5, True)
        torch.autograd.grad(y, (*leaves, gain, shift), grad)

    found = {"torch_ms": 1e3 * graphed(lambda: run(norm_by_torch), device)}
    module = kernels_of("phasegrid.models.norm_kernel", device)
    tried = TILES if dtype == torch.bfloat16 else TILES[:1]  # each is compiled: seconds
    for tile, warps, parts in tried if module else ():
        with patch.multiple(module, TILE=tile, WARPS=warps, MOST_PARTS=parts):
            own = graphed(lambda: run(merged_norm(device)), device)
        found[f"{tile}, {warps} warps, {parts} parts: ms"] = 1e3 * own
    return found


def _weight_gradients(device: torch.device, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the milliseconds of the gradient of a 3x3 kernel, as cuDNN computes it by default and
    deterministically, and as one product of unfolded images, which is deterministic too.
    """
    layout = torch.channels_last
    x, grad = (torch.randn(shape, device=device).to(memory_format=layout) for _ in range(2))
    weight = torch.randn(shape[1], shape[1], 3, 3, device=device).to(memory_format=layout)

    def by_library() -> None:
        none = torch.ops.aten.convolution_backward
        none(
            grad,
            x,
            weight,
            None,
            [1] * 2,
            [1] * 2,
            [1] * 2,
            False,
            [0] * 2,
            1,
            [False, True, False],
        )

    def by_product() -> Tensor:
        padded = pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
        windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (N, H, W, C, 3, 3)
        rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * shape[1])
        return grad.permute(0, 2, 3, 1).reshape(-1, shape[1]).T @ rows

    found = {}
    for name, run, is_repeated in (
        ("library", by_library, False),
        ("library, deterministic", by_library, True),
        ("product", by_product, True),
    ):
        for tf32 in (False, True):
            cudnn = torch.backends.cudnn.flags(enabled=True, deterministic=is_repeated)
            with cudnn, tensor_float_32(tf32):
                kind = "tf32" if tf32 else "fp32"
                found[f"{name}, {kind}: ms"] = 1e3 * graphed(run, device)
    if device.type == "cuda":
        from tests.benchmarks.weight_gradient import weight_gradient

        low = x.bfloat16(), grad.bfloat16()
        own: dict[str, Run] = {
            "fp32": lambda: weight_gradient(x, grad),
            "tf32": lambda: weight_gradient(x, grad, tf32=True),
            "bf16": lambda: weight_gradient(*low),
        }
        for kind, run in own.items():
            found[f"own, {kind}: ms"] = 1e3 * graphed(run, device)
        off = weight_gradient(x, grad) - by_product().view(-1, 3, 3, shape[1]).permute(0, 3, 1, 2)
        found["off"] = float(off.norm() / weight_gradient(x, grad).norm())
    return found


def _steps(device: torch.device, width: int, optimizer: Any) -> dict[str, float]:
    """Return the milliseconds of a step of an optimizer, in one kernel and by torch."""
    recipe = Recipe(optimizer=optimizer)
    num = 64 * (2724 * width**2 // 64 + 1)
    weights, grads = torch.randn(2, num, device=device)
    slots, both = new_slots(recipe, weights), (recipe.lr, recipe.weight_decay)
    row = torch.tensor(rates_at(recipe, *both, 1.0, 0), device=device)

    def run() -> None:
        optimizers.step(recipe, weights, grads, slots, *both, Rates(*row.unbind()))

    own = graphed(run, device)
    with patch.object(optimizers, "kernels_of", lambda *_: None):
        return {"own_ms": 1e3 * own, "torch_ms": 1e3 * graphed(run, device)}


def _trained(
    device: torch.device,
    sizes: "Sizes",
    strategy: Any,
    precision: str,
    way: Callable[[], AbstractContextManager[Any]],
) -> tuple[float, bool]:
    """Return the seconds of an update, and whether two trainings gave the same weights."""
    from tests.benchmarks.gpu_steps import _timed, resnet, trials_of

    case = resnet(sizes.widths[0], sizes)
    data = random_data(case, sizes.updates[0] * case.batch_size, str(device))
    found: list[list[Tensor]] = []

    def train(count: int) -> None:
        trials = trials_of(case, count, precision, 1)
        (done,) = train_pack(trials, [data], device=device, strategy=strategy)
        found.append(list(done.weights.values()))

    with way():
        train(sizes.updates[0])
        first, second = (_timed(lambda: train(count), device) for count in sizes.updates)  # noqa: B023
    a, b = found[:2]
    equal = all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    return (second - first) / (sizes.updates[1] - sizes.updates[0]), equal


@contextmanager
def _only_operations() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=False):
            yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _channels_first(device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(deterministic_kernels(device, wanted=True))
        stack.enter_context(patch.object(Layouts, "of", lambda *_: torch.contiguous_format))
        yield


def _profiled(
    device: torch.device, sizes: "Sizes", strategy: Any, precision: str, count: int
) -> tuple[Counter[str], Counter[str], float]:
    """Train `count` updates; return microseconds and launches by kernel, and seconds in all."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    from tests.benchmarks.gpu_steps import _timed, resnet, trials_of

    case = resnet(sizes.widths[0], sizes)
    data = random_data(case, sizes.updates[0] * case.batch_size, str(device))
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    trials = trials_of(case, count, precision, 1)
    with profiled(activities=[activity]) as spans:
        seconds = _timed(
            lambda: train_pack(trials, [data], device=device, strategy=strategy), device
        )
    taken: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in spans.events():
        if str(event.device_type).endswith("CUDA"):
            taken[event.name] += event.self_device_time_total
            launches[event.name] += 1
    return taken, launches, seconds


def graphed(run: Run, device: torch.device) -> float:
    """Return the seconds of a call, launched from a CUDA graph as an update is."""
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(FEW):
            run()
    seconds = []
    for _ in range(MANY):
        torch.cuda.synchronize()
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / FEW)
    return min(seconds)
