"""Do the measurements of a pack that the store does not hold, one by one or together."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from phasegrid.declare import Metric, import_function
from phasegrid.errors import StoreError
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import MetricJob
from phasegrid.packs import Outcome, Pack
from phasegrid.registry import resolve_metric
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.stopping import ShouldStop, Stopped
from phasegrid.run.worker.failing import failed, found_already, guarded, raise_if_of_no_job
from phasegrid.run.worker.inputs import JobInputs, arguments_of, generator_of
from phasegrid.run.worker.turning import Turning, can_take_turns, new_lanes
from phasegrid.store.store import Store


def measure(
    pack: Pack, store: Store, place: PackOptions, device: torch.device, should_stop: ShouldStop
) -> list[Outcome]:
    """Do the measurements of a pack that the store does not hold, and publish each.

    Raises:
        Stopped: before the next measurement, if `should_stop` says so.
    """
    outcomes: list[Outcome] = []
    todo: list[MetricJob] = []
    for job in pack.metric_jobs:
        table = f"metrics/{job.metric.name}"
        outcome = found_already(store, pack, table, job.key)
        if outcome and job.request.wanted and store.tells_of_artifacts(table, job.key) is False:
            outcome = None  # measured by an earlier release, which left nothing
        if outcome is None:
            todo.append(job)
        else:
            outcomes.append(outcome)
    if not todo:
        return outcomes
    trials = {trial.key: trial for trial in pack.trials}
    inputs = JobInputs(store, device, trials, place)
    measuring = _Measuring(pack, inputs, {job.key for job in todo}, should_stop)
    resolved = cache(resolve_metric)  # an entry point is looked for in all that is installed
    for group in _joined(_groups(pack, todo), resolved, device):
        if should_stop():
            raise Stopped
        outcomes.extend(measuring.of_group(resolved(group[0].metric.name), group))
    return outcomes


def _joined(
    groups: Sequence[Sequence[MetricJob]], resolved: Callable[[str], Metric], device: torch.device
) -> list[Sequence[MetricJob]]:
    """Join the groups of the cells of a pack whose jobs are done side by side."""
    joined: dict[str, Sequence[MetricJob]] = {}
    for group in groups:
        first = group[0]
        turns = can_take_turns(resolved(first.metric.name), group, device)
        name = first.metric.name if turns else first.key
        joined[name] = [*joined.get(name, ()), *group]
    return list(joined.values())


def _groups(pack: Pack, jobs: Sequence[MetricJob]) -> list[Sequence[MetricJob]]:
    """Return the groups of jobs that are computed together, so that every job of `jobs` is done.

    A group is as the layout of the pack has it, with the jobs in it that are stored. Without a
    layout, a group holds the jobs of one metric with the same arguments.
    """
    groups: dict[str | int, Sequence[MetricJob]] = {}
    if pack.layout is None:
        for job in jobs:
            groups[id(job.metric)] = [*groups.get(id(job.metric), ()), job]
        return list(groups.values())
    of_job = {job.key: group for group in pack.layout.groups for job in group}
    for job in jobs:
        group = of_job.get(job.key, (job,))
        groups.setdefault(group[0].key, group)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Measuring:
    """The measuring of the jobs of a pack that are `missing` in the store; `inputs` loads what they
    read.
    """

    pack: Pack
    inputs: JobInputs
    missing: Collection[str]
    should_stop: ShouldStop

    def of_group(self, metric: Metric, jobs: Sequence[MetricJob]) -> list[Outcome]:
        """Do the jobs of a group that are missing. Compute a stored one beside them only if it
        changes the shape of the computation.
        """
        sound, outcomes = self._sound(metric, jobs)
        left = [job for job in sound if job.key in self.missing]
        if can_take_turns(metric, left, self.inputs.device):
            lanes = new_lanes(self.inputs.device)
            turning = Turning(self.pack, self.inputs, metric, lanes, self.should_stop)
            done = turning.measure(left)
            outcomes += done.values()
            left = [job for job in left if job.key not in done]
        elif left and self._can_be_together(metric, sound):
            together = self._together(metric, sound)
            if together is not None:
                return outcomes + together
        for job in left:
            if self.should_stop():
                raise Stopped
            outcomes.append(self._guarded(job, partial(self.inputs.measure, metric, job)))
        return outcomes

    def _sound(
        self, metric: Metric, jobs: Sequence[MetricJob]
    ) -> tuple[list[MetricJob], list[Outcome]]:
        """Return the jobs that can be measured, and the outcomes of those that cannot."""
        sound, outcomes = [], []
        for job in jobs:
            try:
                why = self.inputs.why_void(job)
            except StoreError as error:
                raise_if_of_no_job(error)
                if job.key in self.missing:
                    outcomes.append(failed(self.inputs.store, self.pack, job.key, error))
                continue
            if why is None:
                sound.append(job)
            elif job.key in self.missing:
                publish = partial(self.inputs.publish_void, metric, job, why)
                outcomes.append(self._guarded(job, publish))
        return sound, outcomes

    def _can_be_together(self, metric: Metric, jobs: Sequence[MetricJob]) -> bool:
        """Say whether one computation can do several jobs: they read final weights of trials that
        share their data and objective, and no number may depend on other jobs.
        """
        return (
            metric.compute_many is not None
            and len(jobs) > 1
            and not any(job.sources for job in jobs)
            and not self.inputs.place.reproducible
            and len({self.inputs.data_and_objective(job) for job in jobs}) == 1
        )

    def _together(self, metric: Metric, jobs: Sequence[MetricJob]) -> list[Outcome] | None:
        """Do several jobs from one computation and publish those that are missing. Return None if
        they must be done one by one: the metric says so, or the computation failed and the failure
        has to name its job.
        """
        started = time.perf_counter()
        try:
            tables = _computed_together(self.inputs, metric, jobs)
        except Exception as error:
            raise_if_of_no_job(error)
            name = jobs[0].metric.name
            fall_back(
                f"{len(jobs)} jobs of {name} that failed together were each done alone", error
            )
            return None
        if tables is None:
            return None
        seconds = (time.perf_counter() - started) / len(jobs)
        assert isinstance(tables, list)
        return [
            self._guarded(job, partial(self.inputs.publish, metric, job, rows, seconds))
            for job, rows in zip(jobs, tables, strict=True)
            if job.key in self.missing
        ]

    def _guarded(self, job: MetricJob, work: Callable[[], Outcome]) -> Outcome:
        return guarded(self.inputs.store, self.pack, job.key, work)


def _computed_together(inputs: JobInputs, metric: Metric, jobs: Sequence[MetricJob]) -> object:
    """Return what a metric's `compute_many` returns for some jobs; each network is loaded once."""
    networks = list(dict.fromkeys(network for job in jobs for network in job.networks))
    place = {network: index for index, network in enumerate(networks)}
    assert metric.compute_many is not None
    compute = import_function(metric.compute_many)
    return inputs.watched(
        jobs[0],
        networks,
        lambda models, data: compute(
            models,
            [tuple(place[network] for network in job.networks) for job in jobs],
            data,
            [generator_of(job.key) for job in jobs],
            **arguments_of(jobs[0], metric),
        ),
    )
