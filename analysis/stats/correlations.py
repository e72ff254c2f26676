"""Compute rank correlations of quantities with performance over the cells of a diagram. Pure: table
in, table out.

Spearman's rho of each quantity with test accuracy (test loss for translation), over the cells that
have both. Yang et al. 2021 see in their diagrams that accuracy rises with CKA and connectivity and
falls with the Hessian (section 3.1). Cells are not independent draws, so the interval is only
descriptive: percentiles of a bootstrap over cells.
"""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from phasegrid.analysis.tables.grid import Floats

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
FEWEST = 4
"""With fewer cells, no correlation is given."""


def rank_correlations(
    table: pd.DataFrame, target: str, rng: np.random.Generator, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Correlate every quantity of an aggregated `table` with `target`, over all facets.

    Returns a row per quantity: ``quantity``, ``target``, ``spearman``, ``low``, ``high`` (95% of
    the bootstrap over cells), ``n_cells``; the strongest first. Quantities that are constant, or
    known in fewer than `FEWEST` cells, are left out.
    """
    cells = table.pivot_table(index="cell", columns="quantity", values="value", sort=False)
    rows = []
    for name in cells.columns:
        if target not in cells or name == target:
            continue
        both = cells[[name, target]].dropna().to_numpy(dtype=float)
        if len(both) < FEWEST or np.ptp(both, axis=0).min() == 0:
            continue
        low, high = _interval(both, rng, resamples)
        rows.append((name, target, float(_spearman(both)), low, high, len(both)))
    columns = ["quantity", "target", "spearman", "low", "high", "n_cells"]
    found = pd.DataFrame(rows, columns=columns)
    strongest = found["spearman"].abs().sort_values(ascending=False, kind="stable").index
    return found.loc[strongest].reset_index(drop=True)


def _interval(both: Floats, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Resample cells; a draw in which a column is constant has no correlation and is left out."""
    draws = both[rng.integers(len(both), size=(resamples, len(both)))]
    draws = draws[np.ptp(draws, axis=1).min(axis=1) > 0]
    if not len(draws):
        return np.nan, np.nan
    low, high = np.percentile(_spearman(draws), INTERVAL)
    return float(low), float(high)


def _spearman(both: Floats) -> Floats:
    """Return the correlation of the ranks of two columns, over the cells of ``(..., cells, 2)``.

    All resamples are ranked in one call: a call of `scipy.stats.spearmanr` for each took longer
    than the figures.
    """
    ranks = rankdata(both, axis=-2)
    centred = ranks - ranks.mean(axis=-2, keepdims=True)
    x, y = centred[..., 0], centred[..., 1]
    rho: Floats = (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return rho
