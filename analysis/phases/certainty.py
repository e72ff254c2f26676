"""Compute the confidence of the labels of cells."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from phasegrid.analysis.phases.measured import Flags, Means, Measured, Names
from phasegrid.analysis.phases.sides import Sides, sharpness
from phasegrid.analysis.stats.aggregate import jackknife, leave_one_out
from phasegrid.analysis.stats.confidence import probabilities
from phasegrid.analysis.stats.spread import Estimate, of_pairs, of_trials, pooled
from phasegrid.analysis.tables.grid import Floats, SweepTables, places

LEAST_SPREAD = 0.02
"""The smallest standard deviation assumed for one number, as a share of its threshold or
tolerance.
"""


def certainty(
    measured: Measured, means: Means, sides: Sides, names: Names, grid: SweepTables
) -> Floats:
    """Return the probability (C,) of the label of every cell; NaN if it has no label or a spread is
    not known.
    """
    where = places(grid)
    learned = ~means.not_trained & ~means.half_diverged
    sharp = _beyond(_sharpness_estimate(measured, means, sides, where), (0.0,), learned)
    mc = pooled(of_pairs(measured.mc), LEAST_SPREAD * sides.tolerance, by_size=True, places=where)
    below, within, above = _beyond(mc, (-sides.tolerance, sides.tolerance), learned).T
    cka = pooled(of_pairs(measured.cka), LEAST_SPREAD * sides.cka, by_size=False, places=where)
    apart, alike = _beyond(cka, (sides.cka,), learned).T
    flat, sharp = _has_logarithm(measured) * sharp.T
    by_label = {
        "I": below * sharp,
        "II": within * sharp + above,
        "III": below * flat,
        "IV-A": within * flat * apart,
        "IV-B": within * flat * alike,
        "IV": within * flat,
    }
    stuck = _stuck(measured, sides, where)
    found = np.full(len(names), np.nan)
    for name, probability in by_label.items():
        found = np.where(names == name, probability * (1 - stuck), found)
    found = np.where(names == "NC", np.where(means.half_diverged, 1.0, stuck), found)
    return np.where(names == "not trained", 1.0, np.minimum(found, 1.0))


def _beyond(found: Estimate, edges: tuple[float, ...], learned: Flags) -> Floats:
    """Return the probabilities (C, E + 1) of the intervals between edges; the cells that learned
    are each other's prior. NaN for all other cells.
    """
    if np.isnan(edges).any():
        return np.full((len(found.value), len(edges) + 1), np.nan)
    only = Estimate(np.where(learned, found.value, np.nan), found.stderr, found.freedom)
    return probabilities(only, edges)


def _sharpness_estimate(
    measured: Measured, means: Means, sides: Sides, where: npt.NDArray[np.int_]
) -> Estimate:
    hessian = np.maximum(leave_one_out(measured.hessian), 0.01 * means.hessian[:, None])
    without = sharpness(
        measured.excess(leave_one_out(measured.loss)), hessian, sides.loss_star, sides.hessian_star
    )
    return pooled(of_trials(sides.sharpness, without), LEAST_SPREAD, by_size=False, places=where)


def _has_logarithm(measured: Measured) -> Floats:
    """Return the probability (C,) that the mean of the Hessian quantity is positive: 1, unless it
    is zero or negative for a seed.
    """
    mean, stderr = jackknife(measured.hessian)
    n = (~np.isnan(measured.hessian)).sum(axis=1)
    doubtful = (measured.hessian <= measured.vanishing[:, None]).any(axis=1) & (stderr > 0)
    t = (mean - measured.vanishing) / np.where(doubtful, stderr, 1.0)
    return np.where(doubtful, stats.t.cdf(t, np.maximum(n - 1, 1)), 1.0)


def _stuck(measured: Measured, sides: Sides, where: npt.NDArray[np.int_]) -> Floats:
    """Return the probability (C,) that a cell is NC by its loss."""
    if np.isinf(sides.never_converged):
        return np.zeros(len(measured.loss))
    means, without = (
        np.log(measured.excess(found))
        for found in (jackknife(measured.loss)[0], leave_one_out(measured.loss))
    )
    found = pooled(of_trials(means, without), LEAST_SPREAD, by_size=False, places=where)
    return probabilities(found, (float(np.log(sides.never_converged)),))[:, 1]
