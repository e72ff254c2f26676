"""Request that a run stops early, and obey such requests."""

from collections.abc import Callable
from dataclasses import dataclass

from phasegrid.config.types import RunOptions
from phasegrid.run.counts import Counts
from phasegrid.run.executors.base import Executor, PackResult
from phasegrid.run.scheduler import Scheduler
from phasegrid.texts import counted

ShouldStop = Callable[[], bool]
GRACE_S = 3.0  # how long running packs may go on after a request to stop


def _never() -> bool:
    return False


@dataclass(slots=True)
class Stop:
    """A request to stop, set by a signal or a budget. `why` is None until then.

    Running packs may continue for `grace_s` after that, unless `hurry` forbids it.
    """

    why: str | None = None
    signum: int | None = None
    grace_s: float = GRACE_S
    hurry: Callable[[], bool] = _never


class Stopped(BaseException):
    """Raised in work in this process after a request to stop; everything stored stays stored."""


def why_stop(counts: Counts, options: RunOptions) -> str | None:
    """Say why a run stops if more has failed than its options allow; None if it goes on."""
    if counts.failed and options.on_error == "stop":
        return f"a job failed and on_error is stop ({counts.failed} failed)"
    if options.max_failures is not None and counts.failed > options.max_failures:
        failed = counted(counts.failed, "job")
        return f"{failed} failed, more than max_failures: {options.max_failures}"
    return None


def drain(
    scheduler: Scheduler,
    executor: Executor,
    stop: Stop,
    take: Callable[[list[PackResult]], None],
) -> None:
    """Wait a moment for running packs. Those that end in time are counted; the others continue from
    their snapshots in the next run.
    """
    tries = max(1, int(stop.grace_s / 0.5))
    for _ in range(tries):
        take(executor.wait(0.5))
        if not scheduler.in_flight or stop.hurry():
            return
