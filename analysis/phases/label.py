"""Phases of learning: I, II, III, IV-A, IV-B, NC or not trained for every cell, with how sure that
is. Pure: tables in, tables out.

After Yang et al. 2021, section 3.1 and Fig. 1. The paper draws its borders by hand and gives no
thresholds; the rules here are ours, and `docs/phases.md` says what each rests on:

- *Not converged*: NC, where the rules have that label (translation, as in the paper's appendix D.4
  and Fig. 18): half of the seeds or more diverged, or the mean training loss is above a threshold.
  It goes before all others.
- *Not trained*: half of the seeds or more collapsed to chance. Such nets are joined by flat curves
  and have a tiny Hessian, and are neither well connected nor flat in any useful sense.
- *Sharp* or *flat* is read off training loss L (above what label smoothing leaves of it) and
  Hessian H together: with thresholds L*, H*, sharp if ln(L/L*) / `LOSS_PER_HESSIAN` + ln(H/H*) > 0.
  Where one is missing the other decides; an H that is negative or zero has no logarithm and is not
  missing: the cell is undetermined, whatever L is. mc above the tolerance means ends that are worse
  than the curve between them, hence not converged: sharp.
- *Barrier* if mc < -tolerance. Sharp and barrier: I. Sharp without: II. Flat and barrier: III. Flat
  without: IV, split by CKA: IV-B above its threshold, IV-A below; plain IV in a sweep that has no
  CKA.

The label of a cell rests on its own means and the thresholds; of these, only the one of the Hessian
is found from the other cells by default. How sure a label is (`confidence`) rests on the spread and
the values over the whole diagram as well.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from phasegrid.analysis.phases.rules import Rules, Threshold, threshold
from phasegrid.analysis.stats.aggregate import (
    PLACE_COLUMNS,
    collapsed_seeds,
    jackknife,
    leave_one_out,
    not_trained,
    vanishing,
)
from phasegrid.analysis.stats.confidence import probabilities
from phasegrid.analysis.stats.spread import Estimate, of_pairs, of_trials, pooled
from phasegrid.analysis.tables.grid import (
    Floats,
    SweepTables,
    by_pair,
    by_seed,
    loss_floors,
    places,
)

PHASES: tuple[str, ...] = ("I", "II", "III", "IV-A", "IV-B", "IV", "NC", "not trained")
UNDETERMINED = "undetermined"
EVERY_DIVERGED = "every trial diverged"
NO_LOGARITHM = ("trace negative", "trace zero", "lambda_max negative", "lambda_max zero")
"""Reasons of cells that have no phase because the Hessian quantity has no logarithm."""
NO_SPREAD = "one seed or curve and no neighbours: nothing says how sure"
LOSS_PER_HESSIAN = 1.85
"""How many factors of e of training loss weigh as much as one of the Hessian: the ratio of the
spreads of their logarithms over the published cells, 2.53 and 1.37 (Yang et al. 2021, Fig. 3 data).
"""
LEAST_LOSS = 1e-3
"""Nats above its floor below which a training loss counts as that: the smallest published is
0.0006.
"""
LEAST_SPREAD = 0.02
"""Share of a threshold or tolerance that is the smallest standard deviation believed of one number.
"""
_NONE = -1  # no phase: something it depends on was not measured

Codes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PhaseMap:
    """The labels of all cells, and the thresholds and numbers behind them.

    `table` has one row per cell: its place, ``phase`` (a label, or ``undetermined``), ``nearest``
    (the label whatever its confidence; null where nothing can be said), ``confidence``, ``reason``,
    ``n_seeds``, ``n_pairs`` of mc, ``mc_spread_known`` (more than one pair; else what other cells
    say stands for it), ``n_diverged`` and ``n_collapsed``. `thresholds` are those in use; that of
    mode connectivity has the name of the quantity it is a tolerance of,
    `Rules.connectivity_quantity`.
    """

    table: pd.DataFrame
    thresholds: tuple[Threshold, ...]
    rules: Rules

    def threshold(self, name: str) -> float:
        """Return the value of a threshold in use; NaN where it could not be found."""
        return next((found.value for found in self.thresholds if found.name == name), np.nan)


def label_phases(grid: SweepTables, rules: Rules) -> PhaseMap:
    """Label every cell and say with what probability its true means have that label.

    The means of a cell have standard errors that are pooled over the diagram
    (`phasegrid.analysis.stats.spread`), and its true values are likely to be like those of other
    cells (`phasegrid.analysis.stats.confidence`): sharpness, mode connectivity and CKA each for
    itself, taken as independent. ``confidence`` is the probability of the label of the measured
    means; it does not know how sure the thresholds are. That half of the seeds collapsed or
    diverged is counted and taken as certain.
    """
    measured = _Measured.of(grid, rules)
    means = measured.means()
    thresholds = find_thresholds(means, rules)
    sides = _Sides.of(means, thresholds, rules)
    codes = _label(means, sides)
    confidence = _confidence(measured, means, sides, codes, grid)
    return PhaseMap(_table(grid, measured, codes, confidence, rules), thresholds, rules)


@dataclass(frozen=True)
class Means:
    """Cell means, each (C,); NaN where not measured. `loss` is above its floor, at least
    `LEAST_LOSS`. `not_trained` says where half of the trained seeds or more collapsed,
    `half_diverged` where half of the stored trials or more diverged. `hessian` is positive, or NaN,
    where `no_logarithm` because its mean is negative or zero.
    """

    loss: Floats
    hessian: Floats
    no_logarithm: Flags
    mc: Floats
    cka: Floats
    not_trained: Flags
    half_diverged: Flags


def find_thresholds(means: Means, rules: Rules) -> tuple[Threshold, ...]:
    """Return the thresholds given, and those found: Otsu on ln(loss), ln(Hessian), ln|mc| of the
    cells that learned, and on the CKA of those of them that are flat and connected, since it
    divides no others.

    A threshold that cannot be found (fewer than four distinct values) is absent, and what it would
    judge counts as not measured. |mc| below a hundredth of the unit counts as that, so that exact
    zeros have a logarithm.
    """
    learned = ~means.not_trained & ~not_converged(means, rules)
    mc = np.log(np.maximum(np.abs(means.mc[learned]), 1e-2))
    found = [
        threshold("train_loss", rules.train_loss, np.log(means.loss[learned]), logarithmic=True),
        threshold("hessian", rules.hessian, np.log(means.hessian[learned]), logarithmic=True),
        threshold(rules.connectivity_quantity, rules.mode_connectivity, mc, logarithmic=True),
    ]
    use = tuple(one for one in found if one is not None)
    sides = _Sides.of(means, use, rules)
    four = learned & (sides.sharpness <= 0) & (np.abs(means.mc) <= sides.tolerance)
    cka = threshold("cka", rules.cka, means.cka[four], logarithmic=False)
    use += (cka,) if cka is not None else ()
    if rules.not_converged is not None:
        use += (Threshold("not_converged", rules.not_converged, "given"),)
    return use


def not_converged(means: Means, rules: Rules) -> Flags:
    """Say which cells (C,) have not converged by these rules; none where the rules lack the
    label.
    """
    if rules.not_converged is None:
        return np.zeros(means.loss.shape, dtype=bool)
    return np.asarray((means.loss > rules.not_converged) | means.half_diverged)


def sharpness(loss: Floats, hessian: Floats, loss_star: float, hessian_star: float) -> Floats:
    """Return ln(L/L*) / `LOSS_PER_HESSIAN` + ln(H/H*); of one of them where the other, or its
    threshold, is missing.
    """
    by_loss = np.log(loss / loss_star) / LOSS_PER_HESSIAN
    by_hessian = np.log(hessian / hessian_star)
    known = ~np.isnan(by_loss) | ~np.isnan(by_hessian)
    return np.where(known, np.nan_to_num(by_loss) + np.nan_to_num(by_hessian), np.nan)


@dataclass(frozen=True)
class _Sides:
    """Where the means of cells lie: `sharpness` (C,) against 0, mc against +-`tolerance`, CKA
    against `cka`; NaN for a threshold that there is not. `never_converged` is a loss, infinite
    where no cell is NC by its loss.
    """

    loss_star: float
    hessian_star: float
    tolerance: float
    cka: float
    never_converged: float
    nc: Flags
    sharpness: Floats

    @classmethod
    def of(cls, means: Means, thresholds: tuple[Threshold, ...], rules: Rules) -> "_Sides":
        use = {found.name: found.value for found in thresholds}
        loss_star, hessian_star = use.get("train_loss", np.nan), use.get("hessian", np.nan)
        return cls(
            loss_star,
            hessian_star,
            tolerance=use.get(rules.connectivity_quantity, np.nan),
            cka=use.get("cka", np.nan),
            never_converged=np.inf if rules.not_converged is None else rules.not_converged,
            nc=not_converged(means, rules),
            sharpness=sharpness(means.loss, means.hessian, loss_star, hessian_star),
        )


def _label(means: Means, sides: _Sides) -> Codes:
    """Return the index into `PHASES` of every cell (C,), or -1."""
    sharp = (sides.sharpness > 0) | (means.mc > sides.tolerance)
    barrier = means.mc < -sides.tolerance
    no_cka = bool(np.isnan(means.cka).all() or np.isnan(sides.cka))
    similar = np.where(means.cka > sides.cka, PHASES.index("IV-B"), PHASES.index("IV-A"))
    four = np.where(no_cka, PHASES.index("IV"), np.where(np.isnan(means.cka), _NONE, similar))
    codes = np.where(
        sharp,
        np.where(barrier, PHASES.index("I"), PHASES.index("II")),
        np.where(barrier, PHASES.index("III"), four),
    )
    unknown = np.isnan(means.mc) | np.isnan(sides.tolerance) | np.isnan(sides.sharpness)
    unknown |= means.no_logarithm & ~np.isnan(sides.hessian_star) & ~(means.mc > sides.tolerance)
    codes = np.where(unknown, _NONE, codes)
    codes = np.where(means.not_trained, PHASES.index("not trained"), codes)
    return np.where(sides.nc, PHASES.index("NC"), codes).astype(np.int8)


@dataclass(frozen=True)
class _Measured:
    """What the labels rest on: (C, S) of trials, (C, S, S) of pairs, (C,) of cells.

    A mean of `hessian` up to `vanishing` is zero; `floor` is what label smoothing leaves of the
    loss.
    """

    loss: Floats
    floor: Floats
    hessian: Floats
    vanishing: Floats
    mc: Floats
    cka: Floats
    n_collapsed: npt.NDArray[np.int_]
    not_trained: Flags
    half_diverged: Flags

    @classmethod
    def of(cls, grid: SweepTables, rules: Rules) -> "_Measured":
        diverged = grid.cells["n_diverged"].to_numpy()
        collapsed = collapsed_seeds(grid).sum(axis=1)
        return cls(
            loss=by_seed(grid.values, "train_loss", grid.cells),
            floor=loss_floors(grid),
            hessian=by_seed(grid.values, rules.hessian_quantity, grid.cells),
            vanishing=vanishing(grid, grid.quantity(rules.hessian_quantity)),
            mc=by_pair(grid.values, rules.connectivity_quantity, grid.cells),
            cka=by_pair(grid.values, "cka", grid.cells),
            n_collapsed=collapsed,
            not_trained=not_trained(grid, collapsed),
            half_diverged=(diverged > 0) & (diverged >= grid.cells["n_done"].to_numpy()),
        )

    def means(self) -> Means:
        hessian = jackknife(self.hessian)[0]
        no_logarithm = hessian <= self.vanishing
        return Means(
            loss=self.excess(jackknife(self.loss)[0]),
            hessian=np.where(no_logarithm, np.nan, hessian),
            no_logarithm=no_logarithm,
            mc=jackknife(self.mc)[0],
            cka=jackknife(self.cka)[0],
            not_trained=self.not_trained,
            half_diverged=self.half_diverged,
        )

    def excess(self, loss: Floats) -> Floats:
        """Return losses (C, ...) above their floors, at least `LEAST_LOSS`; NaN stays."""
        floor = self.floor.reshape(-1, *[1] * (loss.ndim - 1))
        return np.asarray(np.maximum(loss - floor, LEAST_LOSS))


def _confidence(
    measured: _Measured, means: Means, sides: _Sides, codes: Codes, grid: SweepTables
) -> Floats:
    """Return the probability (C,) of the label of every cell; NaN where it has none or a spread is
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
    found = np.full(len(codes), np.nan)
    for name, probability in by_label.items():
        found = np.where(codes == PHASES.index(name), probability * (1 - stuck), found)
    found = np.where(codes == PHASES.index("NC"), np.where(means.half_diverged, 1.0, stuck), found)
    return np.where(codes == PHASES.index("not trained"), 1.0, np.minimum(found, 1.0))


