"""Estimate the GPU memory of a pack, and so how many of its trainings run at once, and how many
packs of measurements may share a GPU. Pure, no torch.

The estimate is in the terms of `phasegrid.estimates`; that of a measurement is declared by its
metric. Where it fails, fewer trainings run at once or a pack is halved, and one that is tried again
gets a GPU for itself. The terms were checked on a CPU against what autograd keeps; those of a
process and of a stream on a GPU are allowances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from phasegrid.estimates import COPIES, FLOAT, OF_SAM, Workload, training_bytes
from phasegrid.jobs import MetricJob, Trial
from phasegrid.packs import Pack
from phasegrid.plan.cost import estimated, measurement_of
from phasegrid.plan.packing import is_laid_out
from phasegrid.plan.shaping import FULL
from phasegrid.registry import declared_metric
from phasegrid.train.recipe import examples_per_batch

PROCESS_BYTES = 768 * 2**20
"""A process on a GPU before it computes anything: its context, the workspaces of its libraries,
batches gathered ahead.
"""

STREAM_BYTES = 32 * 2**20
"""The workspace of cuBLAS on each stream: torch's default on a Hopper GPU, the largest."""

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""The shares of a GPU that a pack may get: at most eight processes per GPU."""

MARGIN = 1.5
"""A pack gets a share that holds this many times its estimate, and runs as many trainings at once
as fit with this margin.
"""


def gpu_share(needed_bytes: int | None, gpu_bytes: int) -> float:
    """Return the share of a GPU for a pack that needs this much memory; a whole GPU if unknown.

    >>> [gpu_share(needed, 80 * 2**30) for needed in (2 * 2**30, 30 * 2**30, None)]
    [0.125, 1.0, 1.0]
    """
    if needed_bytes is None:
        return 1.0
    fits = (share for share in SHARES if MARGIN * needed_bytes <= share * gpu_bytes)
    return next(fits, 1.0)


def pack_share(pack: Pack, works: Mapping[str, Workload | None], gpu_bytes: int) -> float:
    """Return the share of a GPU for a pack: all of it for trainings, which fill it; for
    measurements, the larger of what their metrics declare and what their memory (`pack_bytes`)
    needs.
    """
    if pack.kind == "train":
        return 1.0
    declared = [declared_metric(job.metric.name).gpu_share for job in pack.metric_jobs]
    shares = [share for share in declared if share is not None]
    jobs = zip(pack.metric_jobs, declared, strict=True)
    rest = tuple(job for job, share in jobs if share is None)
    if rest:
        needed = pack_bytes(replace(pack, metric_jobs=rest), works, gpu_bytes)
        shares.append(gpu_share(needed, gpu_bytes))
    return max(shares)


def pack_bytes(
    pack: Pack, works: Mapping[str, Workload | None], gpu_bytes: int | None = None
) -> int | None:
    """Estimate the bytes that a pack takes on a GPU; `works` holds the workload of each trial by
    key. Of trainings, and of curves of several cells, so many run at once as fill a GPU (`FULL`)
    and fit into `gpu_bytes`.

    None if a model, a data set or a metric does not declare it.
    """
    trials = pack.layout.trials if pack.layout and pack.layout.trials else pack.trials
    found = [works.get(trial.key) for trial in trials]
    known = [work for work in found if work is not None]
    if len(known) < len(found) or not known:
        return None
    by_data = {id(trial.dataset): _data(work) for trial, work in zip(trials, known, strict=True)}
    resident = PROCESS_BYTES + sum(by_data.values())
    if pack.kind == "train":
        lanes = [lane_bytes(trial, work) for trial, work in zip(trials, known, strict=True)]
        return _at_once(lanes, resident, gpu_bytes)
    by_key = {trial.key: work for trial, work in zip(trials, known, strict=True)}
    resident += FLOAT * sum(work.num_parameters for work in known)  # the models
    largest_needs = []
    for jobs in _side_by_side(pack):
        involved = {key for job in jobs for key in job.trials}
        largest = max((by_key[key] for key in involved), key=lambda work: work.num_parameters)
        needs = [_measuring(job, largest, _alike(job, pack)) for job in jobs]
        if any(need is None for need in needs):
            return None
        largest_needs.append(max(need for need in needs if need is not None))
    return _at_once(largest_needs, resident, gpu_bytes)


def _at_once(needs: Sequence[int], resident: int, gpu_bytes: int | None) -> int:
    """Return the bytes that are resident and those of the largest needs that are met at once."""
    num = FULL if gpu_bytes is None else lanes_that_fit(needs, (gpu_bytes - resident) / MARGIN)
    return resident + sum(sorted(needs)[-min(num, FULL) :])


def _side_by_side(pack: Pack) -> Sequence[Sequence[MetricJob]]:
    """Return the measurements of a pack in groups that may be computed at the same time: those of
    each cell where they train, else all in one.
    """
    groups = pack.layout.groups if pack.layout and is_laid_out(pack) else ()
    return groups or (pack.metric_jobs,)


def lane_bytes(trial: Trial, work: Workload) -> int:
    """Estimate the bytes that a training takes beside others on a GPU, without its data set: its
    vectors, the activations of an update, which its CUDA graph keeps, and its stream.
    """
    recipe: dict[str, Any] = dict(trial.recipe)
    examples = examples_per_batch(recipe, work.labels_per_example)
    copies = COPIES if recipe.get("sam") is None else COPIES + OF_SAM
    parts = recipe.get("accumulate", 1)
    return STREAM_BYTES + training_bytes(work, examples / parts, copies + (parts > 1))


def known_lane_bytes(pack: Pack, works: Mapping[str, Workload | None]) -> dict[str, int]:
    """Return the `lane_bytes` of the trainings of a pack, by key, where they can be estimated."""
    found = {trial.key: (trial, works.get(trial.key)) for trial in pack.trials}
    return {key: lane_bytes(trial, work) for key, (trial, work) in found.items() if work}


def lanes_that_fit(needs: Sequence[int], free_bytes: float) -> int:
    """Return how many lanes fit into memory, whichever of the lanes these are, but at least one.

    >>> lanes_that_fit([5, 1, 4, 1], 9.5), lanes_that_fit([5, 1], 2), lanes_that_fit([1, 1], 9)
    (2, 1, 2)
    """
    sums = accumulate(sorted(needs, reverse=True))
    return max(1, sum(total <= free_bytes for total in sums))


def _data(work: Workload) -> int:
    return FLOAT * work.input_size * (work.num_train + work.num_aside + work.num_test)


def _alike(job: MetricJob, pack: Pack) -> int:
    """Return how many jobs of a pack may be computed as one stack with this one."""
    several = pack.layout.groups if pack.layout and pack.layout.groups else (pack.metric_jobs,)
    return max(sum(other.metric is job.metric for other in group) for group in several)


def _measuring(job: MetricJob, work: Workload, together: int) -> int | None:
    """Estimate the bytes of a measurement besides data and models; None if its metric does not
    say.
    """
    metric = declared_metric(job.metric.name)
    if metric.memory is None:
        return None
    measurement = measurement_of(work, job, together)
    return estimated(job.metric.name, "memory", metric.memory, measurement, int)
