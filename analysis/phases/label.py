"""Phases of learning: I, II, III, IV-A, IV-B, NC or not trained for every cell, with its
confidence. Pure: tables in, tables out.

After Yang et al. 2021, section 3.1 and Fig. 1. The paper draws its borders by hand and gives no
thresholds. The rules here are ours; `docs/phases.md` gives the reasons for each:

- *Not converged*: NC, if the rules have that label (translation, as in the paper's appendix D.4 and
  Fig. 18): half of the seeds or more diverged, or the mean training loss is above a threshold. This
  label has priority over all others.
- *Not trained*: half of the seeds or more collapsed to chance. Such networks are joined by flat
  curves and have a tiny Hessian, but they are neither well connected nor flat in a useful sense.
- *Sharp* or *flat* follows from training loss L (above the least loss that label smoothing allows)
  and Hessian H together: with thresholds L*, H*, a cell is sharp if ln(L/L*) / `LOSS_PER_HESSIAN` +
  ln(H/H*) > 0. If one of them is missing, the other decides. An H that is negative or zero is not
  missing but has no logarithm: the cell is undetermined, whatever L is. mc above the tolerance
  means that the ends are worse than the curve between them, so they have not converged: sharp.
- *Barrier* if mc < -tolerance. Sharp and barrier: I. Sharp without barrier: II. Flat and barrier:
  III. Flat without barrier: IV, split by CKA: IV-B above its threshold, IV-A below; plain IV in a
  sweep without CKA.

The label of a cell depends only on its own means and the thresholds. By default, only the threshold
of the Hessian is found from the other cells.
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
    cells (`phasegrid.analysis.stats.confidence`): sharpness, mode connectivity and CKA separately,
    as if independent. ``confidence`` is the probability of the label of the measured means; the
    uncertainty of the thresholds is not part of it. Whether half of the seeds collapsed or diverged
    is counted and taken as certain.
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
