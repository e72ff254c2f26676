"""The bootstrap over seeds: which seeds are drawn, and the means of trials and of pairs under such draws. Pure.

Letters: B resamples, C cells, S seeds. `counts` (B, C, S) says how often each seed is drawn.
"""

import numpy as np

from analysis.grid import Floats


def draw_counts(array: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Draw how often each seed of each cell is taken: (B, C, S), n draws with replacement among the n seeds of a cell
    that have a number in `array` (C, S).
    """
    there = ~np.isnan(array)
    n = there.sum(axis=1)
    shares = np.where(there, 1.0, 0.0) / np.maximum(n, 1)[:, None]
    shares[n == 0, 0:1] = 1.0  # multinomial wants probabilities, even for no draws
    return rng.multinomial(n, shares, size=(resamples, len(n))).astype(float)


def seed_means(array: Floats, counts: Floats) -> Floats:
    """Return the means (B, C) of trials (C, S), each weighted by how often it is drawn; NaN where there is no number."""
    there = ~np.isnan(array)
    sums = np.einsum("bcs,cs->bc", counts, np.where(there, array, 0.0))
    return _divide(sums, np.einsum("bcs,cs->bc", counts, there.astype(float)), array)


def pair_means(array: Floats, counts: Floats) -> Floats:
    """Return the means (B, C) of pairs (C, S, S) with weights w_a w_b, a != b."""
    there = ~np.isnan(array)
    filled = np.where(there, array, 0.0)
    sums = (np.einsum("bca,cad->bcd", counts, filled) * counts).sum(axis=2)
    weights = (np.einsum("bca,cad->bcd", counts, there.astype(float)) * counts).sum(axis=2)
    return _divide(sums, weights, array)


def _divide(sums: Floats, weights: Floats, array: Floats) -> Floats:
    """Divide; a resample that drew nothing measured says nothing new and keeps the cell's plain mean."""
    there = ~np.isnan(array)
    axes = tuple(range(1, array.ndim))
    count = there.sum(axis=axes)
    plain = np.where(there, array, 0.0).sum(axis=axes) / np.maximum(count, 1)
    plain = np.where(count > 0, plain, np.nan)
    return np.where(weights > 0, sums / np.where(weights > 0, weights, 1.0), plain)
