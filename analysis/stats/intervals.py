"""Compute 95% intervals from two to five seeds, by one method for every difference of two sweeps.
Pure: arrays in, numbers out.

The method is Scheffé's (1943) solution of the Behrens-Fisher problem. With n seeds x in the one
sweep and m >= n seeds y in the other, the n numbers

    d_i = x_i - sqrt(n/m) y_i + sum(y_1 .. y_n)/sqrt(nm) - mean(y)

have the mean mean(x) - mean(y), equal variances and no correlation, whatever the variances of x and
y are. So Student's t with n - 1 degrees of freedom is exact for normal seeds, from two seeds on.
For n = m it is the paired t, which pairs equal seeds; this is also correct if two trainings with
one seed have something in common. (Welch's t covers 90 to 98% with two seeds, and the percentile
bootstrap of two values is no interval at all; `docs/phases.md` has the figures.)
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from phasegrid.analysis.stats.aggregate import jackknife, leave_one_out
from phasegrid.analysis.tables.grid import Floats, SweepTables, by_pair, by_seed, seeds_of

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedValues:
    """One number per seed, in ascending order of seeds, and the seeds: both (n,)."""

    seeds: Floats
    values: Floats

    def at(self, keep: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "SeedValues":
        """Return the numbers and seeds that `keep` (n,) selects."""
        return SeedValues(self.seeds[keep], self.values[keep])


@dataclass(frozen=True)
class Spread:
    """The standard error of a mean or of a difference of means, and half the width of its 95%
    interval.

    Both are NaN for fewer than two seeds.
    """

    stderr: float
    reach: float


UNKNOWN = Spread(float("nan"), float("nan"))


def of_mean(one: SeedValues) -> Spread:
    """Return the spread of a mean: Student's t over its seeds."""
    return _student(one.values)


def of_difference(a: SeedValues, b: SeedValues) -> Spread:
    """Return the spread of mean(a) - mean(b), or of mean(b) - mean(a): Scheffé's t, which pairs
    equal seeds.
    """
    few, many = (a, b) if len(a.values) <= len(b.values) else (b, a)
    n, m = len(few.values), len(many.values)
    if n < 2:
        return UNKNOWN
    return _student(few.values - np.sqrt(n / m) * _alongside(few, many))


def per_seed(grid: SweepTables, name: str) -> list[SeedValues] | None:
    """Return one number per seed for every cell of a grid, such that their mean is the cell's
    number; None for quantities of whole cells.

    For trials these are the trials' own numbers. For pairs they are the jackknife's pseudo-values n
    m - (n - 1) m_i, with m_i the mean over the pairs without seed i (Tukey 1958); their standard
    error is that of the jackknife. For the logarithm of a mean m they are ln m + (x_i - m)/m, by
    the delta method.
    """
    rows = grid.values[grid.values["quantity"] == name]
    if rows["seed_a"].isna().all():
        return None
    reader = by_seed if rows["seed_b"].isna().all() else by_pair
    array = reader(grid.values, name, grid.cells)
    numbers = array if array.ndim == 2 else _pseudo_values(array)
    if grid.quantity(name).transform == "log_mean":
        numbers = _of_logarithms(numbers, jackknife(array)[0])
    seeds = seeds_of(grid.values)
    there = ~np.isnan(numbers)
    return [SeedValues(seeds[keep], row[keep]) for row, keep in zip(numbers, there, strict=True)]


def _student(values: Floats) -> Spread:
    n = len(values)
    if n < 2:
        return UNKNOWN
    stderr = float(values.std(ddof=1) / np.sqrt(n))
    return Spread(stderr, stderr * _quantile(n - 1))


@cache
def _quantile(freedom: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _alongside(few: SeedValues, many: SeedValues) -> Floats:
    """Return the n values of `many` that are paired with those of `few`: of the same seeds,
    otherwise of the next unused seeds.
    """
    place = {seed: i for i, seed in enumerate(many.seeds.tolist())}
    same = [place.get(seed) for seed in few.seeds.tolist()]
    free = iter(sorted(set(place.values()) - set(same)))
    return many.values[[next(free) if i is None else i for i in same]]


def _pseudo_values(array: Floats) -> Floats:
    mean, without = jackknife(array)[0], leave_one_out(array)
    n = (~np.isnan(without)).sum(axis=1)
    values = n[:, None] * mean[:, None] - (n - 1)[:, None] * without
    return np.asarray(np.where((n >= 2)[:, None], values, np.nan))


def _of_logarithms(numbers: Floats, mean: Floats) -> Floats:
    positive = (mean > 0)[:, None]
    safe = np.where(positive, mean[:, None], 1.0)
    return np.where(positive, np.log(safe) + (numbers - safe) / safe, np.nan)
