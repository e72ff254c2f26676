"""Phases of learning: I, II, III, IV-A, IV-B for every cell, with how sure that is. Pure: tables in, tables out.

After Yang et al. 2021, section 3.1 and Fig. 1. The paper draws its borders by hand and gives no thresholds; the
rules here are ours:

- *Nothing learned* (half of the seeds or more collapsed to chance): II. Such nets are joined by flat curves and have
  a tiny Hessian, and are neither well connected nor flat in any useful sense; the paper's II is "by failing to
  converge".
- *Sharp* or *flat* is read off training loss L and Hessian H together: with thresholds L*, H* and the spread
  (standard deviation) s of each logarithm over the learned cells, sharp if (ln L - ln L*)/s_L + (ln H - ln H*)/s_H >
  0. Where one is missing the other decides. mc above the tolerance means ends that are worse than the curve between
  them, hence not converged: sharp.
- *Barrier* if mc < -tolerance. Sharp and barrier: I. Sharp without: II. Flat and barrier: III. Flat without: IV,
  split by CKA: IV-B above its threshold, IV-A below; plain IV in a sweep that has no CKA.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.aggregation import PLACE_COLUMNS, collapsed_seeds
from analysis.grid import Floats, Grid, by_pair, by_seed
from phasegrid.errors import SweepError

PHASES: tuple[str, ...] = ("I", "II", "III", "IV-A", "IV-B", "IV")
UNDETERMINED = "undetermined"
EVERY_DIVERGED = "every trial diverged"
_NONE = -1  # no phase: something it depends on was not measured

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Rules:
    """Where the lines are drawn. A threshold of None is found from the data, by Otsu's rule over all cells of the
    sweep.

    - `train_loss` 0.1 nats: where the published CIFAR-10 diagrams split cleanly (Yang et al. 2021, Fig. 3 data).
    - `hessian`: on the mean of `hessian_quantity`, not its logarithm. No default fits two architectures.
    - `mode_connectivity`: tolerance around 0, in the unit of `connectivity_quantity`; 1 percentage point for errors.
    - `cka`: what "similar" means differs between data sets, so by default it is relative to the diagram at hand.
    - `confidence`: agreement of bootstrap labels below which a cell is called undetermined; `resamples` of the
      bootstrap.
    """

    train_loss: float | None = 0.1
    hessian: float | None = None
    mode_connectivity: float | None = 1.0
    cka: float | None = None
    hessian_quantity: Literal["trace", "lambda_max"] = "trace"
    connectivity_quantity: Literal[
        "mode_connectivity", "mode_connectivity_loss", "mode_connectivity_test"
    ] = "mode_connectivity"
    confidence: float = 0.8
    resamples: int = 1000


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold in use, where it is from, and the spread that sharpness is measured in (1 where it is not used)."""

    name: str
    value: float
    origin: Literal["given", "otsu"]
    spread: float = 1.0


@dataclass(frozen=True)
class PhaseMap:
    """Labels of all cells and what they rest on.

    `table` has one row per cell: its place, ``phase`` (a label, or ``undetermined``), ``nearest`` (the label
    whatever its confidence; null where nothing can be said), ``confidence``, ``reason``, ``n_seeds``, ``n_pairs`` of
    mc, ``mc_spread_known`` and ``n_collapsed``.
    """

    table: pd.DataFrame
    thresholds: tuple[Threshold, ...]


def rules_from(thresholds: Mapping[str, float]) -> Rules:
    """Return the default rules with some numbers given by name: train_loss, hessian, mode_connectivity, cka,
    confidence.

    Raises:
        SweepError: for an unknown name, or a number that cannot be a threshold.
    """
    allowed = ("train_loss", "hessian", "mode_connectivity", "cka", "confidence")
    unknown = sorted(set(thresholds) - set(allowed))
    if unknown:
        raise SweepError(f"no threshold is called {unknown[0]!r}; there are: {', '.join(allowed)}")
    for name, value in thresholds.items():
        if not (np.isfinite(value) and value > 0):
            raise SweepError(f"threshold {name}={value}: must be a positive number")
    base = Rules()
    return replace(
        base,
        train_loss=thresholds.get("train_loss", base.train_loss),
        hessian=thresholds.get("hessian", base.hessian),
        mode_connectivity=thresholds.get("mode_connectivity", base.mode_connectivity),
        cka=thresholds.get("cka", base.cka),
        confidence=thresholds.get("confidence", base.confidence),
    )


def label_phases(grid: Grid, rules: Rules, rng: np.random.Generator) -> PhaseMap:
    """Label every cell and say how often the label survives resampling the cell's seeds.

    The bootstrap draws the cell's seeds with replacement, averages trials with the drawn weights w_a and pairs with
    w_a w_b (a != b), and labels again with the same thresholds; ``confidence`` is the share of agreement. It knows
    the spread over seeds, not that of the thresholds; where mc is from one pair (``mc_spread_known`` false) that
    part has no spread at all.
    """
    measured = _Measured.of(grid, rules)
    counts = np.ones((1, *measured.loss.shape))
    means = _means(measured, counts)
    thresholds = find_thresholds(means, rules)
    codes = _label(means, thresholds)[0]
    drawn = _draws(measured, rules.resamples, rng)
    agreement = (_label(_means(measured, drawn), thresholds) == codes).mean(axis=0)
    table = _table(grid, measured, codes, agreement, rules)
    return PhaseMap(table, thresholds)


