"""The policy of a run, without I/O: which pack next, what an ending means, what is left.

Events go in (`finished`, `lost`, `add`), decisions come out (`next_pack`, the counts). It has no
clock, store or executor, so a test or a simulation can drive it as Ray does. Open cells are
finished first (their measurements before new trainings); of equal packs, the longest goes first.

A job is ready when every job that it needs is stored. When one of these fails, the job is blocked,
and so are the jobs that need it in turn; each message names the job that failed.
"""

import heapq
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from phasegrid.config.types import Retries
from phasegrid.packs import Outcome, Pack
from phasegrid.plan.cost import kind_of
from phasegrid.run.counts import Counts
from phasegrid.run.executors.base import LostKind
from phasegrid.run.parts import is_alone, part_of, suspects, torn_out, without
from phasegrid.run.tries import Tries
from phasegrid.run.waiting import Waiting

BLOCKED = "blocked: "
"""The beginning of the message about a job that waits for a failed one."""


@dataclass(slots=True)
class Scheduler:
    """The state of one run over its packs, initial and added.

    A pack whose process dies `retries.infra` + 1 times, or crashes twice, is given up as the cause
    (a poison job); a job that raises or hangs is tried again `retries.app` times. `stored` are keys
    whose results were there before the run. Every pack handed out by `next_pack` must come back
    through `finished` or `lost`.
    """

    packs: Sequence[Pack]
    stored: Collection[str]
    retries: Retries = field(default_factory=Retries)
    counts: Counts = field(default_factory=Counts)
    failures: dict[str, str] = field(default_factory=dict)
    fallbacks: Counter[str] = field(default_factory=Counter)
    done_cost_s: float = 0.0
    _results: set[str] = field(default_factory=set)
    _names: dict[str, str] = field(default_factory=dict)
    _culprits: dict[str, str] = field(default_factory=dict)
    _ready: list[tuple[int, float, int, Pack]] = field(default_factory=list)
    _waiting: Waiting = field(default_factory=Waiting)
    _in_flight: dict[str, Pack] = field(default_factory=dict)
    _tries: Tries = field(init=False)
    _order: int = 0

    def __post_init__(self) -> None:
        self._tries = Tries(self.retries)
        self.add(self.packs)

    def add(self, packs: Sequence[Pack]) -> None:
        """Add packs to the run, which may already have begun. They must not hold a job that the run
        has.

        What they need may be stored, planned before, or among the added packs. A job that needs
        anything else, or a job that has failed, is blocked.
        """
        for pack in packs:
            assert self._names.keys().isdisjoint(pack.job_keys()), f"pack {pack.key} is added twice"
            self.counts.total += len(pack.jobs)
            self._names.update((job.key, kind_of(job)) for job in pack.jobs)
            self._admit(pack)
        for key in dict.fromkeys(key for pack in packs for key in pack.needs):
            if key in self._waiting and key in self._culprits:
                self._block_dependants(key, self._culprits[key])
            elif key in self._waiting and key not in self._names:
                about = any(key in job.trials for p in packs for job in p.metric_jobs)
                name = "trial" if about else "job"
                self._block_dependants(key, f"{name} {key} is neither stored nor planned")

    def next_pack(self) -> Pack | None:
        """Hand out the next pack to do, or None if nothing is ready now."""
        if not self._ready:
            return None
        pack = heapq.heappop(self._ready)[-1]
        self._in_flight[pack.key] = pack
        return pack

    def finished(self, pack: Pack, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of a pack: unlock what waited for them, retry or give up the failed."""
        del self._in_flight[pack.key]
        self.done_cost_s += pack.cost_s
        again = []
        for outcome in outcomes:
            self.fallbacks.update(outcome.fallbacks)
            if outcome.status != "failed":
                setattr(self.counts, outcome.status, getattr(self.counts, outcome.status) + 1)
                self._results.add(outcome.key)
                for unlocked in self._waiting.stored(outcome.key):
                    self._push(unlocked)
            elif self._tries.may_retry(outcome.key, outcome.kind or "app"):
                again.append(outcome.key)
            else:
                self._fail(outcome.key, outcome.error or "unknown error")
        if again:
            self._push(part_of(pack, again))

    def lost(self, pack: Pack, why: str, kind: LostKind = "infra") -> bool:
        """Note that a pack was lost; return whether any of its jobs will be tried again.

        A pack of several jobs that ran out of memory is halved. If it hung, or has used up its
        tries, its `suspects` are tried apart, so that a poison job is identified and no other job
        fails with it. Only then are jobs separated from those with which they were laid out.
        """
        del self._in_flight[pack.key]
        keys = pack.job_keys()
        if is_alone(pack):
            if not self._tries.may_retry(pack.key, kind):
                tries = self._tries.made(pack.key, kind)
                self._fail(keys[0], f"{why} (each of {tries} times)" if tries > 1 else why)
                return False
            self._push(pack)
        elif kind == "oom":
            half = len(keys) // 2
            for some in (keys[:half], keys[half:]):
                if some:
                    self._push(torn_out(pack, some))
        elif kind in ("infra", "crash") and self._tries.may_retry(pack.key, kind):
            self._push(pack)
        else:
            for part in suspects(pack):
                apart = torn_out(pack, part)
                if kind in ("infra", "crash"):
                    self._tries.leave_one(apart.key, kind)
                self._push(apart)
        return True

    @property
    def num_ready(self) -> int:
        """How many packs could be handed out now."""
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        """How many packs are handed out and have not come back."""
        return len(self._in_flight)

    @property
    def cut_off(self) -> tuple[Pack, ...]:
        """The packs that are handed out and have not come back; a stop interrupts them."""
        return tuple(self._in_flight.values())

    @property
    def over(self) -> bool:
        """Whether nothing is running and nothing can be started."""
        return not self._in_flight and not self._ready

    def has_ended(self, key: str) -> bool:
        """Say whether a job has a result or is given up."""
        return self._has_result(key) or key in self.failures

    @property
    def open_cost_s(self) -> float:
        """Predicted seconds on one core for everything that is not finished."""
        packs = [*(entry[-1] for entry in self._ready), *self._waiting.packs()]
        return sum(p.cost_s for p in packs) + sum(p.cost_s for p in self._in_flight.values())

    def _has_result(self, key: str) -> bool:
        return key in self.stored or key in self._results

    def _admit(self, pack: Pack) -> None:
        """Put a pack where it belongs: ready, or waiting for what it needs."""
        missing = {key for key in pack.needs if not self._has_result(key)}
        if missing:
            self._waiting.add(pack, missing)
        else:
            self._push(pack)

    def _push(self, pack: Pack) -> None:
        self._order += 1
        entry = (0 if pack.kind == "measure" else 1, -pack.cost_s, self._order, pack)
        heapq.heappush(self._ready, entry)

    def _fail(self, key: str, why: str) -> None:
        self.counts.failed += 1
        self.failures[key] = why
        self._block_dependants(key, f"{self._names[key]} {key} failed")

    def _block_dependants(self, key: str, culprit: str) -> None:
        """Block the jobs that need a job without a result, and the jobs that need them in turn.
        Other jobs of their packs may still be done.
        """
        self._culprits[key] = culprit
        for pack in self._waiting.in_vain(key):
            blocked = [job.key for job in pack.jobs if key in job.needs]
            rest = [name for name in pack.job_keys() if name not in blocked]
            self.counts.blocked += len(blocked)
            if rest:
                self._admit(part_of(without(pack, key), rest))
            for name in blocked:
                self.failures[name] = BLOCKED + culprit
                self._block_dependants(name, culprit)
