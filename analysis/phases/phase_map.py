"""Make a table of the labels of all cells, with the numbers behind them and the reasons for missing
labels.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from phasegrid.analysis.phases.measured import Measured, Names
from phasegrid.analysis.phases.rules import Rules, Threshold
from phasegrid.analysis.stats.aggregate import PLACE_COLUMNS
from phasegrid.analysis.tables.grid import Floats, SweepTables, by_seed
from phasegrid.analysis.tables.quantities import NATS

UNDETERMINED = "undetermined"
NOT_MEASURED = "not measured"
"""The beginning of the reason of a cell that lacks a quantity from which phases follow."""
EVERY_DIVERGED = "every trial diverged"
NO_LOGARITHM = ("trace negative", "trace zero", "lambda_max negative", "lambda_max zero")
"""Reasons of cells that have no phase because the Hessian quantity has no logarithm."""
OTHER_UNIT = "loss and Hessian are not in the unit of the other cells"
NO_THRESHOLD = "no threshold could be found"
NO_SPREAD = "one seed or curve and no neighbours: nothing says how sure"


@dataclass(frozen=True)
class PhaseMap:
    """The labels of all cells, and the thresholds and numbers behind them.

    `table` has one row per cell: its place, ``phase`` (a label, or ``undetermined``), ``nearest``
    (the label whatever its confidence; null if there is none), ``confidence``, ``reason``,
    ``n_seeds``, ``n_pairs`` of mc, ``mc_spread_known`` (more than one pair; otherwise the spread of
    other cells is used), ``hessian_measured`` (otherwise the training loss alone says what is sharp
    or flat), ``n_diverged`` and ``n_collapsed``. `thresholds` are those in use; the
    tolerance of mode connectivity has the name of its quantity, `Rules.connectivity_quantity`.
    """

    table: pd.DataFrame
    thresholds: tuple[Threshold, ...]
    rules: Rules

    def threshold(self, name: str) -> float:
        """Return the value of a threshold in use; NaN if it could not be found."""
        return next((found.value for found in self.thresholds if found.name == name), np.nan)


def as_table(
    grid: SweepTables, measured: Measured, names: Names, confidence: Floats, rules: Rules
) -> pd.DataFrame:
    """Return the table of a `PhaseMap`: a row for each cell."""
    table = grid.cells[PLACE_COLUMNS].reset_index(drop=True)
    labelled = np.array([name is not None for name in names], dtype=bool)
    nearest = pd.Series(names, dtype=object)
    sure = (confidence >= rules.confidence) & labelled
    pairs = ~np.isnan(measured.mc)
    n_pairs = np.triu(pairs | pairs.transpose(0, 2, 1), 1).sum(axis=(1, 2))
    reasons = [
        "" if sure[i] else _reason(grid, measured, rules, i, bool(labelled[i]), confidence[i])
        for i in range(len(names))
    ]
    return table.assign(
        phase=nearest.where(sure, UNDETERMINED),
        nearest=nearest,
        confidence=confidence,
        reason=reasons,
        n_seeds=(~np.isnan(by_seed(grid.values, "train_loss", grid.cells))).sum(axis=1),
        n_pairs=n_pairs,
        mc_spread_known=n_pairs > 1,
        hessian_measured=np.isfinite(measured.hessian).sum(axis=1) > 0,
        n_diverged=grid.cells["n_diverged"].to_numpy(),
        n_collapsed=measured.n_collapsed,
    )


def shows_something(phases: PhaseMap) -> bool:
    """Say whether a map shows more than untrained cells (which every panel shows) and cells without
    the quantities from which phases follow.
    """
    table = phases.table
    known = table["nearest"].notna() & (table["nearest"] != "not trained")
    unmeasured = table["nearest"].isna() & table["reason"].str.startswith(NOT_MEASURED)
    return bool(known.any() or not unmeasured.any())


def _reason(
    grid: SweepTables, measured: Measured, rules: Rules, i: int, labelled: bool, confidence: float
) -> str:
    """Say why a cell is undetermined."""
    if labelled:
        return NO_SPREAD if np.isnan(confidence) else f"confidence below {rules.confidence:g}"
    if grid.cells["n_done"].iloc[i] == 0:
        return EVERY_DIVERGED if grid.cells["n_diverged"].iloc[i] else "no trial stored"
    if measured.not_in_nats[i]:
        return OTHER_UNIT
    arrays = {
        "loss": measured.loss,
        "hessian": measured.hessian,
        "mc": measured.mc,
        "cka": measured.cka,
    }
    missing = [name for name, array in arrays.items() if bool(np.isnan(array[i]).all())]
    if missing:
        return f"{NOT_MEASURED}: {', '.join(missing)}"
    mean, floor = float(np.nanmean(measured.hessian[i])), measured.vanishing[i]
    if mean <= floor:
        return f"{rules.hessian_quantity} {'negative' if mean < -floor else 'zero'}"
    if grid.loss_unit != NATS and np.isnan(rules.mode_connectivity or 0.0):
        return f"{NO_THRESHOLD}: the default for connectivity of the loss is in nats"
    return NO_THRESHOLD
