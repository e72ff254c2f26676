"""Rank quantities by how they go with performance over the cells of a diagram. Pure: table in,
table out.

For each quantity, over the cells that have both numbers: Spearman's rho and Kendall's tau-b with
test accuracy (test loss for translation), and the partial rho given the axes: what is left of the
correlation of ranks when both are freed of what the ranks of load and temperature, and the facets,
say linearly. Yang et al. 2021 see in their diagrams that accuracy rises with CKA and connectivity
and falls with the Hessian (section 3.1); a quantity that only repeats an axis has a partial
correlation near zero. Cells are not independent draws, so intervals are only descriptive:
percentiles of a bootstrap over cells.

A resample is a vector of counts: how often it has each cell. All resamples are then weighted sums
over the same sorted cells, and no value is sorted twice.

Letters: R resamples (the first is the cells themselves), n cells, Z axes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from phasegrid.analysis.tables.grid import Floats

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
FEWEST = 4
"""With fewer cells, no correlation is given."""

EXPLAINED = 1e-9
"""A rank with a smaller share of its variance left, given the axes, is a function of them."""

STATISTICS = ("spearman", "kendall", "partial")
COLUMNS = (
    "quantity",
    "target",
    *(f"{name}{end}" for name in STATISTICS for end in ("", "_low", "_high")),
    "n_cells",
)


def rank_correlations(
    table: pd.DataFrame, target: str, rng: np.random.Generator, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Correlate every quantity of an aggregated `table` with `target`, over all facets.

    Returns a row per quantity: ``quantity``, ``target``, ``spearman``, ``kendall``, ``partial``,
    each with ``_low`` and ``_high`` (95% of the bootstrap over cells), ``n_cells``; the strongest
    rho first. Quantities that are constant, or known in fewer than `FEWEST` cells, are left out.
    ``partial`` is null for one that is a function of the axes.
    """
    cells = table.pivot_table(index="cell", columns="quantity", values="value", sort=False)
    axes, rows, known = _axes(table).reindex(cells.index), [], dict[bytes, Resampled]()
    for name in cells.columns:
        if target not in cells or name == target:
            continue
        both = cells[[name, target]].dropna()
        if len(both) < FEWEST or np.ptp(both.to_numpy(dtype=float), axis=0).min() == 0:
            continue
        x, y = both.to_numpy(dtype=float).T
        same = both.index.to_numpy().tobytes()
        if same not in known:
            places = axes.loc[both.index].to_numpy(dtype=float)
            known[same] = _resample(y, places, resamples, rng)
        found = _statistics(x, known[same])
        spans = (number for values in found for number in (values[0], *_interval(values[1:])))
        rows.append((name, target, *spans, len(both)))
    ranked = pd.DataFrame(rows, columns=list(COLUMNS))
    strongest = ranked["spearman"].abs().sort_values(ascending=False, kind="stable").index
    return ranked.loc[strongest].reset_index(drop=True)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Some cells, resampled: how often each resample has each cell, `counts` (R, n), the centred
    `ranks` (1 + Z, R, n) of the target and of the axes, for every two targets whether they differ
    and how, `signs` (n, n), and the pairs (R,) that differ, `apart`.
    """

    counts: Floats
    ranks: Floats
    signs: Floats
    apart: Floats


def _axes(table: pd.DataFrame) -> pd.DataFrame:
    """Return what is known of the place of each cell: load and temperature (their order, where
    they have no numbers), and an indicator of every facet but one.
    """
    places = table.drop_duplicates("cell").set_index("cell")
    known = {}
    for axis in ("load", "temperature"):
        if axis in places:
            order = pd.Series(pd.factorize(places[f"{axis}_label"])[0], index=places.index)
            known[axis] = places[axis] if places[axis].notna().all() else order
    if "facet" in places:
        facets = list(dict.fromkeys(places["facet"]))
        known |= {f"facet {facet}": places["facet"] == facet for facet in facets[1:]}
    return pd.DataFrame(known, index=places.index, dtype=float)


def _counts(num: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Draw resamples of `num` cells, as counts (1 + `resamples`, n); first the cells themselves."""
    drawn = rng.integers(num, size=(resamples, num))
    flat = (drawn + num * np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=resamples * num).reshape(resamples, num)
    return np.vstack([np.ones((1, num)), counts])


def _resample(target: Floats, axes: Floats, resamples: int, rng: np.random.Generator) -> Resampled:
    """Resample cells with their `target` (n,) and `axes` (n, Z); quantities that are known in the
    same cells share the draws.
    """
    counts = _counts(len(target), resamples, rng)
    ranks = np.stack([_centred_ranks(values, counts) for values in (target, *axes.T)])
    signs = _signs(target)
    return Resampled(counts, ranks, signs, _pairs(signs**2, counts))


def _statistics(x: Floats, cells: Resampled) -> tuple[Floats, ...]:
    """Return rho, tau-b and the partial rho of a quantity `x` (n,) in every resample, each (R,);
    nan where a column is constant.

    tau-b is the concordant less the discordant pairs, over the root of the pairs without a tie in
    x times those without one in the target (Kendall 1945).
    """
    ranks = np.concatenate([_centred_ranks(x, cells.counts)[None], cells.ranks])
    products = np.einsum("arn,brn->rab", ranks * cells.counts, ranks, optimize=True)
    signs = _signs(x)
    concordant, apart = _pairs(signs * cells.signs, cells.counts), _pairs(signs**2, cells.counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = products[:, 0, 1] / np.sqrt(products[:, 0, 0] * products[:, 1, 1])
        return rho, concordant / np.sqrt(apart * cells.apart), _partial(products)


def _centred_ranks(values: Floats, counts: Floats) -> Floats:
    """Return the mean rank of each cell in every resample, less the mean of all, (R, n)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    ends = sizes.cumsum(axis=1)
    middles = ends - (sizes + ends[:, -1:]) / 2
    groups = np.empty(len(values), dtype=int)
    groups[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    ranks: Floats = middles[:, groups]
    return ranks


def _signs(values: Floats) -> Floats:
    """Return for every two cells which has the larger value: 1, -1, or 0 for neither, (n, n)."""
    signs: Floats = np.sign(values[:, None] - values)
    return signs


def _pairs(values: Floats, counts: Floats) -> Floats:
    """Sum what is known of every two cells, (n, n), over all pairs of every resample, (R,)."""
    sums: Floats = np.einsum("rn,rn->r", counts @ values, counts)
    return sums


def _partial(products: Floats) -> Floats:
    """Return the correlation of the first two variables given the others, from their centred
    products (R, 2 + Z, 2 + Z); nan where one is a linear function of these.
    """
    own, across, axes = products[:, :2, :2], products[:, :2, 2:], products[:, 2:, 2:]
    inverse = np.linalg.pinv(axes, rcond=1e-10, hermitian=True)
    left = own - across @ inverse @ across.transpose(0, 2, 1)
    variances = np.einsum("rii->ri", left)
    free = variances > EXPLAINED * np.einsum("rii->ri", own)
    variances = np.where(free, variances, np.nan)
    partial: Floats = left[:, 0, 1] / np.sqrt(variances.prod(axis=1))
    return partial


def _interval(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the interval of a statistic; a draw without one, as a column is constant, is left
    out.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return np.nan, np.nan
    low, high = np.percentile(draws, INTERVAL)
    return float(low), float(high)
