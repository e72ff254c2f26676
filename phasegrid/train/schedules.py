"""The learning rate over time, as a factor of the recipe's `lr`. No torch here.

Letters: w warm-up updates, U updates after the warm-up, u of these already made.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from pydantic import TypeAdapter

from phasegrid.declare import ScheduleKind, import_function
from phasegrid.registry import resolve_schedule
from phasegrid.train.recipe import Schedule

Factor = Callable[["Moment"], float]


@dataclass(frozen=True, slots=True)
class Moment:
    """The time of an update: its number `update` out of `total`, and its `epoch`, both from 0.

    An epoch has `per_epoch` updates; the first `warmup` updates are the warm-up.
    """

    update: int
    total: int
    epoch: int = 0
    per_epoch: int = 1
    warmup: int = 0

    @property
    def done(self) -> int:
        """The updates made since the warm-up, u; 0 during the warm-up."""
        return max(self.update - self.warmup, 0)

    @property
    def length(self) -> int:
        """The updates after the warm-up, U; at least 1."""
        return max(self.total - self.warmup, 1)


def factor_of(schedule: Schedule) -> Factor:
    """Return the factor of `lr` as a function of the moment.

    During a warm-up of w updates the factor of update n, counted from 1, is n/w times that of the
    schedule, which begins after it; ``step`` counts its epochs from the start of the training.

    >>> [factor_of(Schedule("linear"))(Moment(u, 4)) for u in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    declared = resolve_schedule(schedule.name)
    own = import_function(declared.factor)
    args: Any = schedule
    if declared.args is not Schedule:
        args = TypeAdapter(declared.args).validate_python(dict(schedule.args))
    warmup = schedule.warmup_updates
    if not warmup:
        return lambda moment: float(own(moment, args))

    def warmed(moment: Moment) -> float:
        when = Moment(moment.update, moment.total, moment.epoch, moment.per_epoch, warmup)
        return min(1.0, (moment.update + 1) / warmup) * float(own(when, args))

    return warmed


def factors_of(schedule: Schedule, total: int, per_epoch: int) -> list[float]:
    """Return the factor of every update of a training, `per_epoch` of them in an epoch."""
    factor = factor_of(schedule)
    return [factor(Moment(u, total, u // per_epoch, per_epoch)) for u in range(total)]


def lowest_updates(schedule: Schedule, total: int, per_epoch: int) -> tuple[int, ...]:
    """Return the updates, counted from 1, after which the learning rate has reached a minimum.

    These are its local minima; of several equal updates, the last. They are the middle of every
    cycle of ``cyclic`` and the end of every cycle of ``cosine_restarts``. The end of the training
    counts if the rate there is no higher than at any other minimum. A schedule without cycles has
    one minimum, its end, and a training without updates none.

    >>> lowest_updates(Schedule("cyclic", cycle_updates=4, low=0.1), total=10, per_epoch=5)
    (2, 6, 10)
    """
    if total == 0:
        return ()
    runs = _runs_of_equals(factors_of(schedule, total, per_epoch))
    inner = [
        (value, last)
        for (before, _), (value, last), (after, _) in zip(runs, runs[1:], runs[2:], strict=False)
        if before > value < after
    ]
    value, last = runs[-1]
    falls = len(runs) == 1 or runs[-2][0] > value
    lowest = min((each for each, _ in inner), default=math.inf)
    ends_low = not inner or (falls and (value < lowest or math.isclose(value, lowest)))
    return tuple([update + 1 for _, update in [*inner, *[(value, last)] * ends_low]])


def _runs_of_equals(factors: list[float]) -> list[tuple[float, int]]:
    """Return each run of equal factors, up to rounding: its value and its last index."""
    rounded = [(float(f"{factor:.9e}"), index) for index, factor in enumerate(factors)]
    groups = groupby(rounded, key=itemgetter(0))
    return [(value, list(group)[-1][1]) for value, group in groups]


def constant(_moment: Moment, _args: Schedule) -> float:
    """Return 1."""
    return 1.0


def step(moment: Moment, args: Schedule) -> float:
    """Return `factor` to the number of `at_epochs` that are <= the epoch, counted from 0."""
    return math.prod(args.factor for at in args.at_epochs if at <= moment.epoch)


def cosine(moment: Moment, args: Schedule) -> float:
    """Return f + (1 - f) (1 + cos(pi u/U)) / 2 with f = `final`, reached at u = U, one update after
    the last.
    """
    return _half_wave(moment.done / moment.length, args.final)


def linear(moment: Moment, args: Schedule) -> float:
    """Return 1 - (1 - f) u/U with f = `final`, reached at u = U, one update after the last."""
    return 1 - (1 - args.final) * (moment.done / moment.length)


def inverse_sqrt(moment: Moment, _args: Schedule) -> float:
    """Return sqrt(w/n), at most 1, with n the update counted from 1 and w at least 1 (Vaswani et
    al. 2017, eq. 3, scaled to a peak of 1).
    """
    peak = max(moment.warmup, 1)
    return math.sqrt(peak / max(moment.update + 1, peak))


def pieces(moment: Moment, args: Schedule) -> float:
    """Return the linear interpolation of `pieces` at (u + 1)/U; constant outside them."""
    share, points = (moment.done + 1) / moment.length, args.pieces
    place = bisect_left(points, share, key=itemgetter(0))
    if place in (0, len(points)):
        return points[min(place, len(points) - 1)][1]
    (start, before), (end, after) = points[place - 1 : place + 1]
    return before + (after - before) * (share - start) / (end - start)


def cyclic(moment: Moment, args: Schedule) -> float:
    """Return the triangular wave of Garipov et al. 2018 (section 4), divided by the rate alpha_1.

    With t(i) = (mod(i - 1, c) + 1) / c for update i, counted from 1, c updates per cycle and `low`
    = alpha_2 / alpha_1: alpha(i)/alpha_1 is (1 - 2t) + 2t low for t <= 1/2, and (2 - 2t) low + (2t
    - 1) after.
    """
    length = _cycle(moment, args)
    t = (moment.done % length + 1) / length
    if t <= 0.5:
        return (1 - 2 * t) + 2 * t * args.low
    return (2 - 2 * t) * args.low + (2 * t - 1)


def cosine_restarts(moment: Moment, args: Schedule) -> float:
    """Return l + (1 - l) (1 + cos(pi T/L)) / 2 with l = `low`, T the updates since the last restart
    and L the length of the cycle (Loshchilov and Hutter 2017, eq. 5).

    With `cycles` this is the schedule of Snapshot Ensembles (Huang et al. 2017, eq. 2). L is
    rounded to whole updates.
    """
    length, since = _cycle(moment, args), moment.done
    grown = float(length)
    while args.growth > 1 and since >= length:
        since -= length
        grown *= args.growth
        length = round(grown)
    return _half_wave(since % length / length, args.low)


def _half_wave(share: float, low: float) -> float:
    return low + (1 - low) * (1 + math.cos(math.pi * share)) / 2


def _cycle(moment: Moment, args: Schedule) -> int:
    """Return the updates of the first cycle."""
    if args.cycle_updates is not None:
        return args.cycle_updates
    if args.cycle_epochs is not None:
        return max(1, round(args.cycle_epochs * moment.per_epoch))
    return math.ceil(moment.length / (args.cycles or 1))


_CYCLE = ("low", "cycle_epochs", "cycle_updates", "cycles")

SCHEDULES: Mapping[str, ScheduleKind] = {
    "constant": ScheduleKind(Schedule, constant),
    "step": ScheduleKind(Schedule, step, reads=("at_epochs", "factor")),
    "cosine": ScheduleKind(Schedule, cosine, reads=("final",)),
    "linear": ScheduleKind(Schedule, linear, reads=("final",)),
    "inverse_sqrt": ScheduleKind(Schedule, inverse_sqrt),
    "pieces": ScheduleKind(Schedule, pieces, reads=("pieces",)),
    "cyclic": ScheduleKind(Schedule, cyclic, reads=_CYCLE),
    "cosine_restarts": ScheduleKind(Schedule, cosine_restarts, reads=(*_CYCLE, "growth")),
}
"""The schedules by name; their arguments are the fields of `Schedule`."""
