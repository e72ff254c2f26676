"""Do several pieces of work of one kind, some at once, from one thread.

A small network leaves most of a GPU idle. So independent work (curves, complexes) runs in lanes
(`phasegrid.train.lanes`): one thread launches an update of each in turn, and the card does them
side by side. The numbers of a piece of work are those of it alone.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from phasegrid.train.lanes import Lane, Lanes

T = TypeVar("T")

Work: TypeAlias = Generator[None, None, T]
"""Work that yields where another's turn may come, and returns its result."""

MOST = 8
"""The most pieces of work at once on a GPU: 5, 20 and 40 trainings at once took 0.4 times as long
as one after another (ResNet18 of width 8, batch 128, H200).
"""


def finished(work: Work[T]) -> T:
    """Do a piece of work to its end and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def in_turn(works: Sequence[Callable[[], Work[T]]], lanes: Lanes) -> list[T]:
    """Do all `works` in `lanes` and return their results in order.

    Where memory runs out, fewer are done at once, and one is begun again; so a second call of it
    must do the same as the first.

    Raises:
        torch.OutOfMemoryError: if a piece of work alone does not fit.
    """
    tasks = [_Task(begin) for begin in works]
    lanes.run(tasks, after_turn=lambda _: None)
    return [task.result[0] for task in tasks]


@dataclass(slots=True)
class _Task(Generic[T]):
    """A piece of work as a task of a lane."""

    begin: Callable[[], Work[T]]
    share: float = 1 / MOST
    result: list[T] = field(default_factory=list)

    def steps(self, _lane: Lane) -> Iterator[bool]:
        """Do the work from its beginning; it cannot be left on the way."""
        work = self.begin()
        while True:
            try:
                next(work)
            except StopIteration as end:
                self.result.append(end.value)
                return
            yield False
