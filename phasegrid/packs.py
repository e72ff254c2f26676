"""What one process does together, and how that ended.

A *pack* is a list of jobs. It is how work is scheduled and never part of a job's identity.
Standard library only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from phasegrid.jobs import MetricJob, Trial


@dataclass(frozen=True, slots=True)
class Layout:
    """What a pack was laid out to do, some of which may be stored by now.

    Shapes of what is computed together follow from this and not from what is missing, so that a run
    that goes on rounds as one that was never interrupted. `trials` are those of a training pack, in
    order; `groups` are measurements that one computation does; `cost_s` is what all of it was
    predicted to take.
    """

    trials: tuple[Trial, ...] = ()
    groups: tuple[tuple[MetricJob, ...], ...] = ()
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pack:
    """Jobs that one process does together.

    `kind` is ``train`` or ``measure``. `key` names the pack for logs and snapshots; it is derived
    from the keys of its jobs. `needs` are the keys of the jobs that must be stored before it can
    start. `trials` are the trials to train (``train``) or those the metric jobs, and those of their
    groups, are about (``measure``). `layout` None: these jobs are all, torn from what they were
    laid out with.
    """

    key: str
    kind: Literal["train", "measure"]
    cell: int
    trials: tuple[Trial, ...]
    metric_jobs: tuple[MetricJob, ...] = ()
    needs: tuple[str, ...] = ()
    cost_s: float = 0.0
    layout: Layout | None = None

    @property
    def jobs(self) -> "tuple[Trial, ...] | tuple[MetricJob, ...]":
        """Return the jobs this pack does."""
        return self.trials if self.kind == "train" else self.metric_jobs

    def job_keys(self) -> tuple[str, ...]:
        """Return the keys of the jobs this pack does."""
        return tuple(job.key for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job of a pack ended; small enough to travel through any executor.

    `status` is ``done``, ``diverged`` (a result), ``not_applicable`` (a metric over a diverged
    trial; a result), ``already`` (it was stored before) or ``failed``. `error` holds exception and
    traceback of a failure. The first outcome of a pack says what of the pack was done another way
    because the first way failed (`fallbacks`).
    """

    key: str
    status: Literal["done", "diverged", "not_applicable", "already", "failed"]
    seconds: float = 0.0
    error: str | None = None
    kind: Literal["app", "infra", "oom"] | None = None
    fallbacks: tuple[str, ...] = ()


def needs_of(jobs: Iterable[Trial | MetricJob]) -> tuple[str, ...]:
    """Return the keys of the jobs that must be stored before these can be done."""
    return tuple(dict.fromkeys(chain.from_iterable(job.needs for job in jobs)))
