"""Sweep -> Plan -> packs. Pure: no torch, no disk, no clock.

A plan lists every cell with its trials and metric jobs and their keys. Packing groups the jobs that
are not stored yet into lists that one process does together.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from phasegrid.config.load import Axis, GridPoint, MetricRequest, Sweep
from phasegrid.jobs import (
    Cell,
    Json,
    Layout,
    MetricJob,
    Pack,
    Part,
    Plan,
    Trial,
    Workload,
    canonical_json,
    content_key,
    text_key,
)
from phasegrid.models.counting import count_work
from phasegrid.train.recipe import RECIPE_VERSION, hashed_recipe

PACK_SIZE = 32
"""The most trainings in one pack, unless a sweep says otherwise."""

CostOf = Callable[[Cell, "Trial | MetricJob"], float]


def make_plan(sweep: Sweep) -> Plan:
    """Lay out every cell, trial and metric job of a sweep, in the order facets, load,
    temperature.
    """
    texts = _Texts()
    cells = tuple(_cell(index, point, sweep, texts) for index, point in enumerate(sweep.points))
    return Plan(
        sweep=sweep.name,
        load_path=sweep.load.path if sweep.load else None,
        temperature_path=sweep.temperature.path if sweep.temperature else None,
        cells=cells,
        axis_names=tuple((axis.path, axis.label) for axis in _axes(sweep) if axis.label),
    )


def _axes(sweep: Sweep) -> list[Axis]:
    return [axis for axis in (sweep.load, sweep.temperature, *sweep.facets) if axis is not None]


def plan_hash(plan: Plan) -> str:
    """Return the key of a plan: it changes exactly when one of its jobs does."""
    keys = sorted(all_keys(plan))
    return content_key("plan", 1, keys)


def all_keys(plan: Plan) -> set[str]:
    """Return the keys of every trial and metric job of a plan."""
    keys = {trial.key for cell in plan.cells for trial in cell.trials}
    keys.update(job.key for cell in plan.cells for job in cell.metric_jobs)
    return keys


def trials_by_key(plan: Plan) -> dict[str, Trial]:
    """Return every distinct trial of a plan."""
    return {trial.key: trial for cell in plan.cells for trial in cell.trials}


def metric_names(plan: Plan) -> list[str]:
    """Return the names of the metrics of a plan, sorted."""
    return sorted({job.metric.name for cell in plan.cells for job in cell.metric_jobs})


def choose_pairs(seeds: Sequence[int], how: str) -> list[tuple[int, int]]:
    """Choose pairs of positions: ``first`` two, ``ring`` (0,1), (1,2), ..., (n-1,0), or ``all``
    unordered pairs.

    In a pair the lower seed comes first, so that the same two trials are the same pair in every
    sweep.

    >>> choose_pairs([0, 1, 2], "ring")
    [(0, 1), (1, 2), (0, 2)]
    """
    count = len(seeds)
    if how == "first":
        pairs = [(0, 1)]
    elif how == "ring" and count > 2:
        pairs = [(i, (i + 1) % count) for i in range(count)]
    else:
        pairs = list(combinations(range(count), 2))
    return [(i, j) if seeds[i] < seeds[j] else (j, i) for i, j in pairs]


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
    not out of their layouts.
    """
    seen: set[str] = set()
    packs: list[Pack] = []
    small: list[Pack] = []
    for cell in plan.cells:
        trials = [t for t in cell.trials if t.key not in seen]
        seen.update(t.key for t in trials)
        for start in range(0, len(trials), pack_size):
            members = [(cell, trial) for trial in trials[start : start + pack_size]]
            packs += training_packs(members, stored, cost)
        jobs = [j for j in cell.metric_jobs if j.key not in seen]
        seen.update(j.key for j in jobs)
        for pack in _measure_packs(cell, jobs, stored, cost):
            ready = all(key in stored for key in pack.needs)
            joins = ready and pack.cost_s < measure_s and not is_laid_out(pack)
            (small if joins else packs).append(pack)
    return packs + _join(small, measure_s)


