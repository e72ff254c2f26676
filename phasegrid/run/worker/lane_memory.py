"""Decide how many trainings of a pack run at once on a GPU, by the memory that is free, and learn
what they took.

The first time, the planner's estimate counts, with a margin. Then the store keeps what trainings of
a kind took on such a card: the peak of the pack, shared out in proportion to the estimates.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from phasegrid.keys import Json, content_key
from phasegrid.plan.gpu_memory import MARGIN, lanes_that_fit
from phasegrid.store.meta import Notes
from phasegrid.train.lanes import STREAMS

MEASURED_MARGIN = 1.2
"""The margin of what was measured: a peak is that of a pack, and kernels choose their workspaces
anew.
"""

UNKNOWN_LANES = 4
"""So many trainings run at once that say nothing of their memory, until it is measured."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Trainings of a kind: the `key` under which their memory is kept, the estimated bytes of one
    (None: unknown), how many of them there are, how many train as one stack, and the part of the
    device that a stack fills.
    """

    key: str
    estimate: int | None
    count: int
    stack_size: int = 1
    share: float = 0.0


class Memory(Protocol):
    """The memory of the GPU of this process."""

    def free_bytes(self) -> int:
        """Return how many bytes this process may still allocate."""

    def begin(self) -> None:
        """Count the bytes that are taken from now on."""

    def taken_bytes(self) -> int:
        """Return how many bytes were taken at most at the same time."""


@dataclass(slots=True)
class CudaMemory:
    """The memory of a GPU of which this process may take a `share`.

    What torch has reserved is counted, and not what tensors hold: a CUDA graph keeps the memory of
    its intermediate results for itself, although no tensor holds it between two updates.
    """

    device: torch.device
    share: float
    _before: int = 0

    def free_bytes(self) -> int:
        """Return how many bytes this process may still allocate."""
        free, total = torch.cuda.mem_get_info(self.device)
        held = torch.cuda.memory_allocated(self.device)
        unused = torch.cuda.memory_reserved(self.device) - held
        return max(0, min(free + unused, int(self.share * total) - held))

    def begin(self) -> None:
        """Count the bytes that are taken from now on."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_reserved(self.device)

    def taken_bytes(self) -> int:
        """Return how many bytes were taken at most at the same time."""
        return torch.cuda.max_memory_reserved(self.device) - self._before


def memory_of(device: torch.device, share: float) -> Memory | None:
    """Return the memory of the GPU `device`; None for a CPU, whose memory bounds no lanes."""
    return CudaMemory(device, share) if device.type == "cuda" else None


def memory_key(timing_key: str) -> str:
    """Return the key under which the memory of trainings is kept that have this key of timings."""
    return content_key("memory", 1, timing_key)


@contextmanager
def lanes_within(
    memory: Memory | None, kinds: Sequence[Kind], notes: Notes
) -> Iterator[int | None]:
    """Give the number of stacks that may run at once (None: any number), and keep what they took,
    unless an error ends them.
    """
    if memory is None:
        yield None
        return
    memory.begin()
    free = memory.free_bytes()
    needs = [_need(kind, notes, free) for kind in kinds]
    stacks = [_stacks(kind) for kind in kinds]
    each = [size * need for need, sizes in zip(needs, stacks, strict=True) for size in sizes]
    lanes = min(STREAMS, lanes_that_fit(each, free))
    yield lanes
    _keep(kinds, _first(kinds, stacks, lanes), memory.taken_bytes(), notes)


def _need(kind: Kind, notes: Notes, free: int) -> int:
    """Return the bytes to reserve for a training of a kind."""
    record = notes.read_timing(kind.key)
    measured = record.get("bytes_of_one") if isinstance(record, dict) else None
    if isinstance(measured, int):
        return round(MEASURED_MARGIN * measured)
    return free // UNKNOWN_LANES if kind.estimate is None else round(MARGIN * kind.estimate)


def _stacks(kind: Kind) -> list[int]:
    """Return the sizes of the stacks of a kind."""
    starts = range(0, kind.count, kind.stack_size)
    return [min(kind.stack_size, kind.count - start) for start in starts]


def _first(kinds: Sequence[Kind], stacks: Sequence[Sequence[int]], lanes: int) -> dict[int, int]:
    """Return how many trainings of each kind, by its place, run at once when a pack begins."""
    running: dict[int, int] = defaultdict(int)
    num, used = 0, 0.0
    for place, (kind, sizes) in enumerate(zip(kinds, stacks, strict=True)):
        for size in sizes:
            if num == lanes or (num and used + kind.share > 1 + 1e-9):
                return running
            running[place] += size
            num, used = num + 1, used + kind.share
    return running


def _keep(kinds: Sequence[Kind], running: dict[int, int], taken: int, notes: Notes) -> None:
    """Keep what each training of the kinds took that ran at once, unless that is known."""
    parts = {place: kinds[place].estimate for place in running}
    known = all(part is not None for part in parts.values())
    weights = {place: (part or 1) if known else 1 for place, part in parts.items()}
    total = sum(weights[place] * count for place, count in running.items())
    for place, weight in weights.items():
        record: Json = {"bytes_of_one": round(taken * weight / total), "at_once": running[place]}
        notes.put_timing(kinds[place].key, record)
