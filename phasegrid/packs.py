"""Packs: jobs that one process does together, and their outcomes.

A pack is how work is scheduled, and never part of a job's identity. Standard library only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from phasegrid.jobs import MetricJob, Trial


@dataclass(frozen=True, slots=True)
class Layout:
    """The jobs that a pack was planned with, including those that are already stored.

    The shapes of a joint computation follow from this and not from what is missing, so that a
    resumed run rounds like an uninterrupted one. `trials` are the trials of a training pack, in
    order; `groups` are the measurements that are computed together; `cost_s` is the predicted time
    for all of them.
    """

    trials: tuple[Trial, ...] = ()
    groups: tuple[tuple[MetricJob, ...], ...] = ()
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pack:
    """Jobs that one process does together.

    `kind` is ``train`` or ``measure``. `key` names the pack in logs and snapshots; it is derived
    from the keys of its jobs. `needs` are the keys of the jobs that must be stored before it can
    start. `trials` are the trials to train (``train``), or the trials that the metric jobs and
    their groups are about (``measure``). `layout` is None if the pack holds all jobs of a joint
    computation, separated from those that it was planned with.
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
    """How one job of a pack ended; small enough to be sent by any executor.

    `status` is ``done``, ``diverged`` (a result), ``not_applicable`` (a metric over a diverged
    trial; a result), ``already`` (stored before) or ``failed``. `error` holds the exception and
    traceback of a failure. `fallbacks`, on the first outcome of a pack, tells what was done another
    way because the first way failed.
    """

    key: str
    status: Literal["done", "diverged", "not_applicable", "already", "failed"]
    seconds: float = 0.0
    error: str | None = None
    kind: Literal["app", "infra", "oom"] | None = None
    fallbacks: tuple[str, ...] = ()


def needs_of(jobs: Iterable[Trial | MetricJob]) -> tuple[str, ...]:
    """Return the keys of the other jobs that must be stored before these can be done."""
    return tuple(dict.fromkeys(chain.from_iterable(job.needs for job in jobs)))
