"""Do several pieces of work of one kind, some at once, from one thread.

A small network leaves most of a GPU idle. So independent work (curves, complexes) runs on streams
of its own: one thread launches an update of each in turn, and the card does them side by side. On a
CPU they are done one after another. The numbers of a piece of work are those of it alone.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

import torch

T = TypeVar("T")

Work: TypeAlias = Generator[None, None, T]
"""Work that yields where another's turn may come, and returns its result."""

MOST = 8
"""The most pieces of work at once on a GPU: 5, 20 and 40 trainings at once took 0.4 times as long
as one after another (ResNet18 of width 8, batch 128, H200).
"""

LOOKED_AT = 8
"""After this many turns of the first piece of work its memory is known: it has been recorded."""

SHARE = 0.8
"""The share of the free memory that work at once may take."""


def finished(work: Work[T]) -> T:
    """Do a piece of work to its end and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def in_turn(works: Sequence[Callable[[], Work[T]]], device: torch.device) -> list[T]:
    """Do all `works` and return their results in order. Each is begun when there is room for it: on
    a GPU for up to `MOST`, as far as the memory of the first one shows.
    """
    if device.type != "cuda":
        return [finished(begin()) for begin in works]
    return _Streams(device).run(works)


class _Streams:
    """Streams of a GPU on which work is done in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._idle = [_new_stream(device) for _ in range(MOST)]
        self._room = 1

    def run(self, works: Sequence[Callable[[], Work[T]]]) -> list[T]:
        """Do all works, and let the present stream wait for them."""
        waiting = list(enumerate(works))
        running: list[tuple[int, Work[T], torch.cuda.Stream]] = []
        results: dict[int, T] = {}
        turns, free = 0, _free_bytes(self._device)
        while waiting or running:
            while waiting and len(running) < self._room:
                place, begin = waiting.pop(0)
                running.append((place, begin(), self._begin()))
            for one in list(running):
                place, work, stream = one
                try:
                    with torch.cuda.stream(stream):
                        next(work)
                except StopIteration as end:
                    results[place] = end.value
                    running.remove(one)
                    torch.cuda.current_stream(self._device).wait_stream(stream)
                    self._idle.append(stream)
            turns += 1
            if turns == LOOKED_AT:
                self._room = room(free, _free_bytes(self._device))
        return [results[place] for place in range(len(works))]

    def _begin(self) -> torch.cuda.Stream:
        stream = self._idle.pop()
        stream.wait_stream(torch.cuda.current_stream(self._device))
        return stream


def room(before: int, after: int) -> int:
    """Return how many pieces of work fit at once, if the free memory was `before` the first one and
    is `after` it was recorded.

    >>> room(1000, 900), room(1000, 100), room(1000, 1000)
    (8, 1, 8)
    """
    taken = max(1, before - after)
    return max(1, min(MOST, 1 + int(SHARE * after) // taken))


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _free_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free
