"""Lanes: tasks of one process side by side on a GPU, each on its own stream, launched in turn.

One thread launches a piece of each task (an update of a training, say), again and again. A GPU then
computes pieces of many tasks at once, which alone would leave most of it idle. Tasks need not be
alike: one that ends leaves its lane to the next that waits. Without a GPU there is one stream, and
tasks take turns.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from phasegrid.fallbacks import fall_back
from phasegrid.train.cuda_graphs import in_a_lane

STREAMS = 32
"""The most lanes at the same time: torch has so many streams of a device. More lanes would share
them, and one could get memory that another still uses.
"""


class Task(Protocol):
    """Work in pieces. `share` is the part of the device that it fills: 1 if it must be alone."""

    @property
    def share(self) -> float: ...

    def steps(self, lane: "Lane") -> Iterator[bool]:
        """Do the work; yield after each piece, and say whether it can be left there.

        If memory runs out where others have it, `torch.OutOfMemoryError` leaves the task as it was
        when it could last be left; then `steps` is called again, later.
        """
        ...


class Lane:
    """A place for one task at a time, here on the stream that is current anyway.

    `gives_back`: whether a task that runs out of memory leaves the lane and waits for another.
    """

    gives_back = False

    def current(self) -> AbstractContextManager[Any]:
        """Return the context in which kernels are launched in this lane."""
        return nullcontext()

    def enter(self) -> None:
        """Begin a task: its kernels run after everything launched on the default stream so far."""

    def leave(self) -> None:
        """End a task: what is launched on the default stream from now on runs after its kernels."""


class StreamLane(Lane):
    """A lane with its own stream."""

    gives_back = True

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._default = torch.cuda.default_stream(device)

    def current(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def enter(self) -> None:
        self._stream.wait_stream(self._default)

    def leave(self) -> None:
        self._default.wait_stream(self._stream)


def new_lane(device: torch.device) -> Lane:
    """Return a lane that runs beside others, where a device can do that."""
    return StreamLane(device) if device.type == "cuda" else Lane()


@dataclass(slots=True, eq=False)
class _Running:
    task: Task
    lane: Lane
    steps: Iterator[bool]
    can_be_left: bool = True


@dataclass(slots=True)
class Lanes:
    """Runs tasks on `device`, at most `most` at the same time (None: `STREAMS`), and only as many
    as their shares allow.

    `now` is a clock that goes slower the more lanes share the GPU: the time between two readings is
    what the task that reads it has used of the device.
    """

    device: torch.device
    most: int | None = None
    clock: Callable[[], float] = time.monotonic
    _active: list[_Running] = field(default_factory=list)
    _free: list[Lane] = field(default_factory=list)
    _read_at: float | None = None
    _now: float = 0.0

    def now(self) -> float:
        """Return the shared time in seconds, from an arbitrary beginning."""
        at = self.clock()
        if self.device.type != "cuda":
            return at
        elapsed = 0.0 if self._read_at is None else at - self._read_at
        self._read_at, self._now = at, self._now + elapsed / max(1, len(self._active))
        return self._now

    def run(self, tasks: Sequence[Task], after_turn: Callable[[bool], None]) -> None:
        """Run tasks to their ends, in order. Call `after_turn` when all that run have done a piece;
        it is told whether one of them can be left there.

        If memory runs out in one lane while others are in use, the lane is given back, and its task
        waits for another.

        Raises:
            torch.OutOfMemoryError: if a task alone does not fit.
        """
        waiting = deque(tasks)
        try:
            while waiting or self._active:
                self._start(waiting)
                stops = [self._step(running, waiting) for running in list(self._active)]
                after_turn(any(stops))
        finally:  # even then: what lanes still read must not be given to others
            self.wait()
            self._active.clear()  # tasks that know these lanes would hold themselves

    def drain(self) -> None:
        """Go on with each task until it can be left, or fails; begin none."""
        for running in list(self._active):
            try:
                while running in self._active and not running.can_be_left:
                    self._advance(running)
            except Exception as error:
                self._end(running)
                fall_back("a task failed while it was being stopped", error)
        self.wait()

    def wait(self) -> None:
        """Wait until everything is computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _start(self, waiting: "deque[Task]") -> None:
        """Begin waiting tasks while there are room and lanes for the next."""
        while waiting and len(self._active) < min(STREAMS, self.most or STREAMS):
            used = sum(running.task.share for running in self._active)
            if self._active and used + waiting[0].share > 1 + 1e-9:
                return
            task = waiting.popleft()
            lane = self._free.pop() if self._free else self._new_lane()
            self._count()
            with lane.current():
                lane.enter()
                self._active.append(_Running(task, lane, task.steps(lane)))

    def _new_lane(self) -> Lane:
        return Lane() if self.most == 1 else new_lane(self.device)

    def _step(self, running: _Running, waiting: "deque[Task]") -> bool:
        """Let a task do a piece; say whether it can be left there."""
        try:
            return self._advance(running)
        except torch.OutOfMemoryError as error:
            if len(self._active) == 1 or not running.lane.gives_back:
                raise
            self._end(running)
            fall_back("fewer trainings ran side by side, because memory ran out", error)
        self.most = len(self._active)
        waiting.appendleft(running.task)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _advance(self, running: _Running) -> bool:
        with running.lane.current():
            try:
                running.can_be_left = next(running.steps)
            except StopIteration:
                self._end(running)
                self._free.append(running.lane)
                return False
        return running.can_be_left

    def _count(self) -> None:
        """Let the clock go on until now, before the number of tasks changes."""
        if self.device.type == "cuda":
            self.now()

    def _end(self, running: _Running) -> None:
        self._count()
        running.lane.leave()
        self._active.remove(running)


def read_out(values: Tensor) -> Generator[bool, None, Any]:
    """Read numbers of a task out of the device, as nested lists; in a lane, while others go on."""
    if not in_a_lane(values.device):
        return values.tolist()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    while not done.query():  # type: ignore[no-untyped-call]
        yield False
    return host.tolist()