def training_packs(
    members: Sequence[tuple[Cell, Trial]],
    stored: Collection[str],
    cost: CostOf,
    laid_out_s: float | None = None,
) -> list[Pack]:
    """Return the pack of those trials that are not stored, laid out as all of them; none where all
    are.

    `laid_out_s` is what all of them were predicted to take when that was decided, now where it is
    None.
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
            cost_s=sum(cost(cell, trial) for cell, trial in missing),
            layout=Layout(trials=tuple(trial for _, trial in members), cost_s=laid_out_s),
        )
    ]


def measuring_packs(
    cell: Cell, jobs: Sequence[MetricJob], stored: Collection[str], cost: CostOf
) -> list[Pack]:
    """Return the pack of those metric jobs of a cell that are not stored, laid out as all of them;
    none where all are.
    """
    missing = [job for job in jobs if job.key not in stored]
    if not missing:
        return []
    groups = _groups(jobs, stored)
    involved = [*missing, *(job for group in groups for job in group)]
    needs = tuple(dict.fromkeys(key for job in involved for key in job.trials))
    by_key = {trial.key: trial for trial in cell.trials}
    return [
        Pack(
            key=content_key("pack", 1, [job.key for job in missing]),
            kind="measure",
            cell=cell.index,
            trials=tuple(by_key[key] for key in needs),
            metric_jobs=tuple(missing),
            needs=needs,
            cost_s=sum(cost(cell, job) for job in missing),
            layout=Layout(groups=groups),
        )
    ]


def trains_several(job: MetricJob) -> bool:
    """Say whether a measurement is one that is laid out with the others of its metric and cell, as
    trainings are.
    """
    return job.heavy and job.together


def is_laid_out(pack: Pack) -> bool:
    """Say whether the jobs of a pack keep the company that they were laid out with: trainings, and
    measurements that train.
    """
    return pack.kind == "train" or any(trains_several(job) for job in pack.metric_jobs)


def _groups(
    jobs: Sequence[MetricJob], stored: Collection[str]
) -> tuple[tuple[MetricJob, ...], ...]:
    """Return which jobs are computed together, of those computations that have a job to do."""
    groups: dict[int, list[MetricJob]] = {}
    for job in jobs:
        if job.together:
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
            joined.append(_merged(group))
            group = []
        group.append(pack)
    return joined + ([_merged(group)] if group else [])


def _merged(group: Sequence[Pack]) -> Pack:
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
    cell: Cell, jobs: Sequence[MetricJob], stored: Collection[str], cost: CostOf
) -> list[Pack]:
    parts: dict[str | int, list[MetricJob]] = {}
    for job in jobs:
        apart = id(job.metric) if trains_several(job) else job.key
        parts.setdefault(apart if job.heavy else "light", []).append(job)
    return [pack for part in parts.values() for pack in measuring_packs(cell, part, stored, cost)]


def _cell(index: int, point: GridPoint, sweep: Sweep, texts: "_Texts") -> Cell:
    trials = texts.trials(point, sweep.seeds)
    jobs: list[MetricJob] = []
    for request in sweep.metrics:
        jobs.extend(texts.metric_jobs(request, trials, sweep.seeds))
    return Cell(
        index=index,
        facet=point.facet,
        load=point.load,
        temperature=point.temperature,
        trials=trials,
        metric_jobs=tuple(jobs),
        work=texts.work(point),
    )


class _Texts:
    """Canonical JSON of shared parts, written once: keys of 100,000 trials in seconds.

    Objects are remembered by identity and kept alive here, so an id is never reused.
    """

    def __init__(self) -> None:
        self._texts: dict[int, tuple[object, str]] = {}
        self._work: dict[tuple[int, int], Workload | None] = {}
        self._groups: dict[tuple[int, tuple[int, ...]], list[tuple[int, ...]]] = {}

    def text(self, owner: object, spec: Json) -> str:
        known = self._texts.get(id(owner))
        if known is None:
            known = (owner, canonical_json(spec))
            self._texts[id(owner)] = known
        return known[1]

    def recipe(self, recipe: Mapping[str, Json]) -> str:
        known = self._texts.get(id(recipe))
        return known[1] if known else self.text(recipe, hashed_recipe(recipe))

    def part(self, part: Part) -> str:
        known = self._texts.get(id(part))
        return known[1] if known else self.text(part, part.spec())

    def trials(self, point: GridPoint, seeds: Sequence[int]) -> tuple[Trial, ...]:
        head = (
            f'["trial",{RECIPE_VERSION},{{"dataset":{self.part(point.dataset)},'
            f'"model":{self.part(point.model)},"recipe":{self.recipe(point.recipe)},"seed":'
        )
        return tuple(
            Trial(text_key(f"{head}{seed}}}]"), point.dataset, point.model, point.recipe, seed)
            for seed in seeds
        )

    def metric_jobs(
        self, request: MetricRequest, trials: Sequence[Trial], seeds: tuple[int, ...]
    ) -> list[MetricJob]:
        part = request.part
        args = self.text(part.args, part.args)
        head = f'["metric",{part.version},{{"args":{args},"name":{canonical_json(part.name)},"trials":["'
        jobs = []
        for group in self._members(request, seeds):
            keys = tuple([trials[i].key for i in group])
            key = text_key(head + '","'.join(keys) + '"]}]')
            jobs.append(MetricJob(key, part, keys, request.heavy, request.together))
        return jobs

    def _members(self, request: MetricRequest, seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
        known = self._groups.get((id(request), seeds))
        if known is not None:
            return known
        groups: list[tuple[int, ...]]
        if request.over == "trial":
            groups = [(i,) for i in range(len(seeds))]
        elif request.over == "pair":
            groups = list(choose_pairs(seeds, request.pairs or "all"))
        else:
            chosen = range(len(seeds))[: request.modes]
            groups = [tuple(sorted(chosen, key=lambda i: seeds[i]))]
        self._groups[(id(request), seeds)] = groups
        return groups

    def work(self, point: GridPoint) -> Workload | None:
        place = (id(point.dataset), id(point.model))
        if place not in self._work:
            self._work[place] = _work(point)
        return self._work[place]


def _work(point: GridPoint) -> Workload | None:
    facts = point.facts
    if facts is None:
        return None
    args: Mapping[str, Json] = point.model.args
    counts = count_work(Part(point.model.name, point.model.version, args), facts)
    if counts is None:
        return None
    size, tokens = math.prod(facts.input_shape), facts.mean_tokens
    return Workload(facts.num_train, facts.num_test, facts.num_classes, *counts, size, tokens)
