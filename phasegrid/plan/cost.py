"""Predict the cost of a job, for the order of execution, the ETA and ``phasegrid plan``.

A first guess is in the terms of `phasegrid.estimates`; that of a measurement is declared by its
metric. The store's own timings correct both of its parts, by kind of job: small networks spend
their time on launching kernels, large ones on arithmetic, so one factor could not serve both. It is
a guess for ordering and an ETA, not a promise; `low` and `high` give the observed spread of single
jobs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeVar

from phasegrid.errors import SweepError
from phasegrid.estimates import Guess, Measurement, Workload, evaluation, passes
from phasegrid.jobs import MetricJob, Trial
from phasegrid.plan.contents import Cell
from phasegrid.plan.devices import CPU, Device
from phasegrid.registry import declared_metric
from phasegrid.train.compat import num_from_aside
from phasegrid.train.recipe import examples_per_batch

T = TypeVar("T")

UNKNOWN_S = 10.0  # what says nothing
FEWEST = 3  # timings from which a kind of job is corrected
FOLDS = 5  # parts of the timings that are forecast by the others


@dataclass(frozen=True, slots=True)
class Correction:
    """The correction of a kind of job, from `count` timings: factors for the two parts of its
    guess, and the 10..90% spread of single jobs (measured over predicted seconds).
    """

    overhead: float = 1.0
    arithmetic: float = 1.0
    low: float = 1 / CPU.spread
    high: float = CPU.spread
    count: int = 0

    def seconds(self, guess: Guess) -> float:
        """Return the corrected seconds of a guess."""
        return self.overhead * guess.overhead_s + self.arithmetic * guess.arithmetic_s


class TimingError(NamedTuple):
    """How far timings are from forecasts by the timings of other cells alone: of a job (median of
    ``|forecast / measured - 1|``) and of the sum of all jobs (``forecast / measured - 1``).
    """

    of_job: float
    of_sum: float


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrections by kind of job (``trial`` or a metric's name), learned on one kind of `device`;
    the error of such a forecast, if several cells were timed.
    """

    kinds: Mapping[str, Correction] = field(default_factory=dict)
    device: Device = CPU
    error: TimingError | None = None

    def of(self, kind: str) -> Correction:
        """Return the correction of a kind; where it was never timed, only the spread that a guess
        for the device may have.
        """
        spread = self.device.spread
        return self.kinds.get(kind, Correction(low=1 / spread, high=spread))


def guess_cost(cell: Cell, job: Trial | MetricJob, device: Device = CPU) -> Guess:
    """Guess what a job costs on one core or one GPU, before any correction."""
    one_shape = cell.work is not None and cell.work.labels_per_example == 1.0
    if isinstance(job, Trial):
        precision = str(job.recipe.get("precision", "fp32"))
        return device.guess(_guess(cell, job), precision, one_shape)
    recorded = declared_metric(job.metric.name).recorded and one_shape
    return device.guess(_guess(cell, job), str(job.metric.args.get("precision", "fp32")), recorded)


def _guess(cell: Cell, job: Trial | MetricJob) -> Guess:
    if cell.work is None:
        return Guess(UNKNOWN_S)
    if isinstance(job, Trial):
        return _training(cell.work, dict(job.recipe))
    metric = declared_metric(job.metric.name)
    if metric.cost is None:
        return Guess(UNKNOWN_S)
    return estimated(job.metric.name, "cost", metric.cost, measurement_of(cell.work, job), Guess)


def predictor(corrections: Corrections) -> Callable[[Cell, Trial | MetricJob], float]:
    """Return a function like `predict_seconds` that computes each result once for all jobs with the
    same work and the same recipe or metric.

    Objects are remembered by identity and kept alive with it, so that an id is never reused.
    """
    known: dict[tuple[int, int, int], tuple[object, object, float]] = {}

    def predict(cell: Cell, job: Trial | MetricJob) -> float:
        what: object
        if isinstance(job, Trial):
            what, count = job.recipe, 0
        else:
            what, count = job.metric, num_networks(job)
        key = (id(cell.work), id(what), count)
        if key not in known:
            known[key] = (cell.work, what, predict_seconds(cell, job, corrections))
        return known[key][2]

    return predict


