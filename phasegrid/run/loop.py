"""Drive a plan's packs through an executor until everything is stored or cannot be.

The loop only moves packs: the policy is `Progress`, the work is the executor's, the results are the
store's.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from phasegrid.config.types import RunOptions
from phasegrid.errors import ClusterError
from phasegrid.jobs import Pack
from phasegrid.run.executors.base import Executor, PackResult
from phasegrid.run.scheduler import Progress

Event = Literal["submitted", "finished", "lost", "tick"]
Observe = Callable[[Event, Progress, Pack | None, PackResult | None], None]


GRACE_S = 3.0  # how long running packs may go on after a stop was asked for


def _never() -> bool:
    return False


@dataclass(slots=True)
class Stop:
    """A request to stop, set by a signal or a budget. `why` is None until then.

    Running packs may go on for `grace_s` after that, unless `hurry` says that they may not.
    """

    why: str | None = None
    signum: int | None = None
    grace_s: float = GRACE_S
    hurry: Callable[[], bool] = _never


class Stopped(BaseException):
    """Raised inside work done in this process when a stop was asked for; everything stored stays
    stored.
    """


def run_packs(
    progress: Progress,
    executor: Executor,
    observe: Observe,
    stop: Stop,
    options: RunOptions,
    record_lost: Callable[[PackResult, int], None],
    poll_s: float = 0.5,
) -> None:
    """Run until nothing is left, a stop is asked for, or too much failed.

    `record_lost(ending, attempt)` is called for each pack that was lost: it writes the failure to
    the store.
    """
    lost_times: Counter[str] = Counter()

    def take(endings: list[PackResult]) -> None:
        for ending in endings:
            if ending.lost is None:
                progress.finished(ending.pack, ending.outcomes)
                observe("finished", progress, ending.pack, ending)
                continue
            lost_times[ending.pack.key] += 1
            record_lost(ending, lost_times[ending.pack.key])
            progress.lost(ending.pack, ending.lost, ending.kind)
            observe("lost", progress, ending.pack, ending)

    try:
        while not progress.over and stop.why is None:
            while progress.in_flight < executor.slots and stop.why is None:
                pack = progress.next_pack()
                if pack is None:
                    break
                observe("submitted", progress, pack, None)
                executor.submit(pack)
            take(executor.wait(poll_s))
            observe("tick", progress, None, None)
            _check_failures(progress, stop, options)
        if progress.in_flight:
            _drain(progress, executor, stop, take)
    except Stopped:
        stop.why = stop.why or "stopped"
    except ClusterError:
        if stop.why is None:
            raise  # else it was stopped with us, as where a whole process group is


def _check_failures(progress: Progress, stop: Stop, options: RunOptions) -> None:
    failed = progress.counts.failed
    if failed and options.on_error == "stop":
        stop.why = f"a job failed and on_error is stop ({failed} failed)"
    elif options.max_failures is not None and failed > options.max_failures:
        stop.why = f"{failed} jobs failed, more than max_failures: {options.max_failures}"


def _drain(
    progress: Progress,
    executor: Executor,
    stop: Stop,
    take: Callable[[list[PackResult]], None],
) -> None:
    """Give running packs a moment: what ends in time is counted, the rest is snapshot and store."""
    tries = max(1, int(stop.grace_s / 0.5))
    for _ in range(tries):
        take(executor.wait(0.5))
        if not progress.in_flight or stop.hurry():
            return
