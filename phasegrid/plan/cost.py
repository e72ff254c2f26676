"""What a job will cost: order of execution, ETA, and the predictions of ``phasegrid plan``.

A first guess is ``passes * overhead + FLOPs / rate`` for one CPU core. The store's own timings
correct both parts, by kind of job: small networks spend their time on launching kernels, large ones
on arithmetic, so one factor could not serve both. It is a guess for ordering and an ETA, not a
promise; `low` and `high` say how far single jobs were from it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from phasegrid.jobs import Cell, MetricJob, Trial, Workload

OVERHEAD_S = (
    5e-5  # one pass of a small network over a batch on one core: kernels launched, not arithmetic
)
RATE = 2e10  # FLOP/s of one core on small convolutions and products
UNKNOWN_S = 10.0  # a plug-in that says nothing
UNTRIED = 10.0  # without a timing the guess may be off by so much, either way
FEWEST = 3  # timings from which a kind of job is corrected


@dataclass(frozen=True, slots=True)
class Guess:
    """Seconds on one core before any correction: what grows with the number of kernels, and with
    the arithmetic in them.
    """

    overhead_s: float
    arithmetic_s: float = 0.0

    def __add__(self, other: "Guess") -> "Guess":
        """Return the cost of both."""
        return Guess(self.overhead_s + other.overhead_s, self.arithmetic_s + other.arithmetic_s)

    def __rmul__(self, count: float) -> "Guess":
        """Return the cost of `count` of them."""
        return Guess(count * self.overhead_s, count * self.arithmetic_s)

    @property
    def seconds(self) -> float:
        """The whole."""
        return self.overhead_s + self.arithmetic_s


@dataclass(frozen=True, slots=True)
class Correction:
    """What a kind of job really takes: factors of the two parts of its guess, and the 10..90%
    spread of single jobs (measured over predicted seconds), from `count` timings.
    """

    overhead: float = 1.0
    arithmetic: float = 1.0
    low: float = 1 / UNTRIED
    high: float = UNTRIED
    count: int = 0

    def seconds(self, guess: Guess) -> float:
        """Return the corrected seconds of a guess."""
        return self.overhead * guess.overhead_s + self.arithmetic * guess.arithmetic_s


NONE = Correction()


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrections by kind of job (``trial`` or a metric's name), learned on one type of
    `device`.
    """

    kinds: Mapping[str, Correction] = field(default_factory=dict)
    device: str = "cpu"

    def of(self, kind: str) -> Correction:
        """Return the correction of a kind; none where it was never timed."""
        return self.kinds.get(kind, NONE)


def guess_cost(cell: Cell, job: Trial | MetricJob) -> Guess:
    """Guess what a job costs on one core, before any correction."""
    if cell.work is None:
        return Guess(UNKNOWN_S)
    if isinstance(job, Trial):
        return _training(cell.work, dict(job.recipe))
    args = {**job.metric.args}
    guess = _GUESSES.get(job.metric.name)
    return guess(cell.work, args, len(job.trials)) if guess else Guess(UNKNOWN_S)


def learn_corrections(
    pairs: Mapping[str, Sequence[tuple[Guess, float]]], device: str = "cpu"
) -> Corrections:
    """Learn corrections from (guess, measured seconds) by kind of job; kinds with under `FEWEST`
    timings are left alone.
    """
    found = {}
    for kind, values in pairs.items():
        usable = [(g, m) for g, m in values if g.seconds > 0 and m > 0]
        if len(usable) >= FEWEST:
            found[kind] = _fit(usable)
    return Corrections(found, device)


def _fit(values: Sequence[tuple[Guess, float]]) -> Correction:
    """Fit both factors by least squares of the relative error, then scale so that the median job is
    met.

    One common factor where the timings cannot tell the parts apart, or one of them would be
    negative.
    """
    parts = [(g.overhead_s / m, g.arithmetic_s / m) for g, m in values]
    xx, yy = sum(x * x for x, _ in parts), sum(y * y for _, y in parts)
    xy = sum(x * y for x, y in parts)
    sx, sy = sum(x for x, _ in parts), sum(y for _, y in parts)
    determinant = xx * yy - xy * xy
    common = (sx + sy) / (xx + 2 * xy + yy)
    overhead = arithmetic = common
    if determinant > 1e-3 * xx * yy:
        overhead, arithmetic = (
            (yy * sx - xy * sy) / determinant,
            (xx * sy - xy * sx) / determinant,
        )
        if min(overhead, arithmetic) <= 0:
            overhead = arithmetic = common
    raw = Correction(overhead, arithmetic)
    ratios = sorted(m / raw.seconds(g) for g, m in values)
    middle = median(ratios)
    return Correction(
        overhead * middle,
        arithmetic * middle,
        ratios[int(0.1 * (len(ratios) - 1))] / middle,
        ratios[math.ceil(0.9 * (len(ratios) - 1))] / middle,
        len(ratios),
    )