def estimated(
    metric: str,
    what: str,
    estimate: Callable[[Measurement], T],
    measurement: Measurement,
    kind: type[T],
) -> T:
    """Return the cost or memory that a metric declares for a measurement.

    Raises:
        SweepError: if its function raises, or returns something of another kind.
    """
    try:
        found = estimate(measurement)
    except Exception as error:  # a user's code may raise anything
        raise SweepError(
            f"planning metric {metric}: its {what} raises {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, kind):
        raise SweepError(
            f"planning metric {metric}: its {what} returned {found!r}; allowed: {kind.__name__}"
        )
    return found


def learn_corrections(
    pairs: Mapping[str, Sequence[tuple[Guess, float]]], device: Device = CPU
) -> Corrections:
    """Learn corrections from (guess, measured seconds) by kind of job; kinds with fewer than
    `FEWEST` timings get none.
    """
    found, left_out = {}, []
    for kind, values in pairs.items():
        usable = [(g, m) for g, m in values if g.seconds > 0 and m > 0]
        if len(usable) >= FEWEST:
            found[kind] = _fit(usable)
            left_out += _left_out(usable)
    return Corrections(found, device, _error(left_out))


def _left_out(values: Sequence[tuple[Guess, float]]) -> list[tuple[float, float]]:
    """Return (forecast, measured) seconds of each job, forecast by the timings of jobs with other
    guesses; every `FOLDS`th guess is left out at once.
    """
    guesses = sorted({guess for guess, _ in values}, key=lambda guess: guess.seconds)
    fold_of = {guess: index % FOLDS for index, guess in enumerate(guesses)}
    pairs = []
    for fold in range(FOLDS):
        others = [(g, m) for g, m in values if fold_of[g] != fold]
        if len(others) >= FEWEST:
            fitted = _fit(others)
            pairs += [(fitted.seconds(g), m) for g, m in values if fold_of[g] == fold]
    return pairs


def _error(pairs: Sequence[tuple[float, float]]) -> TimingError | None:
    if len(pairs) < FEWEST:
        return None
    forecast, measured = (sum(column) for column in zip(*pairs, strict=True))
    return TimingError(median(abs(f / m - 1) for f, m in pairs), forecast / measured - 1)


def _fit(values: Sequence[tuple[Guess, float]]) -> Correction:
    """Fit both factors by least squares of the relative error, then scale them so that the median
    job is predicted exactly.

    Use one common factor if the timings cannot separate the parts, or a factor would be negative.
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


def measurement_of(work: Workload, job: MetricJob, together: int = 1) -> Measurement:
    """Return what the cost of a measurement in a cell with this work depends on."""
    sources = len(job.reads) if job.request.of or job.request.samples else 0
    return Measurement(work, job.metric.args, num_networks(job), together, sources)


def num_networks(job: MetricJob) -> int:
    """Return the number of networks that a job measures, faster than by listing them."""
    return len((job.on if job.request.depth else job.reads) or job.trials)


def kind_of(job: Trial | MetricJob) -> str:
    """Return the kind under which a job's timings are kept."""
    return "trial" if isinstance(job, Trial) else job.metric.name


def predict_seconds(cell: Cell, job: Trial | MetricJob, corrections: Corrections) -> float:
    """Predict the seconds of a job on one core, or one GPU if that is what was timed: the guess,
    corrected.
    """
    guess = guess_cost(cell, job, corrections.device)
    return corrections.of(kind_of(job)).seconds(guess)


def _training(work: Workload, recipe: dict[str, Any]) -> Guess:
    updates = recipe.get("updates")
    batch = max(1, round(examples_per_batch(recipe, work.labels_per_example)))
    epoch = work.num_train + num_from_aside(recipe, work.num_train, work.num_aside)
    examples = epoch * int(recipe["epochs"]) if updates is None else updates * batch
    every = int(recipe.get("test_every") or 0)
    tests = examples / epoch / every if every else 0.0
    test = passes(work, work.num_test, 500, 1)
    factor = 3 if recipe.get("sam") is None else 6
    return passes(work, examples, batch, factor) + tests * test + evaluation(work)
