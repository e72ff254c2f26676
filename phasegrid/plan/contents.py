"""Say what a plan holds: cells with their trials and measurements, and their keys.

A *cell* is one (load, temperature) point of one facet.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from phasegrid.estimates import Workload
from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import Json, content_key


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid with its trials (in the order of the seeds) and its metric jobs.

    Where the sweep has several `stages`, it has the trials of each, one stage after the other;
    `stages` are their names, each with the number of its trials.
    `facet` holds (path, value) pairs; `load` and `temperature` are None where the sweep has no such
    axis; `work` is None where the model or the data set is a plug-in that does not say.
    """

    index: int
    facet: tuple[tuple[str, Json], ...]
    load: Json
    temperature: Json
    trials: tuple[Trial, ...]
    metric_jobs: tuple[MetricJob, ...]
    work: Workload | None = None
    stages: Mapping[str, int] = field(default_factory=dict)

    def trials_of(self, stage: str | None = None) -> tuple[Trial, ...]:
        """Return the trials of a stage, in the order of the seeds; None: of the last."""
        if not self.stages:
            return self.trials
        wanted, end = stage or list(self.stages)[-1], 0
        for name, num in self.stages.items():
            end += num
            if name == wanted:
                return self.trials[end - num : end]
        raise KeyError(wanted)

    def staged(self) -> Iterator[tuple[str | None, Trial]]:
        """Yield every trial with its stage; None where the sweep has but one."""
        for stage in self.stages or (None,):
            for trial in self.trials_of(stage):
                yield stage, trial


@dataclass(frozen=True, slots=True)
class Plan:
    """Every cell of a sweep, with the paths of its axes and their names in the sweep (path, label).

    `across` are the measurements over trials of several cells. They belong to the sweep and to no
    cell; each stands with the index of the cell of its first trial, where it is scheduled.
    """

    sweep: str
    load_path: str | None
    temperature_path: str | None
    cells: tuple[Cell, ...]
    axis_names: tuple[tuple[str, str], ...] = ()
    across: tuple[tuple[int, MetricJob], ...] = ()

    def metric_jobs(self) -> Iterator[tuple[Cell, MetricJob]]:
        """Yield every measurement with the cell that it is scheduled with: those of the cells, then
        those across cells.
        """
        for cell in self.cells:
            for job in cell.metric_jobs:
                yield cell, job
        for index, job in self.across:
            yield self.cells[index], job

    def jobs(self) -> Iterator[tuple[Cell, Trial | MetricJob]]:
        """Yield every job once, with the first cell that has it: trainings, then measurements."""
        seen = set[str]()
        trials = ((cell, trial) for cell in self.cells for trial in cell.trials)
        every: Iterator[tuple[Cell, Trial | MetricJob]] = chain(trials, self.metric_jobs())
        for cell, job in every:
            if job.key not in seen:
                seen.add(job.key)
                yield cell, job


def plan_hash(plan: Plan) -> str:
    """Return the key of a plan: it changes exactly when one of its jobs does."""
    keys = sorted(all_keys(plan))
    return content_key("plan", 1, keys)


def all_keys(plan: Plan) -> set[str]:
    """Return the keys of every trial and metric job of a plan."""
    keys = {trial.key for cell in plan.cells for trial in cell.trials}
    keys.update(job.key for _, job in plan.metric_jobs())
    return keys


def trials_by_key(plan: Plan) -> dict[str, Trial]:
    """Return every distinct trial of a plan."""
    return {trial.key: trial for cell in plan.cells for trial in cell.trials}


def metric_names(plan: Plan) -> list[str]:
    """Return the names of the metrics of a plan, sorted."""
    return sorted({job.metric.name for _, job in plan.metric_jobs()})
