"""Laws of the units of losses, and of the phases of sweeps by other objectives."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import MakeGrid

from phasegrid.analysis.draw.slices import slice_label
from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.phase_map import OTHER_UNIT, UNDETERMINED
from phasegrid.analysis.phases.rules import Rules, rules_from
from phasegrid.analysis.stats.aggregate import collapsed_seeds
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.load import build_grid
from phasegrid.analysis.tables.quantities import BUILT_IN
from phasegrid.declare import UNIT_OF_LOSS
from phasegrid.metrics import METRICS
from phasegrid.tasks.objectives import OBJECTIVES

SQUARED = "squared error"


def grid_of(
    objectives: Sequence[str | None], units: Sequence[str | None] | None = None, unstored: int = 0
) -> SweepTables:
    """Return a grid with a trial a cell, trained by these objectives, and cells without a trial."""
    num = len(objectives)
    cells = range(num + unstored)
    plan = pd.DataFrame(
        {
            "cell": cells,
            "key": [f"k{cell}" for cell in cells],
            "seed": 0,
            "facet": "[]",
            "load": [float(cell) for cell in cells],
            "load_path": "model.width",
            "load_label": [str(cell) for cell in cells],
            "temperature": None,
            "temperature_path": None,
            "temperature_label": None,
        }
    )
    trials = pd.DataFrame(
        {
            "key": [f"k{cell}" for cell in range(num)],
            "seed": 0,
            "outcome": "done",
            "dataset": "digits",
            "dataset_args": json.dumps({}),
            "model": "mlp",
            "train_loss": 0.5,
            "train_accuracy_percent": 90.0,
        }
    )
    if any(objectives):
        trials["objective"] = pd.Series(objectives, dtype=object)
    if units is not None:
        trials["objective_unit"] = pd.Series(units, dtype=object)
    return build_grid("s", plan, trials, {})


@pytest.mark.parametrize(
    ("objectives", "units", "title"),
    [
        ([None, None], None, "training loss (nats)"),
        ([None, "poisoned"], None, "training loss (nats)"),
        (["mse", "mse"], None, "training loss (squared error)"),
        (["mse", None], None, "training loss (units differ)"),
        (["a.py:HINGE", "a.py:HINGE"], None, "training loss"),
        (["a.py:HINGE", "a.py:HINGE"], ["margins", "margins"], "training loss (margins)"),
        (["a.py:HINGE", "mse"], ["", SQUARED], "training loss (units differ)"),
    ],
)
def test_losses_have_the_unit_of_their_objective(
    objectives: list[str | None], units: list[str] | None, title: str
) -> None:
    grid = grid_of(objectives, units)
    assert grid.quantity("train_loss").title() == title
    unit = grid.quantity("train_loss").unit
    assert grid.quantity("mode_connectivity_loss").unit == unit
    assert {c.unit for c in grid.declared["plane"].columns if c.name.endswith("loss")} == {unit}
    assert grid.quantity("test_accuracy").unit == "%"


def test_slices_are_labelled_as_their_metric_declares() -> None:
    declared = grid_of(["mse"]).declared["slice"]
    assert slice_label("test_loss", declared) == f"test loss ({SQUARED})"
    assert slice_label("train_error_percent", declared) == "training error (%)"


def test_a_cell_without_a_trial_has_the_unit_of_the_others() -> None:
    assert grid_of(["mse"], unstored=2).loss_unit == SQUARED


def test_every_loss_of_a_metric_has_the_unit_of_its_objective() -> None:
    losses = [
        column
        for metric in METRICS.values()
        for column in metric.columns
        if "loss" in column.name and "float64" in column.type
        if not column.name.endswith("_dimension")  # that of a space of low loss
    ]
    assert len(losses) > 10
    assert {column.unit for column in losses} == {UNIT_OF_LOSS}
    every = [column for shown in BUILT_IN.values() for column in shown.columns]
    assert {column.name for column in every if column.unit == "nats"} <= {"log_density"}
    assert {name: objective.unit for name, objective in OBJECTIVES.items()} == {
        "cross_entropy": "nats",
        "mse": SQUARED,
        "poisoned": "nats",
        "poisoned_sum": "nats",
    }


def by_mse(grid: SweepTables, cells: Sequence[int] | None = None) -> SweepTables:
    chosen = grid.cells["cell"] if cells is None else cells
    return replace(grid, loss_units={int(cell): SQUARED for cell in chosen})


def scaled(grid: SweepTables, factor: float) -> SweepTables:
    values = grid.values.copy()
    values.loc[values["quantity"] == "train_loss", "value"] *= factor
    return replace(grid, values=values)


@pytest.mark.parametrize("factor", [1e-3, 30.0])
def test_the_scale_of_another_loss_decides_nothing(make_grid: MakeGrid, factor: float) -> None:
    grid = by_mse(make_grid(noise=0.0))
    rules = rules_from({"hessian": 250.0}, loss_unit=grid.loss_unit)
    tables = [label_phases(one, rules).table for one in (grid, scaled(grid, factor))]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["nearest"].notna().sum() > 8
    assert "train_loss" not in {found.name for found in label_phases(grid, rules).thresholds}


def test_a_threshold_that_is_given_judges_another_loss(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.0)
    given = rules_from({"hessian": 250.0, "train_loss": 0.1}, loss_unit=SQUARED)
    assert given == replace(Rules(), hessian=250.0)
    named = label_phases(by_mse(grid), given).table["nearest"]
    usual = label_phases(grid, given).table["nearest"]
    learned = usual != "not trained"
    assert named[learned].tolist() == usual[learned].tolist()


def test_of_several_objectives_only_losses_in_nats_are_judged(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.0)
    others = [5, 6, 7]
    mixed = replace(
        grid, loss_units={int(c): SQUARED if c in others else "nats" for c in grid.cells["cell"]}
    )
    rules = rules_from({"hessian": 250.0}, loss_unit=mixed.loss_unit)
    assert rules == replace(Rules(), hessian=250.0)
    found = label_phases(mixed, rules).table.set_index("cell")
    usual = label_phases(grid, rules).table.set_index("cell")
    assert set(found.loc[others, "phase"]) == {UNDETERMINED}
    assert set(found.loc[others, "reason"]) == {OTHER_UNIT}
    rest = [cell for cell in usual.index if cell not in others]
    assert found.loc[rest, "nearest"].tolist() == usual.loc[rest, "nearest"].tolist()
    assert found["n_seeds"].tolist() == usual["n_seeds"].tolist()


def test_a_net_by_another_objective_has_collapsed_if_it_guesses(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.0)
    collapsed = collapsed_seeds(grid)
    assert collapsed.any()
    np.testing.assert_array_equal(collapsed_seeds(scaled(by_mse(grid), 1e-3)), collapsed)


def test_connectivity_of_another_loss_has_no_default_tolerance() -> None:
    rules = rules_from({}, "translation", 50.0, loss_unit=SQUARED)
    assert math.isnan(rules.mode_connectivity or 0.0)
    assert rules.not_converged == math.inf
    assert rules_from({"mode_connectivity_loss": 0.2}, loss_unit=SQUARED).mode_connectivity == 0.2
