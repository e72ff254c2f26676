"""Compute how certain the mean of a cell is: standard errors pooled over the cells of a diagram.
Pure: arrays in, arrays out.

Two to five seeds, and often only one curve, say little about a spread. As in Smyth (2004), the
variance s^2 of a cell with d degrees of freedom is moved towards the variance s_0^2 that the
diagram suggests, as if this had been observed with d_0 degrees of freedom:

    (d_0 s_0^2 + d s^2) / (d_0 + d),    with d_0 + d degrees of freedom.

s_0^2 is a power of the size of the numbers: a line through the logarithms over all cells gives its
exponent, between 0 and 1 for the standard deviation. (It is constant for quantities without a
meaningful zero.) d_0 follows from how much the cells scatter around it beyond chance. A cell that
varies far more than expected keeps its own s^2 (after Phipson et al. 2016).

A diagram with one curve per cell has no s^2. There the residual of a cell against the mean of its
two neighbours along an axis replaces it (Gasser, Sroka and Jennen-Steinmetz 1986). The smaller
residual of both axes is used, so a border between phases increases it only where the border turns.

Letters: C cells, S seeds, m pairs of a cell.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import digamma, polygamma

from phasegrid.analysis.tables.grid import Floats

SHARED = 0.25
"""Correlation of two pairs that share a seed, if the diagram does not determine it: halfway between
zero and the largest possible one.
"""
FEWEST = 5
"""From this many cells on, the expected spread may depend on the size of the numbers."""
OUTLYING = 0.99
"""A cell keeps its own variance if this is above this quantile of what the other cells suggest."""
FREEDOM = (1.0, 30.0)
"""Bounds of d_0."""
RESIDUAL = np.array([[-1.270, 4.935], [-2.256, 6.034]])
"""Mean and variance of the logarithm of a squared normal residual, in units of its variance, and of
the smaller of the two residuals of a cell (from 10^6 draws; both involve the cell itself).
"""


@dataclass(frozen=True)
class Raw:
    """The numbers of the cells alone, each (C,): their means; the variance of one trial or pair and
    its degrees of freedom (NaN and 0 if there is only one); the factor from this variance to that
    of the mean; and the size on which the spread may depend.
    """

    value: Floats
    unit: Floats
    freedom: Floats
    factor: Floats
    size: Floats


@dataclass(frozen=True)
class Estimate:
    """Means (C,) with standard errors and degrees of freedom; NaN if not measured, or if the spread
    is unknown.
    """

    value: Floats
    stderr: Floats
    freedom: Floats


def of_trials(value: Floats, without: Floats) -> Raw:
    """Return the spread of numbers (C,) of trials by the jackknife, from the numbers (C, S) without
    each seed.
    """
    there = ~np.isnan(without)
    n = there.sum(axis=1)
    known = np.where(there, without, 0.0)
    centre = known.sum(axis=1) / np.maximum(n, 1)
    squares = np.where(there, (known - centre[:, None]) ** 2, 0.0).sum(axis=1)
    unit = np.where(n >= 2, (n - 1) * squares, np.nan)
    factor = 1.0 / np.maximum(n, 1)
    return Raw(value, unit, np.maximum(n - 1.0, 0.0), factor, np.ones(len(value)))


def of_pairs(array: Floats) -> Raw:
    """Return means and spread of pairs (C, S, S).

    Two pairs that share a seed have the correlation r, which is pooled over the diagram. A cell in
    which all pairs share seeds (three seeds) does not determine r; if no cell does, r is `SHARED`.
    """
    numbers = _one_order(array)
    r = _correlation(numbers)
    size, unit, freedom, factor = (np.full(len(numbers), np.nan) for _ in range(4))
    value = np.full(len(numbers), np.nan)
    for i, (y, sharing) in enumerate(numbers):
        m = len(y)
        if not m:
            continue
        c = r * sharing[np.triu_indices(m, 1)].mean() if m > 1 else 0.0
        value[i], size[i] = y.mean(), abs(y.mean())
        factor[i] = (1 + (m - 1) * c) / m
        seeds = (1 + np.sqrt(1 + 8 * m)) / 2
        freedom[i] = min(m - 1, 2 * (seeds - 1)) if m > 1 else 0.0
        unit[i] = y.var(ddof=1) / (1 - c) if m > 1 else np.nan
    return Raw(value, unit, np.nan_to_num(freedom), factor, size)


def pooled(raw: Raw, smallest: float, *, by_size: bool, places: npt.NDArray[np.int_]) -> Estimate:
    """Return means with pooled standard errors. `smallest` is the least plausible standard
    deviation; `places` (C, 3) are the indices of facet, load and temperature of each cell.

    If no cell has a spread of its own and none has two neighbours, standard errors are NaN.
    """
    least = smallest**2
    known = raw.freedom > 0
    if known.any():
        logs = np.log(np.maximum(raw.unit, least))
        half = np.maximum(raw.freedom, 1) / 2
        bias, chance = digamma(half) - np.log(half), polygamma(1, half)
        size = raw.size
    else:
        residuals, beside, axes = _residuals(raw.value, places)
        known = axes > 0
        logs = np.log(np.maximum(residuals**2 / 1.5, least))
        bias, chance = RESIDUAL[np.maximum(axes, 1) - 1].T
        size = np.where(np.isnan(beside), raw.size, np.hypot(raw.size, beside) / 2**0.5)
    if not known.any():
        unknown = np.full(len(raw.value), np.nan)
        return Estimate(raw.value, unknown, unknown)
    scale = np.log(np.maximum(size, 5 * smallest))
    expected, prior = _expectation(logs - bias, chance, scale, known, by_size=by_size)
    s2, d = np.where(raw.freedom > 0, np.nan_to_num(raw.unit), 0.0), raw.freedom
    unit, freedom = (prior * np.exp(expected) + d * s2) / (prior + d), prior + d
    outlying = s2 > np.exp(expected) * stats.f.ppf(OUTLYING, np.maximum(d, 1), prior)
    unit, freedom = np.where(outlying, s2, unit), np.where(outlying, d, freedom)
    stderr = np.sqrt(np.maximum(unit, least) * raw.factor)
    return Estimate(raw.value, stderr, np.where(np.isnan(raw.value), np.nan, freedom))


def _expectation(
    logs: Floats, chance: Floats, scale: Floats, known: npt.NDArray[np.bool_], *, by_size: bool
) -> tuple[Floats, float]:
    """Return ln s_0^2 (C,) and d_0 from unbiased logarithms of variances that scatter by
    `chance`.
    """
    y, x, weights = logs[known], scale[known], 1 / chance[known]
    slope = 0.0
    if by_size and len(y) >= FEWEST and np.ptp(x) > 0:
        centred = x - np.average(x, weights=weights)
        slope = float((weights * centred * y).sum() / (weights * centred**2).sum())
        slope = min(max(slope, 0.0), 2.0)
    level = np.average(y - slope * x, weights=weights)
    excess = float(np.mean((y - level - slope * x) ** 2 - chance[known])) if len(y) > 2 else 0.0
    prior = 2 * _inverse_trigamma(excess) if excess > 0 else FREEDOM[1]
    prior = FREEDOM[0] if len(y) <= 2 else min(max(prior, FREEDOM[0]), FREEDOM[1])
    # The logarithms of the true variances scatter too, and their mean is above ln s_0^2.
    return np.asarray(level + slope * scale + digamma(prior / 2) - np.log(prior / 2)), prior


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value, by Newton's method on 1/trigamma (Smyth 2004,
    appendix).
    """
    x = 0.5 + 1 / value
    for _ in range(20):
        trigamma = float(polygamma(1, x))
        x += trigamma * (1 - trigamma / value) / float(polygamma(2, x))
    return x


