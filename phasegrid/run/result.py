"""The result of a run: exit code, counts, failures, and advice, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console

from phasegrid.fallbacks import Fallback
from phasegrid.plan.contents import Plan
from phasegrid.redaction import redact
from phasegrid.run.counts import Counts, open_jobs
from phasegrid.run.scheduler import BLOCKED, Scheduler
from phasegrid.run.status import job_names, stored_jobs, tally
from phasegrid.run.stopping import Stop
from phasegrid.store.failures import fallback_of_pack
from phasegrid.store.store import Store
from phasegrid.texts import counted

if TYPE_CHECKING:
    from phasegrid.store.results import Results

MEANINGS = {
    0: "all planned work is stored",
    1: "some jobs failed",
    3: "stopped before the end",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one run of a sweep.

    `exit_code` is the exit code of the command (`MEANINGS`). `counts` are of the jobs that were
    missing at the beginning. `failures` maps the name of a job to why it has no result (``blocked:
    ...`` if a job that it needs has none). `fallbacks` counts work that was done another way
    because the first way failed, once a pack. `is_news` says that there is something new to draw.
    """

    sweep: str
    storage: str
    exit_code: int
    counts: Counts = field(default_factory=Counts)
    failures: Mapping[str, str] = field(default_factory=dict)
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    stopped: str | None = None
    is_news: bool = False

    @property
    def ok(self) -> bool:
        """Whether all planned work is stored."""
        return self.exit_code == 0

    @property
    def results(self) -> "Results":
        """The store, opened for reading."""
        from phasegrid.store.results import open_results

        return open_results(self.storage)

    def __str__(self) -> str:
        meaning = MEANINGS.get(self.exit_code, "stopped")
        counts = self.counts
        what = f"{counts.stored} of {counts.total} missing jobs done" if counts.total else "no jobs"
        rest = [f"{counts.failed} failed"] if counts.failed else []
        rest += [f"{counts.blocked} blocked"] if counts.blocked else []
        return f"{self.sweep}: {meaning} ({', '.join([what, *rest])})"


def conclude(
    scheduler: Scheduler,
    plan: Plan,
    store: Store,
    stop: Stop,
    is_pilot: bool,
    is_news: bool,
    fallbacks: Mapping[str, Fallback],
) -> RunResult:
    """Return the result of a run; a pilot may leave work undone. `fallbacks` are the driver's."""
    names = job_names(plan) if scheduler.failures else {}
    return RunResult(
        plan.sweep,
        store.url,
        _exit_code(scheduler.counts, plan, store, stop, is_pilot),
        scheduler.counts,
        {names.get(key, key): why for key, why in scheduler.failures.items()},
        Counter(store_fallbacks(fallbacks, store)) + scheduler.fallbacks,
        stop.why,
        is_news or scheduler.counts.stored > 0,
    )


def tell(result: RunResult, scheduler: Scheduler, plan: Plan, console: Console) -> None:
    """Print the result of a run, and the commands that tell more."""
    counts = result.counts
    notes = [f"{counts.stored} of {counts.total} jobs stored"]
    notes += [f"{counts.diverged} trainings diverged"] if counts.diverged else []
    notes += [f"{counts.failed} failed"] if counts.failed else []
    notes += [f"{counts.blocked} blocked by a failure"] if counts.blocked else []
    lines = [", ".join(notes)]
    lines += blocked_lines(scheduler.failures.values())
    if counts.failed:
        failed = (k for k, why in scheduler.failures.items() if not why.startswith(BLOCKED))
        cell = _cell_of(next(failed), plan)
        lines += [
            f"tracebacks of a cell: phasegrid logs --cell {cell} --sweep {plan.sweep} --storage"
            f" {result.storage}",
            _query(result.storage, "later_done is not true and kind != 'fallback'", "failure"),
        ]
    lines += tell_fallbacks(result)
    if result.stopped is not None:
        lines.append(
            f"stopped ({result.stopped}): what is finished is stored; {open_jobs(counts)}."
            " Run the same command again to go on."
        )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


_MOST_CULPRITS = 3


def blocked_lines(failures: Iterable[str]) -> list[str]:
    """Say which failures block most jobs, and how many more are blocked.

    >>> blocked_lines(["blocked: " + each for each in "abbcd"])
    ['  2 blocked: b', '  1 blocked: a', '  1 blocked: c', '  and 1 more']
    """
    blocked = [why.removeprefix(BLOCKED) for why in failures if why.startswith(BLOCKED)]
    culprits = Counter(blocked).most_common()
    more = sum(count for _, count in culprits[_MOST_CULPRITS:])
    lines = [f"  {count} blocked: {culprit}" for culprit, count in culprits[:_MOST_CULPRITS]]
    return [*lines, f"  and {more} more"] if more else lines


def tell_fallbacks(result: RunResult) -> list[str]:
    """Say in one line how often work was done another way, and which work most often."""
    if not result.fallbacks:
        return []
    most, times = Counter(result.fallbacks).most_common(1)[0]
    every = sum(result.fallbacks.values())
    share = "" if every == times else f"{times} times: "
    where = _query(result.storage, "kind = 'fallback'", "one")
    return [
        f"note: work failed and was done another way {counted(every, 'time')};"
        f" {share}{most}. {where}"
    ]


def store_fallbacks(found: Mapping[str, Fallback], store: Store) -> dict[str, int]:
    """Store and count the fallbacks of a run's driver."""
    for fallback in found.values():
        store.put_failure(fallback_of_pack(None, fallback))
    return dict.fromkeys((redact(str(fallback)) for fallback in found.values()), 1)


def _query(storage: str, which: str, what: str) -> str:
    select = f'"select key, kind, exception from failures where {which}"'
    return f"every {what}: phasegrid query --storage {storage} {select}"


def _exit_code(counts: Counts, plan: Plan, store: Store, stop: Stop, is_pilot: bool) -> int:
    if stop.why is not None:
        if stop.signum is not None:
            return 128 + stop.signum
        return 1 if counts.failed else 3
    if counts.failed or counts.blocked:
        return 1
    return 3 if is_pilot and _is_missing(plan, store) else 0


def _cell_of(key: str, plan: Plan) -> int:
    return next(cell.index for cell, job in plan.jobs() if job.key == key)


def _is_missing(plan: Plan, store: Store) -> bool:
    return any(t.missing for t in tally(plan, stored_jobs(store, plan)))
