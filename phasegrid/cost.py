"""What a job will cost: order of execution, ETA, and the predictions of ``phasegrid plan``.

A first guess is ``updates * overhead + FLOPs / rate`` for one CPU core; the store's own timings correct it: the
correction of a kind of job is the median of measured over guessed seconds. It is a guess for ordering and an ETA, not
a promise; `spread` says how far single jobs were from it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from phasegrid.jobs import Cell, MetricJob, Trial, Work

OVERHEAD_S = (
    5e-5  # one pass of a small network over a batch on one core: kernels launched, not arithmetic
)
RATE = 2e10  # FLOP/s of one core on small convolutions and products
UNKNOWN_S = 10.0  # a plug-in that says nothing


@dataclass(frozen=True, slots=True)
class Corrections:
    """Measured over guessed seconds, by kind of job (``trial`` or a metric's name): median and 10..90% spread."""

    factor: Mapping[str, float] = field(default_factory=dict)
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    count: Mapping[str, int] = field(default_factory=dict)


def guess_seconds(cell: Cell, job: Trial | MetricJob) -> float:
    """Guess the seconds of a job on one core, before any correction."""
    if cell.work is None:
        return UNKNOWN_S
    if isinstance(job, Trial):
        return _training(cell.work, dict(job.recipe))
    args = {**job.metric.args}
    guess = _GUESSES.get(job.metric.name)
    return guess(cell.work, args, len(job.trials)) if guess else UNKNOWN_S


def learn_corrections(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Corrections:
    """Learn corrections from (guessed, measured) seconds by kind of job; kinds with under 3 pairs are left alone."""
    factor, low, high, count = {}, {}, {}, {}
    for kind, values in pairs.items():
        ratios = sorted(m / g for g, m in values if g > 0 and m > 0)
        if len(ratios) < 3:
            continue
        factor[kind] = median(ratios)
        low[kind] = ratios[int(0.1 * (len(ratios) - 1))] / factor[kind]
        high[kind] = ratios[math.ceil(0.9 * (len(ratios) - 1))] / factor[kind]
        count[kind] = len(ratios)
    return Corrections(factor, low, high, count)


def kind_of(job: Trial | MetricJob) -> str:
    """Return the kind under which a job's timings are kept."""
    return "trial" if isinstance(job, Trial) else job.metric.name


def predict_seconds(cell: Cell, job: Trial | MetricJob, corrections: Corrections) -> float:
    """Predict the seconds of a job on one core: the guess, corrected by what was measured."""
    return guess_seconds(cell, job) * corrections.factor.get(kind_of(job), 1.0)


def _passes(work: Work, examples: float, batch: int, factor: float) -> float:
    """Seconds to run `examples` through the network in batches; factor 1 forward only, 3 with gradients."""
    return examples / batch * OVERHEAD_S * factor + examples * work.forward_flops * factor / RATE


def _training(work: Work, recipe: dict[str, Any]) -> float:
    batch, updates = int(recipe["batch_size"]), recipe.get("updates")
    if recipe.get("batch_unit") == "tokens":
        batch = max(1, round(batch / work.mean_tokens))
    examples = work.num_train * int(recipe["epochs"]) if updates is None else updates * batch
    every = int(recipe.get("test_every") or 0)
    tests = examples / work.num_train / every if every else 0.0
    test = _passes(work, work.num_test, 500, 1)
    return _passes(work, examples, batch, 3) + tests * test + _evaluation(work)


def _evaluation(work: Work) -> float:
    return _passes(work, work.num_train + work.num_test, 500, 1)


def _hessian(work: Work, args: dict[str, Any], _: int) -> float:
    examples = min(int(args["examples"]), work.num_train)
    exact = args["trace"] == "auto" and work.mean_tokens == 1.0  # one half-product a class
    trace = work.num_classes / 2 if exact else int(args["trace_probes"])
    products = int(args["steps"]) * int(args["density_probes"]) + trace
    return products * _passes(work, examples, examples, 6)


def _cka(work: Work, args: dict[str, Any], _: int) -> float:
    return _passes(work, int(args["examples"]), 500, 1)


def _curve(work: Work, args: dict[str, Any], _: int) -> float:
    batch, updates = int(args["batch_size"]), args.get("updates")
    trained = work.num_train * int(args["epochs"]) if updates is None else updates * batch
    steps = _passes(work, trained, batch, 3)
    return steps + 2 * int(args["points"]) * _evaluation(work)


def _simplex(work: Work, args: dict[str, Any], _: int) -> float:
    trained = work.num_train * int(args["epochs"]) * int(args["samples"]) * int(args["connectors"])
    steps = _passes(work, trained, int(args["batch_size"]), 3)
    return steps + 2 * int(args["eval_samples"]) * _evaluation(work)


_GUESSES = {
    "accuracy": lambda work, _args, _count: _evaluation(work),
    "distance": lambda work, _args, _count: 1e-3 + work.num_parameters * 1e-8,
    "hessian": _hessian,
    "cka": _cka,
    "connectivity": _curve,
    "simplex": _simplex,
}
