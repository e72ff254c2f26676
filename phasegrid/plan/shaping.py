"""Shape the packs of a plan for its workers: cores (`shape_packs`) or GPUs (`fill_gpus`). Pure, no
torch.

On cores, long packs are split and small neighbours that train are joined. Cells along an axis of
learning rate, weight decay, label noise or image noise train networks of one shape by one kind of
update (`phasegrid.train.compat`), so that their trials can share kernels as the seeds of one cell
do. What packing costs is parallelism: a pack is done by one worker. So packs grow only while enough
of them are left for every worker, and the seeds of a cell part where their training together would
be what all others wait for in the end. So do the heavy measurements of a cell that could be done
together.

On a GPU, each training may have kernels of its own, so trainings of any shape can share a process.
One training leaves most of a GPU idle, so a pack holds as many as fill it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import content_key
from phasegrid.packs import Layout, Pack, needs_of
from phasegrid.plan.devices import Device
from phasegrid.plan.packing import PACK_SIZE, is_laid_out, merged
from phasegrid.train.compat import pack_signature

NONE_BEFORE: Mapping[str, int] = MappingProxyType({})
PACKS_A_WORKER = 4
"""Joining leaves at least this many packs' worth of work per worker, so that all workers end at
about the same time.
"""

MAX_DATASETS = 4
"""The most data sets in one pack: each is a copy in memory."""

ROUNDING = 1 + 1e-9
"""Equal costs are summed in different orders; how the sums round must not decide about a pack."""

GPU_PACK_SIZE = 128
"""The most trainings in a pack for a GPU, unless a sweep says otherwise: several times `FULL`, so
that the GPU is full until near the end of the pack.
"""

FULL = 20
"""So many trainings at once fill a GPU: on an H200, 40 networks of width 8 trained no faster than
20.
"""

Shaping = Callable[[Sequence[Pack], int, int | None, Mapping[str, int]], list[Pack]]
"""Takes packs, the number of workers, the most trainings in a pack, and `start_depths`."""


def shaping_for(device: Device | None) -> Shaping:
    """Return how packs are shaped for workers that are GPUs of this kind; None: cores."""
    return shape_packs if device is None or device.kind == "cpu" else fill_gpus


def shape_packs(
    packs: Sequence[Pack],
    workers: int,
    pack_size: int | None = None,
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
        if group and not _fits([*group, pack], largest_s, pack_size or PACK_SIZE):
            joined.append(_joined(group))
            group.clear()
        group.append(pack)
    joined += [_joined(group) for group in open_packs.values() if group]
    return joined + [pack for pack in split_heavy(packs, workers) if pack.kind != "train"]


def fill_gpus(
    packs: Sequence[Pack],
    gpus: int,
    pack_size: int | None = None,
    depths: Mapping[str, int] = NONE_BEFORE,
) -> list[Pack]:
    """Share the trainings of all cells among packs that each fill a GPU, the longest first; join
    measurements that train, of one metric, where they follow trainings of one pack.

    Every round gives each GPU a pack, and together half of what is left, so that later rounds even
    out what was predicted wrongly (factoring: Flynn Hummel et al. 1992). The last round shares all
    that is left, where its half would not fill the GPUs. `depths` are those of `start_depths`:
    trainings share a pack only with those that have as many trainings before them.
    """
    most = pack_size or GPU_PACK_SIZE
    by_depth: dict[int, list[_Member]] = {}
    for pack in packs:
        if pack.kind == "train":
            each_s = max(pack.cost_s / len(pack.trials), 1e-9)
            alike = by_depth.setdefault(depths.get(pack.trials[0].key, 0), [])
            alike += [_Member(each_s, trial, pack) for trial in pack.trials]
    filled = []
    for members in by_depth.values():
        members.sort(key=lambda member: -member.seconds)
        for part in _rounds(members, gpus, most):
            trials, seconds = [m.trial for m in part], sum(m.seconds for m in part)
            filled.append(_of_trials(part[0].pack, tuple(trials), seconds))
    return filled + _following(split_heavy(packs, gpus), filled, gpus)


def _following(packs: Sequence[Pack], training: Sequence[Pack], gpus: int) -> list[Pack]:
    """Return the measurements among `packs`. Those that are laid out are joined, in order, if they
    are of one metric and depth and wait for the same pack of trainings as the last; where there are
    several GPUs, up to 1/(`PACKS_A_WORKER` x `gpus`) of all work.
    """
    last = {trial.key: index for index, pack in enumerate(training) for trial in pack.trials}
    largest_s = _share_s(packs, gpus) if gpus > 1 else math.inf
    measuring, alike = [], dict[tuple[int, int, int], list[Pack]]()
    for pack in packs:
        if pack.kind == "measure" and is_laid_out(pack):
            job, waits_for = pack.metric_jobs[0], max(last.get(key, -1) for key in pack.needs)
            alike.setdefault((id(job.metric), job.request.depth, waits_for), []).append(pack)
        elif pack.kind == "measure":
            measuring.append(pack)
    for group in alike.values():
        start, seconds = 0, 0.0
        for end, pack in enumerate(group):
            seconds += pack.cost_s
            if end > start and seconds > largest_s:
                measuring.append(merged(group[start:end]))
                start, seconds = end, pack.cost_s
        measuring.append(merged(group[start:]))
    return measuring


class _Member(NamedTuple):
    """A training, its predicted seconds, and a pack that holds it."""

    seconds: float
    trial: Trial
    pack: Pack


def _rounds(members: Sequence[_Member], gpus: int, most: int) -> Iterator[Sequence[_Member]]:
    """Yield parts of `members`, in order, each of at most `most` of them."""
    start, left_s = 0, sum(member.seconds for member in members)
    if gpus == 1:  # nothing to balance: parts of one size, so that none is nearly empty
        most = math.ceil(len(members) / math.ceil(len(members) / most))
    while start < len(members):
        is_last = len(members) - start < 2 * gpus * FULL or gpus == 1
        round_s = left_s if is_last else left_s / 2
        for place in range(gpus):
            if start == len(members):
                return
            end = _end_of(members, start, round_s / (gpus - place), most)
            yield members[start:end]
            seconds = sum(member.seconds for member in members[start:end])
            start, left_s, round_s = end, left_s - seconds, round_s - seconds


def _end_of(members: Sequence[_Member], start: int, goal_s: float, most: int) -> int:
    """Return where a part ends that begins at `start` and takes about `goal_s`."""
    end, seconds, data = start + 1, members[start].seconds, {id(members[start].trial.dataset)}
    while end < min(len(members), start + most):
        seconds += members[end].seconds
        data.add(id(members[end].trial.dataset))
        if seconds - members[end].seconds / 2 > goal_s or len(data) > MAX_DATASETS:
            break
        end += 1
    return end


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
        and sum(pack.cost_s for pack in group) <= largest_s * ROUNDING
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
