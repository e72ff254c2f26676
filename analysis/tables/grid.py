"""Hold a sweep's results as plain tables, which the rest of the analysis reads.

Letters: C cells, S seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from phasegrid.analysis.tables.quantities import (
    BUILT_IN,
    NATS,
    QUANTITIES,
    Quantity,
    common_unit,
    in_units,
    quantity,
)
from phasegrid.declare import Shown

CELL_COLUMNS = (
    "cell",
    "facet",
    "load",
    "load_label",
    "temperature",
    "temperature_label",
    "num_classes",
    "n_planned",
    "n_done",
    "n_diverged",
)
VALUE_COLUMNS = (
    "quantity",
    "cell",
    "facet",
    "load",
    "temperature",
    "load_label",
    "temperature_label",
    "seed_a",
    "seed_b",
    "value",
    "stderr",
    "outcome",
    "num_trials",
)
FAILURE_COLUMNS = ("quantity", "cell", "n_failed", "n_blocked", "error")
CURVE_COLUMNS = ("cell", "seed_a", "seed_b", "t", "train_error_percent", "train_loss")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SweepTables:
    """Everything that a store holds of one sweep.

    - `cells`: one row per planned cell (`CELL_COLUMNS`), in the order of the plan. `load` and
      `temperature` are NaN if an axis has no numbers. `num_classes` is NaN if it is not known.
      Planned cells without results are included.
    - `values`: one row per number (`VALUE_COLUMNS`). `seed_b` is null for trials, both seeds are
      null for whole cells; `outcome` is ``done``, ``diverged`` or ``not_applicable``, with a null
      `value` unless done. `stderr` is the measurement's own standard error, null if it has none.
      `num_trials` is the number of its trials.
    - `failures`: one row per quantity and cell with failed jobs (`FAILURE_COLUMNS`): how many
      failed, how many were blocked by a failure, and the first line of an error.
    - `curves`: one row per point of a mode-connecting curve (`CURVE_COLUMNS`).
    - `task`: the task of the models; it chooses the quantities of the main figure and of the
      phases.
    - `plain`: for each metric, how the way of measuring with the plain names differs from the
      metric's declared defaults, as text: ``examples=300``, empty if it does not differ.
    - `loss_floor`: by cell, the least training loss (nats) that its recipe allows, if that is not
      0: label smoothing e with C classes aims at the probability 1 - e + e/C, and minus its
      logarithm is the cross-entropy that is then stored.
    - `loss_units`: by cell, the unit of its objective's loss; nats if it does not say.
    - `axis_names`: the sweep's names for its axes, by path; other axes have their usual names.
    - `declared`: the declarations of the store's metrics, by name; an old store may lack them.
      `quantities`: those that trials and the metrics of the store declare, by name.
    - `stages`: the stage of each trial that is not of the last stage, by the trial's key.
      `last_stage`: the name of the last; empty where the sweep has no stages.
    - `subject`: the networks and the data of the stored trials, in a few words.
    - `precisions`: by cell, the precision of its trials (`phasegrid.analysis.tables.precision`).
    """

    sweep: str
    load_path: str | None
    temperature_path: str | None
    cells: pd.DataFrame
    values: pd.DataFrame
    curves: pd.DataFrame
    task: str = "classification"
    plain: Mapping[str, str] = field(default_factory=dict)
    axis_names: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""
    loss_floor: Mapping[int, float] = field(default_factory=dict)
    loss_units: Mapping[int, str] = field(default_factory=dict)
    declared: Mapping[str, Shown] = field(default_factory=lambda: in_units(BUILT_IN, NATS))
    failures: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(FAILURE_COLUMNS))
    )
    quantities: Mapping[str, Quantity] = field(default_factory=lambda: QUANTITIES)
    stages: Mapping[str, str] = field(default_factory=dict)
    last_stage: str = ""
    precisions: Mapping[int, str] = field(default_factory=dict)

    def facets(self) -> list[str]:
        """Return the facets in the order of the plan; the text ``[]`` if the sweep has none."""
        return [str(facet) for facet in self.cells["facet"].unique()]

    def quantity(self, name: str) -> Quantity:
        """Return a quantity, or a variant of one, by name.

        Raises:
            SweepError: for a name that is not declared.
        """
        return quantity(name, self.quantities)

    @property
    def loss_unit(self) -> str:
        """The unit of every loss of the grid, or that units differ."""
        return common_unit(self.loss_units.values())

    def shown(self, metric: str) -> Shown | None:
        """Return what a metric declares, with the last stage as the usual one if there are stages:
        ``[stage=LAST]`` may be written, although names leave it out.
        """
        declared = self.declared.get(metric)
        if declared is None or not self.last_stage:
            return declared
        return replace(declared, defaults={**declared.defaults, "stage": self.last_stage})

    def with_stage(self, name: str) -> str:
        """Return a name of the sweep with its last stage, which its numbers are of, if it has
        stages.
        """
        return f"{name}, stage={self.last_stage}" if self.last_stage else name


def by_seed(values: pd.DataFrame, quantity: str, cells: pd.DataFrame) -> Floats:
    """Return one quantity of trials as an array (C, S), with NaN for missing numbers.

    S counts every seed of `values` in ascending order, the same for every quantity.
    """
    rows = _numbers(values, quantity, cells)
    seeds = _seed_index(values)
    array = np.full((len(cells), len(seeds)), np.nan)
    array[_positions(rows["cell"], cells["cell"]), seeds.get_indexer(pd.Index(rows["seed_a"]))] = (
        rows["value"]
    )
    return array


def by_pair(values: pd.DataFrame, quantity: str, cells: pd.DataFrame) -> Floats:
    """Return one quantity of pairs as an array (C, S, S), with NaN for missing numbers.

    Pairs measured in both orders keep both; the diagonal (a model with itself) is left out.
    """
    rows = _numbers(values, quantity, cells)
    rows = rows[rows["seed_a"] != rows["seed_b"]]
    seeds = _seed_index(values)
    array = np.full((len(cells), len(seeds), len(seeds)), np.nan)
    where = (
        _positions(rows["cell"], cells["cell"]),
        seeds.get_indexer(pd.Index(rows["seed_a"])),
        seeds.get_indexer(pd.Index(rows["seed_b"])),
    )
    array[where] = rows["value"]
    return array


def loss_floors(grid: SweepTables) -> Floats:
    """Return the least training loss (C,) that the recipe of each cell allows."""
    return np.array(
        [grid.loss_floor.get(int(cell), 0.0) for cell in grid.cells["cell"]], dtype=float
    )


def in_nats(grid: SweepTables) -> npt.NDArray[np.bool_]:
    """Say which cells (C,) have a loss in nats."""
    units = [grid.loss_units.get(int(cell), NATS) for cell in grid.cells["cell"]]
    return np.array([unit == NATS for unit in units], dtype=bool)


def places(grid: SweepTables) -> npt.NDArray[np.int_]:
    """Return the indices of facet, load and temperature of every cell (C, 3), from 0: numbers by
    size, other labels in the order of the plan.
    """
    facets = pd.factorize(grid.cells["facet"])[0]
    axes = [
        grid.cells[axis].rank(method="dense").to_numpy() - 1
        if grid.cells[axis].notna().all()
        else pd.factorize(grid.cells[f"{axis}_label"])[0]
        for axis in ("load", "temperature")
    ]
    return np.stack([facets, *axes], axis=1).astype(int)


def seeds_of(values: pd.DataFrame) -> Floats:
    """Return the seeds of the arrays of `by_seed` and `by_pair`, ascending: (S,)."""
    return _seed_index(values).to_numpy()


def _numbers(values: pd.DataFrame, quantity: str, cells: pd.DataFrame) -> pd.DataFrame:
    wanted = (
        (values["quantity"] == quantity)
        & values["value"].notna()
        & values["cell"].isin(cells["cell"])
    )
    return values[wanted]


def _seed_index(values: pd.DataFrame) -> "pd.Index[float]":
    seeds = pd.concat([values["seed_a"], values["seed_b"]]).dropna()
    found: pd.Index[float] = pd.Index(np.unique(seeds.to_numpy(dtype=float)), dtype="float64")
    return found


def _positions(wanted: "pd.Series[int]", cells: "pd.Series[int]") -> npt.NDArray[np.intp]:
    return np.asarray(pd.Index(cells).get_indexer(pd.Index(wanted)), dtype=np.intp)
