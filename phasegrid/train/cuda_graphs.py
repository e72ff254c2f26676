"""The gradient pass of a stack as CUDA graphs: recorded once, replayed for every batch of the same
shape.

An update of a small network is hundreds of kernels that a GPU finishes sooner than a CPU can launch
them; a replayed graph is one launch. Only what repeats exactly is recorded: zeroing gradients,
forward, loss, backward. The optimizer's step is a handful of kernels on flat vectors and its rates
change, so it stays outside. Numbers are those of the same kernels launched one by one. Letters: M
members, B examples of a batch, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phasegrid.fallbacks import fall_back

GradientPass = Callable[..., Tensor]
"""From inputs (M, B, *S), labels (M, B), and what else an objective asks for of each example, to
logits (M, B, C); leaves gradients in tensors that stay where they are.
"""

Replay = Callable[[], Tensor]
Record = Callable[..., Replay]

WARM_UP = 3
"""Launch updates of a shape this many times before recording it: libraries initialise themselves in
the first ones. Torch's notes on CUDA graphs use three.
"""


@dataclass(slots=True)
class Recorder:
    """Runs the gradient passes of one stack, and records those whose shapes come again.

    A pass must do the same each time it is called with the same shapes. A pass that cannot be
    recorded is launched normally, with a warning; so is the pass of a lone member if there is not
    enough memory to record it. `record` is `record_graph` except in tests.
    """

    record: Record = field(default_factory=lambda: record_graph)
    around: Callable[[GradientPass], GradientPass] = field(default_factory=lambda: on_a_side_stream)
    _seen: dict[tuple[int, ...], int] = field(default_factory=dict)
    _recorded: dict[tuple[int, ...], tuple[tuple[Tensor, ...], Replay]] = field(
        default_factory=dict
    )
    _gave_up: bool = False

    def run(self, gradient_pass: GradientPass, inputs: Tensor, *others: Tensor) -> Tensor:
        """Run one gradient pass; return a copy of its logits.

        Raises:
            torch.OutOfMemoryError: if recording the pass of several members runs out of memory.
        """
        if self._gave_up:
            return gradient_pass(inputs, *others)
        shape = tuple(inputs.shape)
        if shape not in self._recorded:
            seen = self._seen[shape] = self._seen.get(shape, 0) + 1
            if seen <= WARM_UP:
                return self.around(gradient_pass)(inputs, *others)
            if not self._try_to_record(gradient_pass, inputs, *others):
                return gradient_pass(inputs, *others)
        fixed, replay = self._recorded[shape]
        for mine, theirs in zip(fixed, (inputs, *others), strict=True):
            mine.copy_(theirs)
        return replay().clone()

    def _try_to_record(self, gradient_pass: GradientPass, *tensors: Tensor) -> bool:
        inputs, mine = tensors[0], tuple(tensor.contiguous().clone() for tensor in tensors)
        try:
            replay = self.record(gradient_pass, *mine)
        except RuntimeError as error:
            if _out_of_memory(error) and len(inputs) > 1:
                raise torch.OutOfMemoryError(f"recording a CUDA graph: {error}") from error
            self._gave_up = True
            fall_back(
                "gradient passes that could not be recorded as CUDA graphs were launched kernel by"
                " kernel",
                error,
            )
            return False
        self._recorded[tuple(inputs.shape)] = mine, replay
        return True


def record_graph(gradient_pass: GradientPass, *tensors: Tensor) -> Replay:
    """Record a pass over these tensors as a CUDA graph. A replay reads what they hold at that time.

    Record on a stream of the tensors' device: torch would use the first device that this process
    recorded on. All live graphs of a device share one memory pool; separate pools would each keep
    the peak memory of their graph. Sharing is safe because graphs are replayed one after another,
    their logits are copied out before the next replay, and everything that outlives a replay
    (weights, gradients, statistics, batches) lies outside the pool.
    """
    device = tensors[0].device
    pool = next((graph.pool() for graph, place in _ALIVE.items() if place == device), None)
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=side_stream(device)):
            logits = gradient_pass(*tensors)
    _ALIVE[graph] = device

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


_ALIVE: "WeakKeyDictionary[torch.cuda.CUDAGraph, torch.device]" = WeakKeyDictionary()


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which all passes of a device are warmed up and recorded.

    There is only one, because cuBLAS keeps a workspace for every stream that it was used on. It
    must be the stream of the warm-up, because a workspace created while recording lies in the
    graphs' pool and is freed with them.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_a_side_stream(gradient_pass: GradientPass) -> GradientPass:
    """Return the pass launched on another stream, ordered after the current one, for warming up."""

    def run(*tensors: Tensor) -> Tensor:
        current = torch.cuda.current_stream(tensors[0].device)
        side = side_stream(tensors[0].device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            logits = gradient_pass(*tensors)
        current.wait_stream(side)
        return logits

    return run


def _out_of_memory(error: BaseException | None) -> bool:
    """Say whether memory ran out. When a failed recording ends, its own error hides the first
    one.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
