"""Group the jobs of a plan that are not stored yet into packs, which one process does together.

Pure: no torch, no disk, no clock.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby

from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import content_key
from phasegrid.packs import Layout, Pack, needs_of
from phasegrid.plan.contents import Cell, Plan, trials_by_key

PACK_SIZE = 32
"""The most trainings in one pack, unless a sweep says otherwise."""

CostOf = Callable[[Cell, "Trial | MetricJob"], float]


def make_packs(
    plan: Plan,
    stored: Collection[str],
    cost: CostOf,
    pack_size: int = PACK_SIZE,
    measure_s: float = 2.0,
) -> list[Pack]:
    """Group the jobs that are not stored into packs.

    The trials of a cell train together, at most `pack_size` at a time. Its light metric jobs are
    one pack, so are the heavy jobs of one metric that can do several together, and any other heavy
    job is a pack of its own. Small packs of neighbouring cells whose trials are all stored already
    are joined up to `measure_s` predicted seconds, but for those that are laid out by cell
    (`is_laid_out`). A key that two cells share is packed once. What is stored is left out of packs,
    not out of their layouts. No job shares a pack with one that it needs, nor, for packs must not
    wait for each other, with one that has another number of jobs before it.
    """
    seen: set[str] = set()
    packs: list[Pack] = []
    small: list[Pack] = []
    depths = start_depths(plan)

    def measure(cell: Cell, jobs: Sequence[MetricJob], trials: Mapping[str, Trial] | None) -> None:
        for pack in _measure_packs(cell, jobs, stored, cost, trials):
            ready = all(key in stored for key in pack.needs)
            joins = ready and pack.cost_s < measure_s and not is_laid_out(pack)
            (small if joins else packs).append(pack)

    for cell in plan.cells:
        trials = [t for t in cell.trials if t.key not in seen]
        seen.update(t.key for t in trials)
        for alike in _of_one_depth(trials, depths):
            for start in range(0, len(alike), pack_size):
                members = [(cell, trial) for trial in alike[start : start + pack_size]]
                packs += training_packs(members, stored, cost)
        jobs = [j for j in cell.metric_jobs if j.key not in seen]
        before = len(seen)
        seen.update(j.key for j in jobs)
        if len(seen) - before < len(jobs):  # two requests of the cell ask for one of them
            jobs = [*{j.key: j for j in jobs}.values()]
        measure(cell, jobs, None)
    everywhere = trials_by_key(plan) if plan.across else {}
    for index, group in groupby(plan.across, key=lambda placed: placed[0]):
        jobs = [job for _, job in group if job.key not in seen]
        seen.update(job.key for job in jobs)
        measure(plan.cells[index], jobs, everywhere)
    return packs + _join(small, measure_s)


def start_depths(plan: Plan) -> dict[str, int]:
    """Return, by key, how many trainings of a plan come before each trial that starts from another
    one.
    """
    starting = {t.key: t for cell in plan.cells for t in cell.trials if t.start is not None}
    depths: dict[str, int] = {}

    def depth(key: str) -> int:
        if key not in starting:
            return 0
        if key not in depths:
            depths[key] = 1 + max(depth(parent) for parent in starting[key].needs)
        return depths[key]

    for key in starting:
        depth(key)
    return depths


def _of_one_depth(trials: Sequence[Trial], depths: Mapping[str, int]) -> list[list[Trial]]:
    parts: dict[int, list[Trial]] = {}
    for trial in trials:
        parts.setdefault(depths.get(trial.key, 0), []).append(trial)
    return list(parts.values())


def training_packs(
    members: Sequence[tuple[Cell, Trial]],
    stored: Collection[str],
    cost: CostOf,
    laid_out_s: float | None = None,
) -> list[Pack]:
    """Return the pack of those trials that are not stored, with all of them as its layout; None if
    all are stored.

    `laid_out_s` are the seconds predicted for all of them when the layout was decided; None to
    predict them now.
    """
    missing = [(cell, trial) for cell, trial in members if trial.key not in stored]
    if not missing:
        return []
    if laid_out_s is None:
        laid_out_s = sum(cost(cell, trial) for cell, trial in members)
    return [
        Pack(
            key=content_key("pack", 1, [trial.key for _, trial in missing]),
            kind="train",
            cell=missing[0][0].index,
            trials=tuple(trial for _, trial in missing),
            needs=needs_of(trial for _, trial in missing),
            cost_s=sum(cost(cell, trial) for cell, trial in missing),
            layout=Layout(trials=tuple(trial for _, trial in members), cost_s=laid_out_s),
        )
    ]


def measuring_packs(
    cell: Cell,
    jobs: Sequence[MetricJob],
    stored: Collection[str],
    cost: CostOf,
    trials: Mapping[str, Trial] | None = None,
) -> list[Pack]:
    """Return the pack of those metric jobs of a cell that are not stored, laid out as all of them;
    none where all are. They are about its trials, or about some of `trials` by key.
    """
    missing = [job for job in jobs if job.key not in stored]
    if not missing:
        return []
    groups = _groups(jobs, stored)
    involved = [*missing, *(job for group in groups for job in group)]
    by_key = {trial.key: trial for trial in cell.trials} if trials is None else trials
    about = dict.fromkeys(chain.from_iterable([job.trials for job in involved]))
    read = [artifact.job for job in involved for artifact in job.reads]
    return [
        Pack(
            key=content_key("pack", 1, [job.key for job in missing]),
            kind="measure",
            cell=cell.index,
            trials=tuple(by_key[key] for key in about),
            metric_jobs=tuple(missing),
            needs=tuple(dict.fromkeys([*about, *read]) if read else about),
            cost_s=sum(cost(cell, job) for job in missing),
            layout=Layout(groups=groups),
        )
    ]


def trains_several(job: MetricJob) -> bool:
    """Say whether a measurement is laid out with the others of its metric and cell, as trainings
    are.
    """
    return job.request.heavy and job.request.together


def is_laid_out(pack: Pack) -> bool:
    """Say whether the jobs of a pack keep their layout: trainings, and measurements that train."""
    return pack.kind == "train" or any(trains_several(job) for job in pack.metric_jobs)


def _groups(
    jobs: Sequence[MetricJob], stored: Collection[str]
) -> tuple[tuple[MetricJob, ...], ...]:
    """Return the jobs of each joint computation that has a job to do."""
    groups: dict[int, list[MetricJob]] = {}
    for job in jobs:
        if job.request.together:
            # a part is one object for all jobs of a request: the same metric with the same
            # arguments
            groups.setdefault(id(job.metric), []).append(job)
    return tuple(
        tuple(group) for group in groups.values() if any(job.key not in stored for job in group)
    )


def _join(packs: Iterable[Pack], measure_s: float, limit: int = 256) -> list[Pack]:
    """Join small measure packs, in order, up to a cost and a number of jobs."""
    joined: list[Pack] = []
    group: list[Pack] = []
    for pack in packs:
        jobs = sum(len(p.metric_jobs) for p in group) + len(pack.metric_jobs)
        if group and (sum(p.cost_s for p in group) + pack.cost_s > measure_s or jobs > limit):
            joined.append(merged(group))
            group = []
        group.append(pack)
    return joined + ([merged(group)] if group else [])


def merged(group: Sequence[Pack]) -> Pack:
    """Return a pack of all measurements of some packs, which counts as of their first cell."""
    if len(group) == 1:
        return group[0]
    jobs = tuple(job for pack in group for job in pack.metric_jobs)
    groups = tuple(several for pack in group if pack.layout for several in pack.layout.groups)
    trials = {trial.key: trial for pack in group for trial in pack.trials}
    return replace(
        group[0],
        key=content_key("pack", 1, [job.key for job in jobs]),
        metric_jobs=jobs,
        trials=tuple(trials.values()),
        needs=tuple(dict.fromkeys(key for pack in group for key in pack.needs)),
        cost_s=sum(pack.cost_s for pack in group),
        layout=Layout(groups=groups),
    )


def _measure_packs(
    cell: Cell,
    jobs: Sequence[MetricJob],
    stored: Collection[str],
    cost: CostOf,
    trials: Mapping[str, Trial] | None,
) -> list[Pack]:
    parts: dict[tuple[str | int, int], list[MetricJob]] = {}
    for job in jobs:
        request = job.request
        alone = id(job.metric) if request.together else job.key
        parts.setdefault((alone if request.heavy else "light", request.depth), []).append(job)
    return [
        pack
        for part in parts.values()
        for pack in measuring_packs(cell, part, stored, cost, trials)
    ]