def _beyond(found: Estimate, edges: tuple[float, ...], learned: Flags) -> Floats:
    """Return the probabilities between edges (C, E + 1), with the cells that learned as each
    other's prior; NaN elsewhere.
    """
    if np.isnan(edges).any():
        return np.full((len(found.value), len(edges) + 1), np.nan)
    only = Estimate(np.where(learned, found.value, np.nan), found.stderr, found.freedom)
    return probabilities(only, edges)


def _sharpness_estimate(
    measured: _Measured, means: Means, sides: _Sides, where: npt.NDArray[np.int_]
) -> Estimate:
    hessian = np.maximum(leave_one_out(measured.hessian), 0.01 * means.hessian[:, None])
    without = sharpness(
        measured.excess(leave_one_out(measured.loss)), hessian, sides.loss_star, sides.hessian_star
    )
    return pooled(of_trials(sides.sharpness, without), LEAST_SPREAD, by_size=False, places=where)


def _has_logarithm(measured: _Measured) -> Floats:
    """Return the probability (C,) that the mean of the Hessian quantity is positive: 1, unless a
    seed has it at or below zero.
    """
    mean, stderr = jackknife(measured.hessian)
    n = (~np.isnan(measured.hessian)).sum(axis=1)
    doubtful = (measured.hessian <= measured.vanishing[:, None]).any(axis=1) & (stderr > 0)
    t = (mean - measured.vanishing) / np.where(doubtful, stderr, 1.0)
    return np.where(doubtful, stats.t.cdf(t, np.maximum(n - 1, 1)), 1.0)


