"""Compare the means of cells with the thresholds, and find thresholds from the data."""

from dataclasses import dataclass

import numpy as np

from phasegrid.analysis.phases.measured import Flags, Means
from phasegrid.analysis.phases.rules import Rules, Threshold, threshold
from phasegrid.analysis.tables.grid import Floats

LOSS_PER_HESSIAN = 1.85
"""This many factors of e in training loss weigh as much as one in the Hessian: the ratio of the
spreads of their logarithms over the published cells, 2.53 and 1.37 (Yang et al. 2021, Fig. 3 data).
"""


def find_thresholds(means: Means, rules: Rules) -> tuple[Threshold, ...]:
    """Return the given thresholds and those that are found: by Otsu's rule on ln(loss), ln(Hessian)
    and ln|mc| of the cells that learned, and on CKA of those that are also flat and connected,
    because CKA divides no others.

    A threshold that cannot be found (fewer than four distinct values) is absent, and its quantity
    counts as not measured. |mc| below a hundredth of the unit counts as a hundredth, so that exact
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
    sides = Sides.of(means, use, rules)
    four = learned & (sides.sharpness <= 0) & (np.abs(means.mc) <= sides.tolerance)
    cka = threshold("cka", rules.cka, means.cka[four], logarithmic=False)
    use += (cka,) if cka is not None else ()
    if rules.not_converged is not None:
        use += (Threshold("not_converged", rules.not_converged, "given"),)
    return use


def not_converged(means: Means, rules: Rules) -> Flags:
    """Say which cells (C,) have not converged by these rules; none if the rules do not use that
    label.
    """
    if rules.not_converged is None:
        return np.zeros(means.loss.shape, dtype=bool)
    return np.asarray((means.loss > rules.not_converged) | means.half_diverged)


def sharpness(loss: Floats, hessian: Floats, loss_star: float, hessian_star: float) -> Floats:
    """Return ln(L/L*) / `LOSS_PER_HESSIAN` + ln(H/H*); only one of the terms if the other quantity,
    or its threshold, is missing.
    """
    by_loss = np.log(loss / loss_star) / LOSS_PER_HESSIAN
    by_hessian = np.log(hessian / hessian_star)
    known = ~np.isnan(by_loss) | ~np.isnan(by_hessian)
    return np.where(known, np.nan_to_num(by_loss) + np.nan_to_num(by_hessian), np.nan)


@dataclass(frozen=True)
class Sides:
    """The thresholds in use, and the `sharpness` (C,) of cells, which is compared with 0; mc is
    compared with +-`tolerance`, CKA with `cka`. A missing threshold is NaN. From the loss
    `never_converged` on, a cell is NC; it is infinite if no cell is NC by its loss.
    """

    loss_star: float
    hessian_star: float
    tolerance: float
    cka: float
    never_converged: float
    nc: Flags
    sharpness: Floats

    @classmethod
    def of(cls, means: Means, thresholds: tuple[Threshold, ...], rules: Rules) -> "Sides":
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
