"""Compare the means of cells with the thresholds, and find thresholds from the data."""

from dataclasses import dataclass

import numpy as np

from phasegrid.analysis.phases.measured import Flags, Means
from phasegrid.analysis.phases.rules import Rules, Threshold, threshold
from phasegrid.analysis.tables.grid import Floats

LOSS_PER_HESSIAN = 1.85
"""How many factors of e of training loss weigh as much as one of the Hessian: the ratio of the
spreads of their logarithms over the published cells, 2.53 and 1.37 (Yang et al. 2021, Fig. 3 data).
"""


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
    """Return ln(L/L*) / `LOSS_PER_HESSIAN` + ln(H/H*); of one of them where the other, or its
    threshold, is missing.
    """
    by_loss = np.log(loss / loss_star) / LOSS_PER_HESSIAN
    by_hessian = np.log(hessian / hessian_star)
    known = ~np.isnan(by_loss) | ~np.isnan(by_hessian)
    return np.where(known, np.nan_to_num(by_loss) + np.nan_to_num(by_hessian), np.nan)


@dataclass(frozen=True)
class Sides:
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