def _stuck(measured: _Measured, sides: _Sides, where: npt.NDArray[np.int_]) -> Floats:
    """Return the probability (C,) that a cell is NC by its loss."""
    if np.isinf(sides.never_converged):
        return np.zeros(len(measured.loss))
    means, without = (
        np.log(measured.excess(found))
        for found in (jackknife(measured.loss)[0], leave_one_out(measured.loss))
    )
    found = pooled(of_trials(means, without), LEAST_SPREAD, by_size=False, places=where)
    return probabilities(found, (float(np.log(sides.never_converged)),))[:, 1]


def _table(
    grid: SweepTables, measured: _Measured, codes: Codes, confidence: Floats, rules: Rules
) -> pd.DataFrame:
    table = grid.cells[PLACE_COLUMNS].reset_index(drop=True)
    names = pd.Series([PHASES[code] if code >= 0 else None for code in codes], dtype=object)
    sure = (confidence >= rules.confidence) & (codes >= 0)
    pairs = ~np.isnan(measured.mc)
    n_pairs = np.triu(pairs | pairs.transpose(0, 2, 1), 1).sum(axis=(1, 2))
    reasons = [
        "" if sure[i] else _reason(grid, measured, rules, i, codes[i] >= 0, confidence[i])
        for i in range(len(codes))
    ]
    return table.assign(
        phase=names.where(sure, UNDETERMINED),
        nearest=names,
        confidence=confidence,
        reason=reasons,
        n_seeds=(~np.isnan(measured.loss)).sum(axis=1),
        n_pairs=n_pairs,
        mc_spread_known=n_pairs > 1,
        n_diverged=grid.cells["n_diverged"].to_numpy(),
        n_collapsed=measured.n_collapsed,
    )


def _reason(
    grid: SweepTables, measured: _Measured, rules: Rules, i: int, labelled: bool, confidence: float
) -> str:
    """Say why a cell is undetermined."""
    if labelled:
        return NO_SPREAD if np.isnan(confidence) else f"confidence below {rules.confidence:g}"
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
