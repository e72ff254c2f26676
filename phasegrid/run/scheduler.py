"""The policy of a run, without I/O: which pack next, what an ending means, what is left.

Events go in (`finished`, `lost`, `add`), decisions come out (`next_pack`, the counts). No clock, no
store, no executor: a test or a simulation drives it as Ray does. Open cells are finished first
(their measurements before new trainings), and among equals the longest pack goes first.

A job is ready when every job that it needs is stored. When one of these fails, the job is blocked,
and so is all that needs it in turn; each is told the name of the job that failed.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from phasegrid.config.types import Retries
from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import content_key
from phasegrid.packs import Outcome, Pack, needs_of
from phasegrid.run.executors.base import LostKind

BLOCKED = "blocked: "
"""How what is said of a job begins that waits for one that has failed."""

CRASHES = 1
"""How often what has crashed its process is tried again as it was. A crash that is the work's own
comes again, five tries cost five processes; one of chance (a fault of the memory) does not.
"""


@dataclass(slots=True)
class Counts:
    """Jobs by what became of them. `already` were stored before they were tried."""

    total: int = 0
    done: int = 0
    diverged: int = 0
    not_applicable: int = 0
    already: int = 0
    failed: int = 0
    blocked: int = 0

    @property
    def stored(self) -> int:
        """Jobs of this run whose result is in the store."""
        return self.done + self.diverged + self.not_applicable + self.already

    @property
    def open(self) -> int:
        """Jobs that have neither a result nor a failure."""
        return self.total - self.stored - self.failed - self.blocked


@dataclass(slots=True)
class Scheduler:
    """The state of one run over its packs, those of the beginning and those that are added.

    A pack whose process dies `retries.infra` + 1 times, or crashes twice, is blamed for it (a
    poison job) and given up; a job that raises or stands still is tried again `retries.app` times.
    `stored` are keys whose results were there before the run. Every pack handed out by `next_pack`
    must come back through `finished` or `lost`.
    """

    packs: Sequence[Pack]
    stored: Collection[str]
    retries: Retries = field(default_factory=Retries)
    counts: Counts = field(default_factory=Counts)
    failures: dict[str, str] = field(default_factory=dict)
    fallbacks: Counter[str] = field(default_factory=Counter)
    _results: set[str] = field(default_factory=set)
    _names: dict[str, str] = field(default_factory=dict)
    _culprits: dict[str, str] = field(default_factory=dict)
    _ready: list[tuple[int, float, int, Pack]] = field(default_factory=list)
    _waiting: dict[str, set[str]] = field(default_factory=dict)
    _by_need: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _by_key: dict[str, Pack] = field(default_factory=dict)
    _attempts: dict[tuple[str, str], int] = field(default_factory=dict)
    _in_flight: dict[str, Pack] = field(default_factory=dict)
    _order: int = 0
    done_cost_s: float = 0.0

    def __post_init__(self) -> None:
        self.add(self.packs)

    def add(self, packs: Sequence[Pack]) -> None:
        """Take packs into the run, which may have begun: none holds a job that the run has.

        What they need may be stored, of the beginning, or among the packs that are added. A job
        that needs anything else, or a job that has failed, is blocked.
        """
        for pack in packs:
            assert pack.key not in self._by_key, f"pack {pack.key} is added twice"
            self.counts.total += len(pack.job_keys())
            self._names.update((job.key, _name_of(job)) for job in pack.jobs)
            self._admit(pack)
        for key in dict.fromkeys(key for pack in packs for key in pack.needs):
            if key not in self._by_need:
                continue
            if key in self._culprits:
                self._block_dependants(key, self._culprits[key])
            elif key not in self._names:
                about = any(key in job.trials for p in packs for job in p.metric_jobs)
                name = "trial" if about else "job"
                self._block_dependants(key, f"{name} {key} is neither stored nor planned")

    def _admit(self, pack: Pack) -> None:
        """Put a pack where it belongs: ready, or waiting for what it needs."""
        missing = {key for key in pack.needs if not self._has_result(key)}
        if not missing:
            self._push(pack)
            return
        self._by_key[pack.key] = pack
        self._waiting[pack.key] = missing
        for key in missing:
            self._by_need[key].append(pack.key)

    def _has_result(self, key: str) -> bool:
        return key in self.stored or key in self._results

    def next_pack(self) -> Pack | None:
        """Hand out the next pack to do, or None if nothing is ready now."""
        if not self._ready:
            return None
        pack = heapq.heappop(self._ready)[-1]
        self._in_flight[pack.key] = pack
        return pack

    @property
    def num_ready(self) -> int:
        """How many packs could be handed out now."""
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        """How many packs are handed out and not back."""
        return len(self._in_flight)

    @property
    def cut_off(self) -> tuple[Pack, ...]:
        """The packs that are handed out and not back: after a stop, those that it cut off."""
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
        """Predicted seconds on one core of everything not finished."""
        packs = [entry[-1] for entry in self._ready]
        packs += [self._by_key[key] for key in self._waiting]
        return sum(p.cost_s for p in packs) + sum(p.cost_s for p in self._in_flight.values())

    def finished(self, pack: Pack, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of a pack: unlock what waited for them, retry or give up what
        failed.
        """
        del self._in_flight[pack.key]
        self.done_cost_s += pack.cost_s
        again = []
        for outcome in outcomes:
            self.fallbacks.update(outcome.fallbacks)
            if outcome.status != "failed":
                self._count(outcome)
                self._results.add(outcome.key)
                self._unlock(outcome.key)
            elif self._may_retry(outcome.key, outcome.kind or "app"):
                again.append(outcome.key)
            else:
                self._fail(outcome.key, outcome.error or "unknown error")
        if again:
            self._push(_part_of(pack, again))

    def lost(self, pack: Pack, why: str, kind: LostKind = "infra") -> bool:
        """Take note that a pack was lost; return whether anything of it will be tried again.

        A pack of several jobs that was too large for the memory is halved. One that stood still, or
        has used up its tries, has each of its jobs tried alone, so that a poison job is found by
        name and takes no other down with it. Only then are jobs torn from what they were laid out
        with. One whose process has crashed is tried once more (`CRASHES`): most come again.
        """
        del self._in_flight[pack.key]
        keys = pack.job_keys()
        if _is_alone(pack):
            if not self._may_retry(pack.key, kind):
                tries = self._attempts[(pack.key, kind)]
                self._fail(keys[0], f"{why} (each of {tries} times)" if tries > 1 else why)
                return False
            self._push(pack)
        elif kind == "oom":
            half = len(keys) // 2
            for part in (keys[:half], keys[half:]):
                if part:
                    self._push(replace(_part_of(pack, part), layout=None))
        elif kind in ("infra", "crash") and self._may_retry(pack.key, kind):
            self._push(pack)
        else:
            for key in keys:
                alone = replace(_part_of(pack, [key]), layout=None)
                if kind in ("infra", "crash"):
                    self._attempts[(alone.key, kind)] = self._limit(kind)
                self._push(alone)
        return True

    def _may_retry(self, key: str, kind: str) -> bool:
        used = self._attempts.get((key, kind), 0)
        self._attempts[(key, kind)] = used + 1
        return used < self._limit(kind)

    def _limit(self, kind: str) -> int:
        """Return how often something may be tried again after it was lost so."""
        if kind == "crash":
            return min(CRASHES, self.retries.infra)
        return self.retries.infra if kind in ("infra", "oom") else self.retries.app

    def _push(self, pack: Pack) -> None:
        self._order += 1
        self._by_key[pack.key] = pack
        entry = (0 if pack.kind == "measure" else 1, -pack.cost_s, self._order, pack)
        heapq.heappush(self._ready, entry)

    def _count(self, outcome: Outcome) -> None:
        setattr(self.counts, outcome.status, getattr(self.counts, outcome.status) + 1)

    def _unlock(self, key: str) -> None:
        for name in self._by_need.pop(key, ()):
            waiting = self._waiting.get(name)
            if waiting is None:
                continue
            waiting.discard(key)
            if not waiting:
                del self._waiting[name]
                self._push(self._by_key[name])

    def _fail(self, key: str, why: str) -> None:
        self.counts.failed += 1
        self.failures[key] = why
        self._block_dependants(key, f"{self._names[key]} {key} failed")

    def _block_dependants(self, key: str, culprit: str) -> None:
        """Block all that needs a job that will have no result, and what needs that in turn."""
        self._culprits[key] = culprit
        for name in self._by_need.pop(key, ()):
            if self._waiting.pop(name, None) is not None:
                self._block_jobs(self._by_key[name], key, culprit)

    def _block_jobs(self, pack: Pack, missing: str, culprit: str) -> None:
        """Block the jobs of a pack that need a missing one; the others of it may still be done."""
        blocked = [job.key for job in pack.jobs if missing in job.needs]
        rest = [key for key in pack.job_keys() if key not in blocked]
        self.counts.blocked += len(blocked)
        if rest:
            self._admit(_part_of(_without(pack, missing), rest))
        for key in blocked:
            self.failures[key] = BLOCKED + culprit
            self._block_dependants(key, culprit)


