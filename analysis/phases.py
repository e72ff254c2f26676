"""Phases of learning: I, II, III, IV-A, IV-B or NC for every cell, with how sure that is. Pure: tables in, tables out.

After Yang et al. 2021, section 3.1 and Fig. 1. The paper draws its borders by hand and gives no thresholds; the
rules here are ours:

- *Not converged*: NC, where the rules have that label (translation, as in the paper's appendix D.4 and Fig. 18): half
  of the seeds or more diverged, or the mean training loss is above a threshold. It goes before all others.
- *Nothing learned* (half of the seeds or more collapsed to chance): II. Such nets are joined by flat curves and have
  a tiny Hessian, and are neither well connected nor flat in any useful sense; the paper's II is "by failing to
  converge".
- *Sharp* or *flat* is read off training loss L and Hessian H together: with thresholds L*, H* and the spread
  (standard deviation) s of each logarithm over the learned cells, sharp if (ln L - ln L*)/s_L + (ln H - ln H*)/s_H >
  0. Where one is missing the other decides; an H that is negative or zero has no logarithm and is not missing: the cell
  is undetermined, whatever L is. mc above the tolerance means ends that are worse than the curve between
  them, hence not converged: sharp.
- *Barrier* if mc < -tolerance. Sharp and barrier: I. Sharp without: II. Flat and barrier: III. Flat without: IV,
  split by CKA: IV-B above its threshold, IV-A below; plain IV in a sweep that has no CKA.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.aggregation import PLACE_COLUMNS, collapsed_seeds, vanishing
from analysis.grid import Floats, Grid, by_pair, by_seed
from analysis.quantities import quantity
from analysis.resampling import draw_counts, pair_means, seed_means
from analysis.rules import Rules, Threshold, threshold

PHASES: tuple[str, ...] = ("I", "II", "III", "IV-A", "IV-B", "IV", "NC")
UNDETERMINED = "undetermined"
EVERY_DIVERGED = "every trial diverged"
NO_LOGARITHM = ("trace negative", "trace zero", "lambda_max negative", "lambda_max zero")
"""Reasons of cells that have no phase because the Hessian quantity has no logarithm."""
_NONE = -1  # no phase: something it depends on was not measured

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class PhaseMap:
    """Labels of all cells and what they rest on.

    `table` has one row per cell: its place, ``phase`` (a label, or ``undetermined``), ``nearest`` (the label
    whatever its confidence; null where nothing can be said), ``confidence``, ``reason``, ``n_seeds``, ``n_pairs`` of
    mc, ``mc_spread_known``, ``n_diverged`` and ``n_collapsed``. `thresholds` are those in use; that of mode connectivity has the name of
    the quantity it is a tolerance of, `Rules.connectivity_quantity`.
    """

    table: pd.DataFrame
    thresholds: tuple[Threshold, ...]
    rules: Rules

    def threshold(self, name: str) -> float:
        """Return the value of a threshold in use; NaN where it could not be found."""
        return next((found.value for found in self.thresholds if found.name == name), np.nan)


def label_phases(grid: Grid, rules: Rules, rng: np.random.Generator) -> PhaseMap:
    """Label every cell and say how often the label survives resampling the cell's seeds.

    The bootstrap draws the cell's seeds with replacement, averages trials with the drawn weights w_a and pairs with
    w_a w_b (a != b), and labels again with the same thresholds; ``confidence`` is the share of agreement. It knows
    the spread over seeds, not that of the thresholds; where mc is from one pair (``mc_spread_known`` false) that
    part has no spread at all. Diverged seeds are not drawn: that half of them diverged is taken as certain.
    """
    measured = _Measured.of(grid, rules)
    counts = np.ones((1, *measured.loss.shape))
    means = _means(measured, counts)
    thresholds = find_thresholds(means, rules)
    codes = _label(means, thresholds, rules)[0]
    drawn = draw_counts(measured.loss, rules.resamples, rng)
    agreement = (_label(_means(measured, drawn), thresholds, rules) == codes).mean(axis=0)
    table = _table(grid, measured, codes, agreement, rules)
    return PhaseMap(table, thresholds, rules)


@dataclass(frozen=True)
class Means:
    """Cell means, each (B, C) with B resamples; NaN where not measured. `collapsed` is the share of collapsed
    seeds, `half_diverged` (C,) says where half of the stored trials or more diverged. `hessian` is positive, or NaN, where
    `no_logarithm` because its mean is negative or zero.
    """

    loss: Floats
    hessian: Floats
    no_logarithm: npt.NDArray[np.bool_]
    mc: Floats
    cka: Floats
    collapsed: Floats
    half_diverged: npt.NDArray[np.bool_]


def find_thresholds(means: Means, rules: Rules) -> tuple[Threshold, ...]:
    """Return the thresholds given, and those found: Otsu on ln(loss), ln(Hessian), ln|mc| and CKA itself.

    Cells that collapsed or did not converge are left out. A threshold that cannot be found (fewer than four distinct values) is absent, and
    what it would judge counts as not measured. |mc| below a hundredth of the unit counts as that, so that exact
    zeros have a logarithm.
    """
    learned = (means.collapsed[0] < 0.5) & ~not_converged(means, rules)[0]
    loss, hessian = _log(means.loss[0][learned]), _log(means.hessian[0][learned])
    mc = np.log(np.maximum(np.abs(means.mc[0][learned]), 1e-2))
    found = [
        threshold("train_loss", rules.train_loss, loss, logarithmic=True),
        threshold("hessian", rules.hessian, hessian, logarithmic=True),
        threshold(rules.connectivity_quantity, rules.mode_connectivity, mc, logarithmic=True),
        threshold("cka", rules.cka, means.cka[0][learned], logarithmic=False),
    ]
    if rules.not_converged is not None:
        found.append(Threshold("not_converged", rules.not_converged, "given"))
    return tuple(one for one in found if one is not None)


def not_converged(means: Means, rules: Rules) -> npt.NDArray[np.bool_]:
    """Say which cells and resamples (B, C) have not converged by these rules; none where the rules lack the label."""
    if rules.not_converged is None:
        return np.zeros(means.loss.shape, dtype=bool)
    return np.asarray((means.loss > rules.not_converged) | means.half_diverged)


@dataclass(frozen=True)
class _Measured:
    """What the labels rest on: (C, S) of trials, (C, S, S) of pairs, (C,) of cells.

    A mean of `hessian` up to `vanishing` is zero.
    """

    loss: Floats
    hessian: Floats
    vanishing: Floats
    mc: Floats
    cka: Floats
    collapsed: npt.NDArray[np.bool_]
    half_diverged: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, grid: Grid, rules: Rules) -> "_Measured":
        diverged = grid.cells["n_diverged"].to_numpy()
        return cls(
            loss=by_seed(grid.values, "train_loss", grid.cells),
            hessian=by_seed(grid.values, rules.hessian_quantity, grid.cells),
            vanishing=vanishing(grid, quantity(rules.hessian_quantity)),
            mc=by_pair(grid.values, rules.connectivity_quantity, grid.cells),
            cka=by_pair(grid.values, "cka", grid.cells),
            collapsed=collapsed_seeds(grid),
            half_diverged=(diverged > 0) & (diverged >= grid.cells["n_done"].to_numpy()),
        )


def _means(measured: _Measured, counts: Floats) -> Means:
    trained = ~np.isnan(measured.loss)
    weights = counts * trained
    total = np.maximum(weights.sum(axis=2), 1)
    hessian = seed_means(measured.hessian, counts)
    no_logarithm = hessian <= measured.vanishing
    return Means(
        loss=seed_means(measured.loss, counts),
        hessian=np.where(no_logarithm, np.nan, hessian),
        no_logarithm=no_logarithm,
        mc=pair_means(measured.mc, counts),
        cka=pair_means(measured.cka, counts),
        collapsed=(weights * measured.collapsed).sum(axis=2) / total,
        half_diverged=measured.half_diverged,
    )


def _label(means: Means, thresholds: tuple[Threshold, ...], rules: Rules) -> Codes:
    """Return the index into `PHASES` of every cell and resample (B, C), or -1."""
    use = {threshold.name: threshold for threshold in thresholds}
    connectivity = rules.connectivity_quantity
    loss = _excess(_log(means.loss), use.get("train_loss"))
    hessian = _excess(_log(means.hessian), use.get("hessian"))
    tolerance = use[connectivity].value if connectivity in use else np.nan
    nothing = means.collapsed >= 0.5
    excess = np.where(np.isnan(loss), 0.0, loss) + np.where(np.isnan(hessian), 0.0, hessian)
    sharp = (excess > 0) | (means.mc > tolerance)
    barrier = means.mc < -tolerance
    cka = use["cka"].value if "cka" in use else np.nan
    similar = means.cka > cka
    no_cka = bool(np.isnan(means.cka).all() or np.isnan(cka))
    unsure = (np.isnan(means.cka) & ~barrier & ~sharp) & (not no_cka)
    four = np.where(
        no_cka, PHASES.index("IV"), np.where(similar, PHASES.index("IV-B"), PHASES.index("IV-A"))
    )
    flat = np.where(barrier, PHASES.index("III"), np.where(unsure, _NONE, four))
    codes = np.where(sharp, np.where(barrier, PHASES.index("I"), PHASES.index("II")), flat)
    unknown = np.isnan(means.mc) | np.isnan(tolerance) | (np.isnan(loss) & np.isnan(hessian))
    unknown |= means.no_logarithm & ("hessian" in use) & ~(means.mc > tolerance)
    codes = np.where(nothing, PHASES.index("II"), np.where(unknown, _NONE, codes))
    return np.where(not_converged(means, rules), PHASES.index("NC"), codes).astype(np.int8)


def _excess(logs: Floats, threshold: Threshold | None) -> Floats:
    if threshold is None:
        return np.full_like(logs, np.nan)
    return np.asarray((logs - np.log(threshold.value)) / threshold.spread)


def _log(values: Floats) -> Floats:
    """Take the logarithm, of the smallest positive value there is for what is not positive."""
    positive = values[values > 0]
    floor = positive.min() if positive.size else 1.0
    return np.asarray(np.log(np.where(np.isnan(values), np.nan, np.maximum(values, floor))))


def _table(
    grid: Grid, measured: _Measured, codes: Codes, agreement: Floats, rules: Rules
) -> pd.DataFrame:
    table = grid.cells[PLACE_COLUMNS].reset_index(drop=True)
    names = pd.Series([PHASES[code] if code >= 0 else None for code in codes], dtype=object)
    sure = (agreement >= rules.confidence) & (codes >= 0)
    pairs = ~np.isnan(measured.mc)
    n_pairs = np.triu(pairs | pairs.transpose(0, 2, 1), 1).sum(axis=(1, 2))
    return table.assign(
        phase=names.where(sure, UNDETERMINED),
        nearest=names,
        confidence=np.where(codes >= 0, agreement, np.nan),
        reason=[
            _reason(grid, measured, rules, i, codes[i] >= 0, sure[i]) for i in range(len(codes))
        ],
        n_seeds=(~np.isnan(measured.loss)).sum(axis=1),
        n_pairs=n_pairs,
        mc_spread_known=n_pairs > 1,
        n_diverged=grid.cells["n_diverged"].to_numpy(),
        n_collapsed=measured.collapsed.sum(axis=1),
    )


def _reason(
    grid: Grid, measured: _Measured, rules: Rules, i: int, labelled: bool, sure: bool
) -> str:
    if labelled:
        return "" if sure else "the label changes with the seeds drawn"
    if grid.cells["n_done"].iloc[i] == 0:
        return EVERY_DIVERGED if grid.cells["n_diverged"].iloc[i] else "no trial stored"
    arrays = {
        "loss": measured.loss,
        "hessian": measured.hessian,
        "mc": measured.mc,
        "cka": measured.cka,
    }
    missing = [name for name, array in arrays.items() if bool(np.isnan(array[i]).all())]
    if missing:
        return f"not measured: {', '.join(missing)}"
    mean, floor = float(np.nanmean(measured.hessian[i])), measured.vanishing[i]
    if mean <= floor:
        return f"{rules.hessian_quantity} {'negative' if mean < -floor else 'zero'}"
    return "no threshold could be found"
