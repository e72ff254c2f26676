"""Phases of learning: I, II, III, IV-A, IV-B, NC or not trained for every cell, with its
confidence. Pure: tables in, tables out.

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
is found from the other cells by default.
"""

import numpy as np

from phasegrid.analysis.phases.certainty import certainty
from phasegrid.analysis.phases.measured import Means, Measured, Names
from phasegrid.analysis.phases.phase_map import PhaseMap, as_table
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.phases.sides import Sides, find_thresholds
from phasegrid.analysis.tables.grid import SweepTables

PHASES: tuple[str, ...] = ("I", "II", "III", "IV-A", "IV-B", "IV", "NC", "not trained")


def label_phases(grid: SweepTables, rules: Rules) -> PhaseMap:
    """Label every cell, with the probability that its true means have that label.

    The means of a cell have standard errors that are pooled over the diagram
    (`phasegrid.analysis.stats.spread`), and its true values are likely to be like those of other
    cells (`phasegrid.analysis.stats.confidence`): sharpness, mode connectivity and CKA each for
    itself, taken as independent. ``confidence`` is the probability of the label of the measured
    means; it does not know how sure the thresholds are. That half of the seeds collapsed or
    diverged is counted and taken as certain.
    """
    measured = Measured.of(grid, rules)
    means = measured.means()
    thresholds = find_thresholds(means, rules)
    sides = Sides.of(means, thresholds, rules)
    names = _label(means, sides)
    confidence = certainty(measured, means, sides, names, grid)
    return PhaseMap(as_table(grid, measured, names, confidence, rules), thresholds, rules)


def _label(means: Means, sides: Sides) -> Names:
    """Return the label of every cell (C,), or None. The first rule that holds decides."""
    sharp = (sides.sharpness > 0) | (means.mc > sides.tolerance)
    barrier = means.mc < -sides.tolerance
    unknown = np.isnan(means.mc) | np.isnan(sides.tolerance) | np.isnan(sides.sharpness)
    unknown |= means.no_logarithm & ~np.isnan(sides.hessian_star) & ~(means.mc > sides.tolerance)
    no_cka = bool(np.isnan(means.cka).all() or np.isnan(sides.cka))
    rules = (
        (sides.nc, "NC"),
        (means.not_trained, "not trained"),
        (unknown, None),
        (sharp & barrier, "I"),
        (sharp, "II"),
        (barrier, "III"),
        (np.full(sharp.shape, no_cka), "IV"),
        (np.isnan(means.cka), None),
        (means.cka > sides.cka, "IV-B"),
    )
    names: Names = np.full(sharp.shape, "IV-A", dtype=object)
    for cells, name in reversed(rules):
        names[cells] = name
    return names