def otsu(values: Floats) -> float | None:
    """Return the threshold that splits numbers into the two groups with the largest variance between them (Otsu
    1979).

    Exact on the sorted values: halfway between the neighbours of the best split. None for fewer than four distinct
    values.

    >>> otsu(np.array([0.0, 1.0, 10.0, 11.0]))
    5.5
    """
    ordered = np.sort(values[~np.isnan(values)])
    if len(np.unique(ordered)) < 4:
        return None
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    best = int(np.argmax(below * (len(ordered) - below) * gap**2))
    return float((ordered[best] + ordered[best + 1]) / 2)


@dataclass(frozen=True)
class Means:
    """Cell means, each (B, C) with B resamples; NaN where not measured. `collapsed` is the share of collapsed
    seeds.
    """

    loss: Floats
    hessian: Floats
    mc: Floats
    cka: Floats
    collapsed: Floats


def find_thresholds(means: Means, rules: Rules) -> tuple[Threshold, ...]:
    """Return the thresholds given, and those found: Otsu on ln(loss), ln(Hessian), ln|mc| and CKA itself.

    Collapsed cells are left out. A threshold that cannot be found (fewer than four distinct values) is absent, and
    what it would judge counts as not measured. |mc| below a hundredth of the unit counts as that, so that exact
    zeros have a logarithm.
    """
    learned = means.collapsed[0] < 0.5
    loss, hessian = _log(means.loss[0][learned]), _log(means.hessian[0][learned])
    mc = np.log(np.maximum(np.abs(means.mc[0][learned]), 1e-2))
    found = (
        _threshold("train_loss", rules.train_loss, loss, logarithmic=True),
        _threshold("hessian", rules.hessian, hessian, logarithmic=True),
        _threshold("mode_connectivity", rules.mode_connectivity, mc, logarithmic=True),
        _threshold("cka", rules.cka, means.cka[0][learned], logarithmic=False),
    )
    return tuple(threshold for threshold in found if threshold is not None)


@dataclass(frozen=True)
class _Measured:
    """What the labels rest on: (C, S) of trials and (C, S, S) of pairs."""

    loss: Floats
    hessian: Floats
    mc: Floats
    cka: Floats
    collapsed: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, grid: Grid, rules: Rules) -> "_Measured":
        return cls(
            loss=by_seed(grid.values, "train_loss", grid.cells),
            hessian=by_seed(grid.values, rules.hessian_quantity, grid.cells),
            mc=by_pair(grid.values, rules.connectivity_quantity, grid.cells),
            cka=by_pair(grid.values, "cka", grid.cells),
            collapsed=collapsed_seeds(grid),
        )


def _draws(measured: _Measured, resamples: int, rng: np.random.Generator) -> Floats:
    """Draw how often each seed of each cell is taken: (B, C, S), n draws among the n seeds with a training loss."""
    there = ~np.isnan(measured.loss)
    n = there.sum(axis=1)
    shares = np.where(there, 1.0, 0.0) / np.maximum(n, 1)[:, None]
    shares[n == 0, 0:1] = 1.0  # multinomial wants probabilities, even for no draws
    return rng.multinomial(n, shares, size=(resamples, len(n))).astype(float)


def _means(measured: _Measured, counts: Floats) -> Means:
    trained = ~np.isnan(measured.loss)
    weights = counts * trained
    total = np.maximum(weights.sum(axis=2), 1)
    return Means(
        loss=_seed_means(measured.loss, counts),
        hessian=_seed_means(measured.hessian, counts),
        mc=_pair_means(measured.mc, counts),
        cka=_pair_means(measured.cka, counts),
        collapsed=(weights * measured.collapsed).sum(axis=2) / total,
    )


def _seed_means(array: Floats, counts: Floats) -> Floats:
    there = ~np.isnan(array)
    sums = np.einsum("bcs,cs->bc", counts, np.where(there, array, 0.0))
    return _divide(sums, np.einsum("bcs,cs->bc", counts, there.astype(float)), array)


def _pair_means(array: Floats, counts: Floats) -> Floats:
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


def _label(means: Means, thresholds: tuple[Threshold, ...]) -> Codes:
    """Return the index into `PHASES` of every cell and resample (B, C), or -1."""
    use = {threshold.name: threshold for threshold in thresholds}
    loss = _excess(_log(means.loss), use.get("train_loss"))
    hessian = _excess(_log(means.hessian), use.get("hessian"))
    tolerance = use["mode_connectivity"].value if "mode_connectivity" in use else np.nan
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
    return np.where(nothing, PHASES.index("II"), np.where(unknown, _NONE, codes)).astype(np.int8)


def _threshold(
    name: str, given: float | None, values: Floats, *, logarithmic: bool
) -> Threshold | None:
    known = values[~np.isnan(values)]
    spread = float(known.std()) if len(known) > 1 and known.std() > 0 else 1.0
    if given is not None:
        return Threshold(name, given, "given", spread)
    found = otsu(known)
    if found is None:
        return None
    return Threshold(name, float(np.exp(found)) if logarithmic else found, "otsu", spread)


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
        reason=[_reason(grid, measured, i, codes[i] >= 0, sure[i]) for i in range(len(codes))],
        n_seeds=(~np.isnan(measured.loss)).sum(axis=1),
        n_pairs=n_pairs,
        mc_spread_known=n_pairs > 1,
        n_collapsed=measured.collapsed.sum(axis=1),
    )


def _reason(grid: Grid, measured: _Measured, i: int, labelled: bool, sure: bool) -> str:
    if labelled:
        return "" if sure else "the label changes with the seeds drawn"
    if grid.cells["n_done"].iloc[i] == 0:
        return EVERY_DIVERGED if grid.cells["n_diverged"].iloc[i] else "no trial stored"
    missing = [
        spec.name
        for spec in fields(measured)
        if spec.name != "collapsed" and bool(np.isnan(getattr(measured, spec.name)[i]).all())
    ]
    return f"not measured: {', '.join(missing)}" if missing else "no threshold could be found"