def _name_of(job: Trial | MetricJob) -> str:
    """Return what a person calls the kind of a job."""
    return "trial" if isinstance(job, Trial) else job.metric.name


def _is_alone(pack: Pack) -> bool:
    """Say whether a pack computes one job and nothing else, that it may be blamed for what becomes
    of its process.
    """
    if len(pack.job_keys()) > 1:
        return False
    layout = pack.layout
    return layout is None or (len(layout.trials) <= 1 and all(len(g) <= 1 for g in layout.groups))


def _without(pack: Pack, failed: str) -> Pack:
    """Return a pack whose layout has no job that needs one that failed."""
    if pack.layout is None:
        return pack
    groups = (tuple(j for j in group if failed not in j.needs) for group in pack.layout.groups)
    trials = tuple(trial for trial in pack.layout.trials if failed not in trial.needs)
    return replace(pack, layout=replace(pack.layout, groups=tuple(groups), trials=trials))


def _part_of(pack: Pack, keys: Collection[str]) -> Pack:
    """Return the pack that does only these jobs of a pack, in the shape that they were laid out
    in.
    """
    wanted = set(keys)
    share = pack.cost_s * len(wanted) / max(1, len(pack.job_keys()))
    key = content_key("pack", 1, [k for k in pack.job_keys() if k in wanted])
    if pack.kind == "train":
        trials = tuple(trial for trial in pack.trials if trial.key in wanted)
        return replace(pack, key=key, trials=trials, needs=needs_of(trials), cost_s=share)
    jobs = tuple(job for job in pack.metric_jobs if job.key in wanted)
    groups = tuple(
        group
        for group in (pack.layout.groups if pack.layout else ())
        if any(job.key in wanted for job in group)
    )
    involved = [*jobs, *(job for group in groups for job in group)]
    about = {name for job in involved for name in job.trials}
    return replace(
        pack,
        key=key,
        metric_jobs=jobs,
        trials=tuple(trial for trial in pack.trials if trial.key in about),
        needs=needs_of(involved),
        cost_s=share,
        layout=replace(pack.layout, groups=groups) if pack.layout else None,
    )
