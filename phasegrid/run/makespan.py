"""Predict how long a run will take: simulate the real policy with workers that take the predicted
seconds.
"""

import heapq
from collections.abc import Collection, Sequence

from phasegrid.packs import Outcome, Pack
from phasegrid.run.scheduler import Scheduler


def simulate_makespan(packs: Sequence[Pack], stored: Collection[str], slots: int) -> float:
    """Predict the seconds of a run on `slots` workers. Exact for the policy; only as good as the
    packs' `cost_s`.
    """
    scheduler = Scheduler(packs, stored)
    running: list[tuple[float, int, Pack]] = []
    now, order = 0.0, 0
    while not scheduler.over:
        while len(running) < slots and (pack := scheduler.next_pack()):
            order += 1
            heapq.heappush(running, (now + pack.cost_s, order, pack))
        now, _, pack = heapq.heappop(running)
        scheduler.finished(pack, [Outcome(key, "done") for key in pack.job_keys()])
    return now
