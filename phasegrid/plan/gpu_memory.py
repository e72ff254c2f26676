"""What a pack takes of a GPU's memory, about, and so how many packs may share one. Pure, no torch.

The estimate counts what is certain to lie there (weights, gradients, optimizer memory, activations,
data) and allows for the rest; where it fails, a pack that runs out is halved, and one that is tried
again gets a GPU for itself. The terms were checked on a CPU against what autograd keeps; that of a
process on a GPU is an allowance.
"""

from collections.abc import Mapping
from typing import Any

from phasegrid.jobs import MetricJob, Pack, Workload

FLOAT = 4  # bytes
PROCESS_BYTES = 768 * 2**20
"""A process on a GPU before it computes anything: its context, the workspaces of its libraries,
batches gathered ahead.
"""

COPIES = 10
"""Vectors as long as the parameters that a training holds: weights, gradients, up to three of the
optimizer, the best weights so far, at the end of an epoch a copy of the weights and the
optimizer's, and two of scratch.
"""

OF_SAM = 3
"""More of them with SAM: a copy of the weights, and the way to the worst point with its scale."""

IN_FLIGHT = 2
"""Activations and, during the backward pass, at most as much again of their gradients and of
kernels' workspaces.
"""

SECOND_ORDER = 7
"""What a Hessian with its gradient's graph kept takes, in activations of its examples: 6.6 was
measured (ResNet18 width 8).
"""

EVALUATED = (
    1000  # examples in a batch of an evaluation: `weights.MOST`, which would bring torch along
)
SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Parts of a GPU that a pack may be given: at most eight processes on one."""

MARGIN = 1.5
"""A pack is given a part that holds this many times its estimate."""


def gpu_share(needed_bytes: int | None, gpu_bytes: int) -> float:
    """Return the part of a GPU for a pack that needs so much memory; the whole if that is unknown.

    >>> gpu_share(2 * 2**30, 80 * 2**30), gpu_share(30 * 2**30, 80 * 2**30), gpu_share(None, 80 * 2**30)
    (0.125, 1.0, 1.0)
    """
    if needed_bytes is None:
        return 1.0
    fits = (share for share in SHARES if MARGIN * needed_bytes <= share * gpu_bytes)
    return next(fits, 1.0)


def pack_bytes(pack: Pack, works: Mapping[str, Workload | None]) -> int | None:
    """Estimate the bytes a pack takes on a GPU; `works` has what each of its trials is made of, by
    key.

    None where a model, a data set or a metric is a plug-in that does not say.
    """
    trials = pack.layout.trials if pack.layout and pack.layout.trials else pack.trials
    found = [works.get(trial.key) for trial in trials]
    known = [work for work in found if work is not None]
    if len(known) < len(found) or not known:
        return None
    by_data = {id(trial.dataset): _data(work) for trial, work in zip(trials, known, strict=True)}
    resident = PROCESS_BYTES + sum(by_data.values())
    if pack.kind == "train":
        members = [
            _training(work, dict(trial.recipe)) for trial, work in zip(trials, known, strict=True)
        ]
        return resident + sum(members)
    largest = max(known, key=lambda work: work.num_parameters)
    jobs = [_measuring(job, largest, _alike(job, pack)) for job in pack.metric_jobs]
    if any(need is None for need in jobs):
        return None
    models = FLOAT * sum(work.num_parameters for work in known)
    return resident + models + max((need for need in jobs if need is not None), default=0)


def _data(work: Workload) -> int:
    return FLOAT * work.input_size * (work.num_train + work.num_test)


def _training(work: Workload, recipe: Mapping[str, Any]) -> int:
    """Estimate one member of a stack: its vectors and the activations of its batch."""
    examples = float(recipe["batch_size"])
    if recipe.get("batch_unit") == "tokens":
        examples /= work.mean_tokens
    copies = COPIES if recipe.get("sam") is None else COPIES + OF_SAM
    values = copies * work.num_parameters + IN_FLIGHT * examples * _per_example(work)
    return int(FLOAT * values)


def _per_example(work: Workload) -> int:
    return work.activations + work.input_size


def _evaluation(work: Workload) -> int:
    return FLOAT * min(EVALUATED, work.num_train) * _per_example(work)


def _alike(job: MetricJob, pack: Pack) -> int:
    """Return how many jobs of a pack may be computed as one stack with this one."""
    several = pack.layout.groups if pack.layout and pack.layout.groups else (pack.metric_jobs,)
    return max(sum(other.metric is job.metric for other in group) for group in several)


def _measuring(job: MetricJob, work: Workload, together: int) -> int | None:
    """Estimate what a measurement takes beside data and models; None for a metric that is not
    ours.
    """
    args: Mapping[str, Any] = job.metric.args
    name = job.metric.name
    if name in ("accuracy", "distance", "cka", "slice", "bleu"):
        return _evaluation(work)
    if name == "hessian":
        examples = min(int(args["examples"]), work.num_train)
        return FLOAT * (COPIES + int(args["steps"])) * work.num_parameters + (
            FLOAT * SECOND_ORDER * examples * _per_example(work)
        )
    if name in ("connectivity", "simplex"):
        stack = together * _training(work, args)
        return stack + _evaluation(work)
    return None
