"""Drive a plan's packs through an executor until every job is stored or cannot be done.

The loop only moves packs: the policy is `Scheduler`, the work is the executor's, the results are
the store's.
"""

from collections import Counter
from collections.abc import Callable
from typing import Literal

from phasegrid.config.types import RunOptions
from phasegrid.errors import ClusterError
from phasegrid.packs import Outcome, Pack
from phasegrid.run.asking import Ask, Situation, nothing_more
from phasegrid.run.executors.base import Executor, PackResult
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.stopping import Stop, Stopped, drain, why_stop

Event = Literal["submitted", "finished", "lost", "tick"]
Observe = Callable[[Event, Scheduler, Pack | None, PackResult | None], None]


def run_packs(
    scheduler: Scheduler,
    executor: Executor,
    observe: Observe,
    stop: Stop,
    options: RunOptions,
    record_lost: Callable[[PackResult, int], None],
    poll_s: float = 0.5,
    ask: Ask = nothing_more,
) -> None:
    """Run until nothing is left and `ask` adds nothing, a stop is requested, or too much has
    failed.

    `record_lost(ending, attempt)` is called for each pack that was lost: it writes the failure to
    the store.
    """
    lost_times: Counter[str] = Counter()
    ended: list[Outcome] = []

    def take(endings: list[PackResult]) -> None:
        for ending in endings:
            if ending.lost is None:
                scheduler.finished(ending.pack, ending.outcomes)
                ended.extend(o for o in ending.outcomes if scheduler.has_ended(o.key))
                observe("finished", scheduler, ending.pack, ending)
                continue
            lost_times[ending.pack.key] += 1
            record_lost(ending, lost_times[ending.pack.key])
            if not scheduler.lost(ending.pack, ending.lost, ending.kind):
                (key,) = ending.pack.job_keys()
                ended.append(Outcome(key, "failed", error=scheduler.failures[key]))
            observe("lost", scheduler, ending.pack, ending)

    def add_what_is_asked_for() -> None:
        told = Situation(tuple(ended), scheduler.num_ready, scheduler.in_flight, executor.slots)
        ended.clear()
        scheduler.add(ask(told))

    try:
        add_what_is_asked_for()
        while not scheduler.over and stop.why is None:
            while scheduler.in_flight < executor.slots and stop.why is None:
                pack = scheduler.next_pack()
                if pack is None:
                    break
                observe("submitted", scheduler, pack, None)
                executor.submit(pack)
            take(executor.wait(poll_s))
            observe("tick", scheduler, None, None)
            stop.why = why_stop(scheduler.counts, options) or stop.why
            if stop.why is None and (ended or scheduler.over):
                add_what_is_asked_for()
        if scheduler.in_flight:
            drain(scheduler, executor, stop, take)
    except Stopped:
        stop.why = stop.why or "stopped"
    except ClusterError:
        if stop.why is None:
            raise  # otherwise it was stopped together with us, in one process group