def _one_order(array: Floats) -> list[tuple[Floats, Floats]]:
    """Return for each cell its pairs (m,), without regard to order, and which of them (m, m) share
    a seed.
    """
    upper = np.triu_indices(array.shape[1], 1)
    both = np.stack([array, array.transpose(0, 2, 1)])
    there = ~np.isnan(both)
    count = there.sum(axis=0)
    mean = np.where(there, both, 0.0).sum(axis=0) / np.maximum(count, 1)
    found = []
    for i in range(len(array)):
        keep = count[i][upper] > 0
        a, b = upper[0][keep], upper[1][keep]
        sharing = (a[:, None] == a) | (b[:, None] == b) | (a[:, None] == b) | (b[:, None] == a)
        found.append((mean[i][upper][keep], sharing.astype(float)))
    return found


def _correlation(numbers: list[tuple[Floats, Floats]]) -> float:
    """Return the correlation of pairs that share a seed: 1 - (half the mean square difference of
    pairs that share one) / (the same of pairs that do not). Each cell is in units of the variance
    of cells of its size, because with its own variance the ratio would be biased.
    """
    shared, apart, sizes = [], [], []
    for y, sharing in numbers:
        together = sharing[np.triu_indices(len(y), 1)] > 0
        halves = ((y[:, None] - y) ** 2)[np.triu_indices(len(y), 1)] / 2
        if together.any() and not together.all() and halves.any():
            shared.append(halves[together].mean())
            apart.append(halves[~together].mean())
            sizes.append(abs(y.mean()))
    if not shared:
        return SHARED
    one, other = np.array(shared), np.array(apart)
    x = np.log(np.maximum(sizes, 1e-3 * max(sizes)))
    logs = np.log((one + other) / 2)
    steep = len(x) >= FEWEST and np.ptp(x) > 0
    slope = float(np.polyfit(x, logs, 1)[0]) if steep else 0.0
    unit = np.exp(slope * x)
    return float(min(max(1 - (one / unit).sum() / (other / unit).sum(), 0.0), 0.5))


def _residuals(
    values: Floats, places: npt.NDArray[np.int_]
) -> tuple[Floats, Floats, npt.NDArray[np.int_]]:
    """Return three arrays: the smaller residual of every cell against the mean of its two
    neighbours along an axis, the root mean square of all its neighbours (NaN without any), and the
    number of axes with a residual.
    """
    at = {tuple(place): value for place, value in zip(places.tolist(), values, strict=True)}
    residuals, beside = np.full(len(values), np.nan), np.full(len(values), np.nan)
    axes = np.zeros(len(values), dtype=int)
    for i, (facet, x, y) in enumerate(places.tolist()):
        pairs = [((facet, x - 1, y), (facet, x + 1, y)), ((facet, x, y - 1), (facet, x, y + 1))]
        sides = [[at.get(one, np.nan) for one in pair] for pair in pairs]
        found = [values[i] - np.mean(side) for side in sides if not np.isnan(side).any()]
        there = [value for side in sides for value in side if not np.isnan(value)]
        if found and not np.isnan(values[i]):
            residuals[i], axes[i] = min(found, key=abs), len(found)
        if there:
            beside[i] = float(np.sqrt(np.mean(np.square(there))))
    return residuals, beside, axes
