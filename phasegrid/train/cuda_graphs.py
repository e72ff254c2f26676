"""Work on a GPU as CUDA graphs: recorded once, replayed whenever it comes again.

An update of a small network is hundreds of kernels that a GPU finishes sooner than a CPU can launch
them; a replayed graph is one launch. Only what repeats exactly is recorded: the same kernels on the
same tensors, which stay where they are. What changes from time to time (batches, rates, counters)
is read from tensors. Numbers are those of the same kernels launched one by one.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from phasegrid.fallbacks import fall_back

Work = Callable[..., Tensor]
"""A function of tensors that makes the same kernels whenever their shapes are the same."""

Replay = Callable[[], Tensor]
Record = Callable[..., Replay]

WARM_UP = 3
"""Launch work this many times before recording it: libraries initialise themselves in the first
ones. Torch's notes on CUDA graphs use three.
"""


@dataclass(slots=True)
class Recorder:
    """Runs work, and records what comes again.

    Work that cannot be recorded is launched normally, with a warning. So is work that there is not
    enough memory to record, if `yields` is false; otherwise `torch.OutOfMemoryError` is raised, for
    the caller to ask for less. In a lane it is always raised. Work is launched `warm_up` times
    before it is recorded. `record` is `record_graph`, and `around` is `on_a_side_stream`, except in
    tests.
    """

    yields: bool = False
    record: Record = field(default_factory=lambda: record_graph)
    around: Callable[[Work], Work] = field(default_factory=lambda: on_a_side_stream)
    warm_up: int = WARM_UP
    _seen: dict[Hashable, int] = field(default_factory=dict)
    _recorded: dict[Hashable, Replay] = field(default_factory=dict)
    _fixed: dict[Hashable, tuple[Tensor, ...]] = field(default_factory=dict)
    _gave_up: bool = False

    def run(self, work: Work, *tensors: Tensor) -> Tensor:
        """Run work that reads tensors which come anew each time; return a copy of its result.

        Work of the same shapes must be the same.

        Raises:
            torch.OutOfMemoryError: see above.
        """
        if self._gave_up:
            return work(*tensors)
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        if key not in self._fixed:
            self._fixed[key] = tuple(tensor.contiguous().clone() for tensor in tensors)
        fixed = self._fixed[key]
        for mine, theirs in zip(fixed, tensors, strict=True):
            mine.copy_(theirs)
        return self.repeat(key, work, *fixed).clone()

    def repeat(self, key: Hashable, work: Work, *fixed: Tensor) -> Tensor:
        """Run work on tensors that stay where they are; return its result, which the next run of
        anything may overwrite. Work of the same `key` must be the same.

        Raises:
            torch.OutOfMemoryError: see above.
        """
        if key in self._recorded:
            return self._recorded[key]()
        if self._gave_up:
            return work(*fixed)
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        if seen <= self.warm_up:
            return self.around(work)(*fixed)
        return self._recorded[key]() if self._try_to_record(key, work, fixed) else work(*fixed)

    def forget(self) -> None:
        """Forget what was recorded, because some of its tensors are replaced."""
        self._seen.clear()
        self._recorded.clear()
        self._fixed.clear()

    def _try_to_record(self, key: Hashable, work: Work, fixed: tuple[Tensor, ...]) -> bool:
        try:
            self._recorded[key] = self.record(work, *fixed)
        except RuntimeError as error:
            if _out_of_memory(error) and (self.yields or in_a_lane(fixed[0].device)):
                raise torch.OutOfMemoryError(f"recording a CUDA graph: {error}") from error
            self._gave_up = True
            fall_back(
                "work that could not be recorded as CUDA graphs was launched kernel by kernel",
                error,
            )
            return False
        return True


def record_graph(work: Work, *tensors: Tensor) -> Replay:
    """Record work on these tensors as a CUDA graph. A replay reads what they hold at that time.

    Record on a stream of the tensors' device: torch would use the first device that this process
    recorded on. All live graphs of a stream share one memory pool; separate pools would each keep
    the peak memory of their graph. Sharing is safe because graphs of a stream are replayed one
    after another, their results are copied out or used up before the next replay, and everything
    that outlives a replay (weights, gradients, statistics, batches) lies outside the pool.
    """
    stream = _recording_stream(tensors[0].device)
    place = stream.device, stream.stream_id
    pool = next((graph.pool() for graph, where in _ALIVE.items() if where == place), None)
    with torch.cuda.device(stream.device):
        graph = torch.cuda.CUDAGraph()
        # Until torch 2.14, a recording that fails leaves its stream the current one.
        with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream):
            result = work(*tensors)
    _ALIVE[graph] = place

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


_ALIVE: "WeakKeyDictionary[torch.cuda.CUDAGraph, tuple[torch.device, int]]" = WeakKeyDictionary()


def in_a_lane(device: torch.device) -> bool:
    """Say whether kernels are now launched on another stream than the device's default one."""
    if device.type != "cuda":
        return False
    return torch.cuda.current_stream(device) != torch.cuda.default_stream(device)


def on_a_side_stream(work: Work) -> Work:
    """Return work that is launched on the stream on which it will be recorded, ordered after the
    current one, for warming up.
    """

    def run(*tensors: Tensor) -> Tensor:
        current = torch.cuda.current_stream(tensors[0].device)
        side = _recording_stream(tensors[0].device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = work(*tensors)
        current.wait_stream(side)
        return result

    return run


def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the current stream in a lane. Nothing can be recorded on the default stream: there it
    is the side stream.
    """
    return torch.cuda.current_stream(device) if in_a_lane(device) else side_stream(device)


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which work of the default stream is warmed up and recorded.

    There is only one, because cuBLAS keeps a workspace for every stream that it was used on. It
    must be the stream of the warm-up, because a workspace created while recording lies in the
    graphs' pool and is freed with them.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _out_of_memory(error: BaseException | None) -> bool:
    """Say whether memory ran out. When a failed recording ends, its own error hides the first
    one. A graph lies outside torch's memory, so for it CUDA's own error is raised.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