def kind_of(job: Trial | MetricJob) -> str:
    """Return the kind under which a job's timings are kept."""
    return "trial" if isinstance(job, Trial) else job.metric.name


def predict_seconds(cell: Cell, job: Trial | MetricJob, corrections: Corrections) -> float:
    """Predict the seconds of a job on one core, or one GPU if that is what was timed: the guess,
    corrected.
    """
    return corrections.of(kind_of(job)).seconds(guess_cost(cell, job))


def _passes(work: Workload, examples: float, batch: int, factor: float) -> Guess:
    """Cost of running `examples` through the network in batches; factor 1 forward only, 3 with
    gradients.
    """
    return Guess(
        examples / batch * OVERHEAD_S * factor, examples * work.forward_flops * factor / RATE
    )


def _training(work: Workload, recipe: dict[str, Any]) -> Guess:
    batch, updates = int(recipe["batch_size"]), recipe.get("updates")
    if recipe.get("batch_unit") == "tokens":
        batch = max(1, round(batch / work.mean_tokens))
    examples = work.num_train * int(recipe["epochs"]) if updates is None else updates * batch
    every = int(recipe.get("test_every") or 0)
    tests = examples / work.num_train / every if every else 0.0
    test = _passes(work, work.num_test, 500, 1)
    passes = 3 if recipe.get("sam") is None else 6
    return _passes(work, examples, batch, passes) + tests * test + _evaluation(work)


def _evaluation(work: Workload) -> Guess:
    return _passes(work, work.num_train + work.num_test, 500, 1)


def _hessian(work: Workload, args: dict[str, Any], _: int) -> Guess:
    examples = min(int(args["examples"]), work.num_train)
    exact = args["trace"] == "auto" and work.mean_tokens == 1.0  # one half-product a class
    trace = work.num_classes / 2 if exact else int(args["trace_probes"])
    products = int(args["steps"]) * int(args["density_probes"]) + trace
    return products * _passes(work, examples, examples, 6)


def _cka(work: Workload, args: dict[str, Any], _: int) -> Guess:
    return _passes(work, int(args["examples"]), 500, 1)


def _curve(work: Workload, args: dict[str, Any], _: int) -> Guess:
    batch, updates = int(args["batch_size"]), args.get("updates")
    trained = work.num_train * int(args["epochs"]) if updates is None else updates * batch
    steps = _passes(work, trained, batch, 3)
    return steps + 2 * int(args["points"]) * _evaluation(work)


def _simplex(work: Workload, args: dict[str, Any], _: int) -> Guess:
    trained = work.num_train * int(args["epochs"]) * int(args["samples"]) * int(args["connectors"])
    steps = _passes(work, trained, int(args["batch_size"]), 3)
    return steps + 2 * int(args["eval_samples"]) * _evaluation(work)


def _slice(work: Workload, args: dict[str, Any], _: int) -> Guess:
    asked = work.num_train if args["examples"] is None else int(args["examples"])
    tested = min(asked, work.num_test) if args["test"] else 0
    point = _passes(work, min(asked, work.num_train) + tested, 128, 1)
    if args["batch_norm"] == "refreshed":
        point = point + _passes(work, min(int(args["refresh_examples"]), work.num_train), 500, 1)
    points: int = int(args["points"]) ** int(args["dimensions"])
    return points * point


_GUESSES = {
    "accuracy": lambda work, _args, _count: _evaluation(work),
    "distance": lambda work, _args, _count: Guess(1e-3, work.num_parameters * 1e-8),
    "hessian": _hessian,
    "cka": _cka,
    "connectivity": _curve,
    "simplex": _simplex,
    "slice": _slice,
}
