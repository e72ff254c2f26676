"""Collect the numbers that decide the phase of a cell: the values of its trials and pairs, and
their means.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.stats.aggregate import collapsed_seeds, jackknife, not_trained, vanishing
from phasegrid.analysis.tables.grid import (
    Floats,
    SweepTables,
    by_pair,
    by_seed,
    in_nats,
    loss_floors,
)
from phasegrid.analysis.tables.quantities import UNITS_DIFFER

LEAST_LOSS = 1e-3
"""Smaller training losses above the floor count as this many nats: the smallest published one is
0.0006.
"""

Flags = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]
"""A label for every cell (C,), or None."""


@dataclass(frozen=True)
class Means:
    """Cell means, each (C,); NaN where not measured. `loss` is above its floor, at least
    `LEAST_LOSS`. `not_trained` says where half of the trained seeds or more collapsed,
    `half_diverged` where half of the stored trials or more diverged. `hessian` is positive or NaN;
    `no_logarithm` says where it is NaN because its mean is negative or zero.
    """

    loss: Floats
    hessian: Floats
    no_logarithm: Flags
    mc: Floats
    cka: Floats
    not_trained: Flags
    half_diverged: Flags


@dataclass(frozen=True)
class Measured:
    """The numbers behind the labels: (C, S) per trial, (C, S, S) per pair, (C,) per cell.

    If the losses of cells have several units, then `loss`, `hessian` and a connectivity of the loss
    are NaN for the cells that are `not_in_nats`, because they cannot be compared with those of
    other cells. A mean of `hessian` up to `vanishing` is zero; `floor` is the least loss that label
    smoothing allows.
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
    not_in_nats: Flags

    @classmethod
    def of(cls, grid: SweepTables, rules: Rules) -> "Measured":
        diverged = grid.cells["n_diverged"].to_numpy()
        collapsed = collapsed_seeds(grid).sum(axis=1)
        several = grid.loss_unit == UNITS_DIFFER
        comparable = in_nats(grid) if several else np.ones(len(grid.cells), dtype=bool)
        mc = by_pair(grid.values, rules.connectivity_quantity, grid.cells)
        if rules.connectivity_quantity == "mode_connectivity_loss":
            mc[~comparable] = np.nan
        hessian = by_seed(grid.values, rules.hessian_quantity, grid.cells)
        loss = by_seed(grid.values, "train_loss", grid.cells)
        loss[~comparable], hessian[~comparable] = np.nan, np.nan
        return cls(
            loss=loss,
            floor=loss_floors(grid),
            hessian=hessian,
            vanishing=vanishing(grid, grid.quantity(rules.hessian_quantity)),
            mc=mc,
            cka=by_pair(grid.values, "cka", grid.cells),
            n_collapsed=collapsed,
            not_trained=not_trained(grid, collapsed),
            half_diverged=(diverged > 0) & (diverged >= grid.cells["n_done"].to_numpy()),
            not_in_nats=~comparable,
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
