"""(mu, beta)-niceness against means by hand, and the table of advice rule by rule."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.phases.advice import CONVERGENCE, DATA, MODEL, NOTHING, TEMPERATURE, limits
from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.niceness import niceness
from phasegrid.analysis.phases.phase_map import PhaseMap
from phasegrid.analysis.phases.rules import Rules, rules_from
from phasegrid.analysis.report.findings import findings
from phasegrid.analysis.tables.grid import SweepTables, by_pair

MakeGrid = Callable[..., SweepTables]
RULES = Rules(hessian=250.0, cka=0.6)


def labelled(grid: SweepTables, rules: Rules = RULES) -> PhaseMap:
    return label_phases(grid, rules)


def advised(row: dict[str, object], load_path: str = "model.width", loss: float = 1.0) -> object:
    """The advice for one made-up cell."""
    cell = {"load": 0.1, "beta": 0.0, "n_seeds": 4, "n_collapsed": 0, **row}
    thresholds = labelled_thresholds()
    return limits(pd.DataFrame([cell]), thresholds, pd.Series([loss]), load_path)[
        "limited_by"
    ].iloc[0]


def labelled_thresholds() -> PhaseMap:
    from phasegrid.analysis.phases.rules import Threshold

    given = (Threshold("train_loss", 0.1, "given"), Threshold("mode_connectivity", 1.0, "given"))
    return PhaseMap(pd.DataFrame(), given, Rules())


def test_mu_and_beta_are_means_over_pairs(make_grid: MakeGrid) -> None:
    grid = make_grid(mc_pairs="all")
    table = niceness(grid, labelled(grid))
    for column, name in (("mu", "cka"), ("beta", "mode_connectivity")):
        pairs = by_pair(grid.values, name, grid.cells)[1:]  # the first cell collapsed: no CKA
        np.testing.assert_allclose(table[column][1:], np.nanmean(pairs, axis=(1, 2)), rtol=1e-12)
        assert (table[f"{column}_stderr"][1:] > 0).all()
    assert len(table) == 16


def test_nice_is_similar_and_connected(make_grid: MakeGrid) -> None:
    grid = make_grid()
    phases = labelled(grid)
    table = niceness(grid, phases)
    nice = phases.table.loc[[flag is True for flag in table["globally_nice"]], "nearest"]
    assert set(nice) == {"IV-B"}
    assert set(table["globally_nice_rule"]) == {"mu > 0.6 and |beta| <= 1 (mode_connectivity)"}


def test_without_cka_nothing_is_claimed(make_grid: MakeGrid) -> None:
    grid = make_grid()
    grid = replace(grid, values=grid.values[grid.values["quantity"] != "cka"])
    table = niceness(grid, labelled(grid, Rules()))
    assert table["globally_nice"].isna().all()
    assert table["mu"].isna().all()
    assert table["beta"].notna().all()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"nearest": "NC"}, CONVERGENCE),
        ({"nearest": "not trained"}, CONVERGENCE),
        ({"nearest": "I"}, MODEL),
        ({"nearest": "III"}, MODEL),
        ({"nearest": "II", "beta": 1.5}, TEMPERATURE),
        ({"nearest": "II"}, TEMPERATURE),
        ({"nearest": "IV-A"}, DATA),
        ({"nearest": "IV-B"}, NOTHING),
        ({"nearest": "IV"}, None),
        ({"nearest": None}, None),
    ],
)
def test_each_rule_of_the_table_fires(row: dict[str, object], expected: str | None) -> None:
    assert advised(row) == expected


def test_a_small_loss_with_a_large_hessian_has_not_reached_the_bottom() -> None:
    assert advised({"nearest": "II"}, loss=0.01) == CONVERGENCE


def test_barriers_on_noisy_labels_are_blamed_on_the_data() -> None:
    assert advised({"nearest": "III"}, "dataset.label_noise") == DATA
    assert advised({"nearest": "III", "load": 0.0}, "dataset.label_noise") == MODEL


def test_findings_carry_niceness_and_advice_with_the_text_of_its_rule(make_grid: MakeGrid) -> None:
    table = findings(make_grid(), RULES).phases.table.set_index("cell")
    assert {"mu", "beta", "globally_nice", "limited_by", "advice_rule"} <= set(table.columns)
    by_phase = table.groupby("nearest")["limited_by"].agg(set)
    assert by_phase["III"] == {MODEL}
    assert by_phase["IV-A"] == {DATA}
    assert table.loc[0, "limited_by"] == CONVERGENCE
    assert table.loc[table["nearest"] == "III", "advice_rule"].str.contains("section").all()


def test_translation_is_assessed_by_the_connectivity_of_the_loss(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values.copy()
    values.loc[values["quantity"] == "mode_connectivity", "value"] *= 0.1
    values["quantity"] = values["quantity"].replace("mode_connectivity", "mode_connectivity_loss")
    grid = replace(grid, values=values, task="translation")
    found = findings(grid, rules_from({}, grid.task, 8000.0)).phases
    assert found.threshold("mode_connectivity_loss") == 0.1
    assert found.table["beta"].notna().all()
