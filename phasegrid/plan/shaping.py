"""Shape the packs of a plan for the number of workers: split long ones, join small neighbours that
train. Pure, no torch.

Cells along an axis of learning rate, weight decay, label noise or image noise train networks of one
shape by one kind of update (`phasegrid.train.compat`), so that their trials can share kernels as
the seeds of one cell do. What packing costs is parallelism: a pack is done by one worker. So packs
grow only while enough of them are left for every worker, and the seeds of a cell part where their
training together would be what all others wait for in the end. So do the heavy measurements of a
cell that could be done together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import content_key
from phasegrid.packs import Layout, Pack, needs_of
from phasegrid.train.compat import pack_signature

NONE_BEFORE: Mapping[str, int] = MappingProxyType({})
PACKS_A_WORKER = 4
"""Joining leaves at least this many packs' worth of work per worker, so that all workers end at
about the same time.
"""

MAX_DATASETS = 4
"""The most data sets in one pack: each is a copy in memory."""


def shape_packs(
    packs: Sequence[Pack],
    workers: int,
    pack_size: int,
    depths: Mapping[str, int] = NONE_BEFORE,
) -> list[Pack]:
    """Split and join training packs towards 1/(`PACKS_A_WORKER` x `workers`) of all training, and
    split heavy measurements.

    A pack that costs more is split, into at most `workers` parts; packs that can train as one are
    joined, in order, up to that cost and `pack_size` trials, and count as of their first cell.
    `depths` are those of `start_depths`: a trial joins only those with as many trainings before.
    """
    training = [pack for pack in packs if pack.kind == "train"]
    largest_s = _share_s(training, workers)
    open_packs: dict[tuple[str, int], list[Pack]] = {}
    joined: list[Pack] = []
    for pack in [part for whole in training for part in _split(whole, largest_s, workers)]:
        first = pack.trials[0]
        signature = pack_signature(first), depths.get(first.key, 0)
        group = open_packs.setdefault(signature, [])
        if group and not _fits([*group, pack], largest_s, pack_size):
            joined.append(_joined(group))
            group.clear()
        group.append(pack)
    joined += [_joined(group) for group in open_packs.values() if group]
    return joined + [pack for pack in split_heavy(packs, workers) if pack.kind != "train"]


def split_heavy(packs: Sequence[Pack], workers: int) -> list[Pack]:
    """Split packs of heavy measurements that cost more than 1/(`PACKS_A_WORKER` x `workers`) of all
    work, into at most `workers` parts.

    Each part needs the trials of its own jobs only. Packs that hold anything else stay as they are.
    """
    largest_s = _share_s(packs, workers)
    parts: list[Pack] = []
    for pack in packs:
        jobs = pack.metric_jobs
        if jobs and all(job.request.heavy for job in jobs):
            bounds = _cuts(len(jobs), pack.cost_s, largest_s, workers)
            parts += [_part_measuring(pack, jobs[a:b]) for a, b in pairwise(bounds)]
        else:
            parts.append(pack)
    return parts


def _share_s(packs: Sequence[Pack], workers: int) -> float:
    return sum(pack.cost_s for pack in packs) / (PACKS_A_WORKER * max(1, workers))


def _cuts(count: int, cost_s: float, largest_s: float, workers: int) -> list[int]:
    """Return the bounds that cut `count` equal jobs of `cost_s` into parts of about `largest_s`, at
    most one for each worker: more would part what trains together and still be done one after
    another.
    """
    if cost_s <= largest_s or count == 1:
        return [0, count]
    parts = min(count, max(1, workers))
    if largest_s > 0:
        parts = min(parts, math.ceil(cost_s / largest_s))
    return [round(i * count / parts) for i in range(parts + 1)]


def _split(pack: Pack, largest_s: float, workers: int) -> list[Pack]:
    bounds = _cuts(len(pack.trials), pack.cost_s, largest_s, workers)
    each_s = pack.cost_s / len(pack.trials)
    return [_of_trials(pack, pack.trials[a:b], each_s * (b - a)) for a, b in pairwise(bounds)]


def _part_measuring(pack: Pack, jobs: tuple[MetricJob, ...]) -> Pack:
    """Return a pack of some of a pack's measurements, which costs in proportion."""
    if len(jobs) == len(pack.metric_jobs):
        return pack
    about = {key for job in jobs for key in job.trials}
    return replace(
        pack,
        key=content_key("pack", 1, [job.key for job in jobs]),
        metric_jobs=jobs,
        trials=tuple(trial for trial in pack.trials if trial.key in about),
        needs=needs_of(jobs),
        cost_s=pack.cost_s * len(jobs) / len(pack.metric_jobs),
        layout=Layout(groups=(jobs,)),
    )


def _fits(group: Sequence[Pack], largest_s: float, pack_size: int) -> bool:
    trials = [trial for pack in group for trial in pack.trials]
    return (
        len(trials) <= pack_size
        and sum(pack.cost_s for pack in group) <= largest_s
        and len({id(trial.dataset) for trial in trials}) <= MAX_DATASETS
    )


def _joined(group: Sequence[Pack]) -> Pack:
    if len(group) == 1:
        return group[0]
    trials = tuple(trial for pack in group for trial in pack.trials)
    return _of_trials(group[0], trials, sum(pack.cost_s for pack in group))


def _of_trials(pack: Pack, trials: tuple[Trial, ...], cost_s: float) -> Pack:
    key = content_key("pack", 1, [trial.key for trial in trials])
    return replace(
        pack,
        key=key,
        trials=trials,
        needs=needs_of(trials),
        cost_s=cost_s,
        layout=Layout(trials=trials, cost_s=cost_s),
    )
