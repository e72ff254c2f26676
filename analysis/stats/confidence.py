"""Compute the probability that the true value of a cell is on the same side of a threshold as its
mean. Pure: arrays in, arrays out.

The prior of a cell's true value has two parts: the values of the diagram's other cells (empirical
Bayes: the nonparametric maximum likelihood of Kiefer and Wolfowitz 1956, by EM), and any other
value (a flat part, which starts with the weight of `FLAT` cells). With the cell's own mean,
standard error and degrees of freedom (`phasegrid.analysis.stats.spread`), Bayes' rule gives the
probability. A cell is never part of its own prior.

Letters: C cells, K points of support, E edges.
"""

import numpy as np
from scipy import stats

from phasegrid.analysis.stats.spread import Estimate
from phasegrid.analysis.tables.grid import Floats

FLAT = 5.0
SUPPORT = 200
"""The most points of support; quantiles replace the values of more cells."""
ITERATIONS = 15


def probabilities(found: Estimate, edges: tuple[float, ...]) -> Floats:
    """Return the probability (C, E + 1) of each interval between the ascending edges; NaN if a
    spread is not known.
    """
    result = np.full((len(found.value), len(edges) + 1), np.nan)
    known = ~np.isnan(found.value) & ~np.isnan(found.stderr)
    if not known.any():
        return result
    value, stderr, freedom = (one[known] for one in (found.value, found.stderr, found.freedom))
    support = np.unique(np.quantile(value, np.linspace(0, 1, min(len(value), SUPPORT))))
    likelihood = stats.t.pdf((value[:, None] - support) / stderr[:, None], freedom[:, None])
    likelihood = likelihood / stderr[:, None]
    width = np.ptp(value) + 2 * float(np.median(stderr))
    likelihood = np.hstack([likelihood, np.full((len(value), 1), 1 / width)])
    weights = _others(likelihood)
    parts = weights * likelihood
    parts = parts / parts.sum(axis=1, keepdims=True)
    side = np.searchsorted(np.array(edges), support, side="left")
    within = np.stack([parts[:, :-1] @ (side == e) for e in range(len(edges) + 1)], axis=1)
    below = stats.t.cdf((np.array(edges) - value[:, None]) / stderr[:, None], freedom[:, None])
    ends = np.hstack([np.zeros((len(value), 1)), below, np.ones((len(value), 1))])
    result[known] = within + parts[:, -1:] * np.diff(ends, axis=1)
    return result


def _others(likelihood: Floats) -> Floats:
    """Return the weights (C, K + 1) of the support from the other cells, the flat part last."""
    cells, points = likelihood.shape
    weights = np.full(points, 1.0 / points)
    for _ in range(ITERATIONS):
        shares = weights * likelihood
        shares = shares / shares.sum(axis=1, keepdims=True)
        total = shares.sum(axis=0)
        total[-1] += FLAT
        weights = total / (cells + FLAT)
    return np.asarray((total - shares) / (cells - 1 + FLAT))
