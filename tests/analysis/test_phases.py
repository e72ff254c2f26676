"""The rules of the phases, cell by cell and on whole diagrams."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.phases.label import PHASES, label_phases
from phasegrid.analysis.phases.phase_map import EVERY_DIVERGED, NO_SPREAD, UNDETERMINED, PhaseMap
from phasegrid.analysis.phases.regions import borders, centres, label_array
from phasegrid.analysis.phases.rules import Rules, otsu, rules_from
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.errors import SweepError

MakeGrid = Callable[..., SweepTables]

EXPECTED = [
    ["not trained", "II", "II", "II"],
    ["I", "II", "IV-B", "IV-B"],
    ["I", "III", "IV-B", "IV-B"],
    ["I", "III", "IV-A", "IV-A"],
]


def label(grid: SweepTables, rules: Rules | None = None) -> PhaseMap:
    return label_phases(grid, rules or Rules())


def one(make_grid: MakeGrid, kind: str, **changes: float) -> str | None:
    """Label one cell of a kind, with some numbers replaced, beside cells that anchor the
    thresholds.
    """
    grid = make_grid(noise=0.0)
    values = grid.values.copy()
    cell = _cell_of(kind)
    for name, value in changes.items():
        values.loc[(values["quantity"] == name) & (values["cell"] == cell), "value"] = value
    rules = Rules(train_loss=0.1, hessian=250.0, cka=0.6)
    found = label(SweepTables("g", None, None, grid.cells, values, grid.curves), rules).table
    nearest = found["nearest"].iloc[cell]
    return str(nearest) if nearest is not None else None


def _cell_of(kind: str) -> int:
    layout = [["collapsed", "II", "II", "II"], *EXPECTED[1:]]
    return next(4 * i + j for i in range(4) for j in range(4) if layout[j][i] == kind)


def test_made_up_phases_are_found_again(make_grid: MakeGrid) -> None:
    grid = make_grid()
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    found = label(grid)
    np.testing.assert_array_equal(label_array(found.table, frame.load, frame.temperature), EXPECTED)
    assert (found.table["confidence"] > 0.8).all()  # one curve a cell, beside very different cells
    found = label(make_grid(mc_pairs="all"))
    assert (found.table["confidence"] > 0.99).all()
    assert (found.table["phase"] == found.table["nearest"]).all()


def test_each_kind_of_cell_gets_its_phase(make_grid: MakeGrid) -> None:
    for kind in ("I", "II", "III", "IV-A", "IV-B"):
        assert one(make_grid, kind) == kind


def test_collapsed_nets_are_not_trained_however_flat_their_curve_and_hessian(
    make_grid: MakeGrid,
) -> None:
    assert one(make_grid, "collapsed") == "not trained"
    assert one(make_grid, "collapsed", mode_connectivity=0.0) == "not trained"
    assert one(make_grid, "collapsed", mode_connectivity=-91.0) == "not trained"


@pytest.mark.parametrize(
    ("collapsed", "expected"), [(0, "IV-B"), (1, "IV-B"), (2, "not trained"), (3, "not trained")]
)
def test_half_of_the_seeds_or_more_collapsed_is_not_trained(
    make_grid: MakeGrid, collapsed: int, expected: str
) -> None:
    grid = make_grid(noise=0.0)
    cell = _cell_of("IV-B")
    values = grid.values.copy()
    stuck = (values["cell"] == cell) & (values["seed_a"] < collapsed)
    values.loc[stuck & (values["quantity"] == "train_accuracy"), "value"] = 10.0
    assert grid.cells["n_done"].iloc[cell] == 4
    losses = stuck & (values["quantity"] == "train_loss")
    values.loc[losses, "value"] = np.log(10)
    rules = Rules(
        train_loss=1.0, hessian=250.0
    )  # one collapsed seed of four raises the mean to 0.58
    row = label(replace(grid, values=values), rules).table.iloc[cell]
    assert (row["nearest"], row["n_collapsed"]) == (expected, collapsed)
    if expected == "not trained":
        assert (row["phase"], row["confidence"]) == ("not trained", 1.0)


def test_loss_and_hessian_decide_together(make_grid: MakeGrid) -> None:
    # A small loss does not outweigh an enormous trace (width 4 at large batches in the published
    # data) ...
    assert one(make_grid, "III", train_loss=0.05, trace=5000.0) == "I"
    # ... nor does a trace just above its threshold outweigh a tiny loss.
    assert one(make_grid, "III", train_loss=0.001, trace=270.0) == "III"


def test_ends_worse_than_their_curve_have_not_converged(make_grid: MakeGrid) -> None:
    assert one(make_grid, "IV-B", mode_connectivity=1.5) == "II"


def test_within_the_tolerance_is_connected(make_grid: MakeGrid) -> None:
    assert one(make_grid, "IV-B", mode_connectivity=-0.9) == "IV-B"
    assert one(make_grid, "IV-B", mode_connectivity=-1.1) == "III"


def test_no_mode_connectivity_no_phase(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values[
        (grid.values["quantity"] != "mode_connectivity") | (grid.values["cell"] != 5)
    ]
    row = label(SweepTables("g", None, None, grid.cells, values, grid.curves)).table.iloc[5]
    assert row["nearest"] is None
    assert row["phase"] == UNDETERMINED
    assert row["reason"] == "not measured: mc"
    assert np.isnan(row["confidence"])


def test_without_the_hessian_the_loss_decides(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values[grid.values["quantity"] != "trace"]
    found = label(SweepTables("g", None, None, grid.cells, values, grid.curves))
    assert list(found.table["nearest"]) == list(label(grid).table["nearest"])
    assert "hessian" not in {threshold.name for threshold in found.thresholds}


@pytest.mark.parametrize(
    ("trace", "reason"), [(-30.0, "trace negative"), (0.0, "trace zero"), (1e-20, "trace zero")]
)
def test_a_trace_without_a_logarithm_is_not_replaced_by_another(
    make_grid: MakeGrid, trace: float, reason: str
) -> None:
    grid = make_grid(noise=0.0)
    cell = _cell_of("IV-B")
    values = grid.values.copy()
    here = values["cell"] == cell
    values.loc[here & (values["quantity"] == "trace"), "value"] = trace
    values.loc[here & (values["quantity"] == "train_loss"), "value"] = 0.5
    changed = SweepTables("g", None, None, grid.cells, values, grid.curves)
    for rules in (Rules(), Rules(hessian=250.0)):
        row = label(changed, rules).table.iloc[cell]
        assert row["nearest"] is None
        assert (row["phase"], row["reason"]) == (UNDETERMINED, reason)
    assert label(changed, Rules(hessian_quantity="lambda_max")).table["nearest"].iloc[cell]


def test_a_trace_below_zero_matters_only_where_the_trace_decides(make_grid: MakeGrid) -> None:
    assert one(make_grid, "II", trace=-5.0) == "II"  # mc says so
    assert one(make_grid, "collapsed", trace=-5.0) == "not trained"
    for kind in ("I", "III", "IV-A", "IV-B"):
        assert one(make_grid, kind, trace=-5.0) is None


def test_seeds_of_both_signs_make_a_cell_unsure(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.0)
    cell = _cell_of("IV-B")
    values = grid.values.copy()
    here = (values["cell"] == cell) & (values["quantity"] == "trace")
    values.loc[here, "value"] = [-80.0, 30.0, 50.0, 20.0]
    row = label(SweepTables("g", None, None, grid.cells, values, grid.curves)).table.iloc[cell]
    assert (row["nearest"], row["phase"]) == ("IV-B", UNDETERMINED)
    assert 0.4 < row["confidence"] < 0.75  # 5 with a standard error of 29 is above 0 in 56%


def test_a_sweep_without_cka_does_not_divide_phase_four(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values[grid.values["quantity"] != "cka"]
    found = set(
        label(SweepTables("g", None, None, grid.cells, values, grid.curves)).table["nearest"]
    )
    assert found == {"I", "II", "III", "IV", "not trained"}


def test_a_flat_connected_cell_whose_cka_alone_is_missing_is_undetermined(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid()
    cell = _cell_of("IV-B")
    values = grid.values[(grid.values["quantity"] != "cka") | (grid.values["cell"] != cell)]
    row = label(SweepTables("g", None, None, grid.cells, values, grid.curves)).table.iloc[cell]
    assert row["nearest"] is None
    assert row["reason"] == "not measured: cka"


def test_missing_and_diverged_cells_say_why_they_have_no_phase(make_grid: MakeGrid) -> None:
    layout = [["diverged", *["II"] * 3], *EXPECTED[1:3], [None, *EXPECTED[3][1:]]]
    table = label(make_grid(layout)).table
    assert table["reason"].iloc[0] == EVERY_DIVERGED
    assert table["reason"].iloc[3] == "no trial stored"
    assert set(table["phase"].iloc[[0, 3]]) == {UNDETERMINED}


def test_a_cell_on_the_line_is_undetermined_but_has_a_nearest_phase(make_grid: MakeGrid) -> None:
    grid = make_grid()
    cell = _cell_of("IV-B")
    values = grid.values.copy()
    where = (values["quantity"] == "cka") & (values["cell"] == cell)
    values.loc[where, "value"] = [0.5, 0.7, 0.62, 0.55, 0.66, 0.58]
    row = label(
        SweepTables("g", None, None, grid.cells, values, grid.curves), Rules(cka=0.6)
    ).table.iloc[cell]
    assert row["phase"] == UNDETERMINED
    assert row["nearest"] in {"IV-A", "IV-B"}
    assert row["confidence"] < 0.8


def test_labels_are_the_same_each_time(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.3)
    pd.testing.assert_frame_equal(label(grid).table, label(grid).table)


def test_one_pair_of_curves_has_no_spread_of_its_own(make_grid: MakeGrid) -> None:
    assert not label(make_grid()).table["mc_spread_known"].any()
    assert label(make_grid(mc_pairs="all")).table["mc_spread_known"].all()


def test_otsu_is_the_exhaustive_best_split() -> None:
    values = np.random.default_rng(3).normal(size=40)
    ordered = np.sort(values)

    def between(k: int) -> float:
        low, high = ordered[:k], ordered[k:]
        return k * (40 - k) * float(low.mean() - high.mean()) ** 2

    k = max(range(1, 40), key=between)
    assert otsu(values) == pytest.approx((ordered[k - 1] + ordered[k]) / 2, rel=1e-12)


def test_otsu_moves_with_the_values_and_needs_four_of_them() -> None:
    values = np.array([0.0, 0.2, 5.0, 5.3, np.nan])
    found = otsu(values)
    assert found == pytest.approx(2.6)
    assert otsu(3 * values + 1) == pytest.approx(3 * 2.6 + 1)
    assert otsu(np.array([1.0, 2.0, 3.0, 3.0])) is None


def test_thresholds_say_whether_they_were_given_or_found(make_grid: MakeGrid) -> None:
    found = {t.name: t for t in label(make_grid(), Rules(cka=0.6)).thresholds}
    assert {name: t.origin for name, t in found.items()} == {
        "train_loss": "given",
        "hessian": "otsu",
        "mode_connectivity": "given",
        "cka": "given",
    }
    assert 60 < found["hessian"].value < 900


def test_every_threshold_can_be_found(make_grid: MakeGrid) -> None:
    rules = Rules(train_loss=None, hessian=None, mode_connectivity=None, cka=None)
    found = {t.name: t.value for t in label(make_grid(), rules).thresholds}
    assert 0.004 < found["train_loss"] < 0.5
    assert 0.2 < found["mode_connectivity"] < 4
    assert 0.52 < found["cka"] < 0.8


def test_no_threshold_no_phase(make_grid: MakeGrid) -> None:
    grid = make_grid([["I"]], loads=[4], temperatures=[16])
    row = label(grid, Rules(mode_connectivity=None)).table.iloc[0]
    assert row["nearest"] is None
    assert row["reason"] == "no threshold could be found"


def test_named_thresholds_replace_the_defaults() -> None:
    rules = rules_from({"cka": 0.6, "hessian": 200.0})
    assert (rules.cka, rules.hessian, rules.train_loss) == (0.6, 200.0, 0.1)


def test_an_unknown_threshold_is_refused() -> None:
    with pytest.raises(SweepError, match="no threshold is called 'loss'; there are: train_loss"):
        rules_from({"loss": 1.0})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_must_be_a_positive_number(value: float) -> None:
    with pytest.raises(SweepError, match="must be a positive number"):
        rules_from({"cka": value})


def test_borders_lie_on_edges_between_different_phases(make_grid: MakeGrid) -> None:
    layout = [["II", "IV-A"], ["II", "IV-B"]]
    grid = make_grid(layout, loads=[4, 16], temperatures=[16, 64])
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    lines = borders(label(grid, Rules(hessian=250.0, cka=0.6)).table, frame.load, frame.temperature)
    hard, soft = lines[~lines["within_iv"]], lines[lines["within_iv"]]
    assert len(hard) == 2
    assert hard["x0"].tolist() == pytest.approx([8.0, 8.0])  # sqrt(4 * 16)
    assert sorted([*hard["y0"], *hard["y1"]]) == pytest.approx([8.0, 32.0, 32.0, 128.0])
    assert soft[["x0", "y0", "x1", "y1"]].to_numpy()[0] == pytest.approx([8.0, 32.0, 32.0, 32.0])


def test_a_cell_without_a_phase_has_no_border(make_grid: MakeGrid) -> None:
    grid = make_grid([["II", None]], loads=[4, 16], temperatures=[16])
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    assert borders(label(grid).table, frame.load, frame.temperature).empty


def test_a_name_is_written_inside_the_largest_region() -> None:
    names = ["IV-B"] * 16
    names[0] = "I"  # a stray cell of I in one corner, its main region in the other
    for cell in (10, 11, 14, 15):
        names[cell] = "I"
    labels = [str(v) for v in (1, 2, 3, 4)]
    table = pd.DataFrame(
        {
            "nearest": names,
            "load": [float(i) for i in range(1, 5) for _ in range(4)],
            "load_label": [x for x in labels for _ in range(4)],
            "temperature": [float(j) for _ in range(4) for j in range(1, 5)],
            "temperature_label": labels * 4,
        }
    )
    frame = make_frame(table, "load", "heat")
    spots = centres(table, frame.load, frame.temperature).set_index("phase")
    assert (spots.loc["I", "x"], spots.loc["I", "y"], spots.loc["I", "cells"]) == (3.5, 3.5, 4)
    x, y = round(float(spots.loc["IV-B", "x"])), round(float(spots.loc["IV-B", "y"]))
    assert names[4 * (x - 1) + (y - 1)] == "IV-B"


def test_the_name_of_a_ring_is_not_in_its_hole() -> None:
    labels = [str(v) for v in (1, 2, 3)]
    table = pd.DataFrame(
        {
            "nearest": ["III"] * 4 + ["I"] + ["III"] * 4,
            "load": [1.0, 1, 1, 2, 2, 2, 3, 3, 3],
            "load_label": [x for x in labels for _ in range(3)],
            "temperature": [1.0, 2, 3] * 3,
            "temperature_label": labels * 3,
        }
    )
    frame = make_frame(table, "load", "heat")
    spot = centres(table, frame.load, frame.temperature).set_index("phase").loc["III"]
    assert (spot["x"], spot["y"]) != (2.0, 2.0)


def test_all_phases_have_names() -> None:
    assert PHASES == ("I", "II", "III", "IV-A", "IV-B", "IV", "NC", "not trained")


def translated(grid: SweepTables, **changes: float) -> SweepTables:
    """The grid as one of translation into 8000 words: connectivity in nats; `changes` of cell 5."""
    values = grid.values.copy()
    values.loc[values["quantity"] == "mode_connectivity", "value"] *= 0.1
    values["quantity"] = values["quantity"].replace("mode_connectivity", "mode_connectivity_loss")
    for name, value in changes.items():
        values.loc[(values["quantity"] == name) & (values["cell"] == 5), "value"] = value
    cells = grid.cells.assign(num_classes=8000.0)
    return SweepTables(
        "t", grid.load_path, grid.temperature_path, cells, values, grid.curves, "translation"
    )


def test_a_loss_above_half_a_guess_has_not_converged(make_grid: MakeGrid) -> None:
    rules = rules_from({}, "translation", 8000.0)  # half of ln 8000: 4.49
    for loss, expected in ((4.3, "II"), (4.7, "NC")):
        row = label(translated(make_grid(), train_loss=loss), rules).table.iloc[5]
        assert row["nearest"] == expected
    assert row["phase"] == "NC"


def test_half_of_the_seeds_diverged_has_not_converged(make_grid: MakeGrid) -> None:
    grid = translated(make_grid())
    rules = rules_from({}, "translation", 8000.0)
    for diverged, expected in ((1, "II"), (2, "NC"), (4, "NC")):
        cells = grid.cells.copy()
        cells.loc[5, ["n_diverged", "n_done"]] = [diverged, 4 - diverged]
        changed = SweepTables("t", grid.load_path, None, cells, grid.values, grid.curves)
        assert label(changed, rules).table["nearest"].iloc[5] == expected


def test_every_trial_diverged_is_nc_only_where_there_is_that_label(make_grid: MakeGrid) -> None:
    grid = make_grid([["diverged", "II"], ["I", "IV-B"]], loads=[4, 16], temperatures=[16, 64])
    assert label(grid).table["nearest"].iloc[0] is None
    row = label(grid, rules_from({"not_converged": 2.0})).table.iloc[0]
    assert (row["phase"], row["n_diverged"]) == ("NC", 4)


def test_cells_that_did_not_converge_leave_the_other_thresholds_alone(make_grid: MakeGrid) -> None:
    rules = rules_from({}, "translation", 8000.0)
    usual = label(translated(make_grid()), rules)
    stuck = label(translated(make_grid(), train_loss=7.0, trace=1e9, cka=0.0), rules)
    assert stuck.threshold("hessian") < 10 * usual.threshold("hessian")
    assert stuck.threshold("not_converged") == pytest.approx(np.log(8000) / 2)


def test_translation_is_connected_within_a_tenth_of_a_nat(make_grid: MakeGrid) -> None:
    rules = rules_from({"cka": 0.6, "hessian": 250.0}, "translation", 8000.0)
    cell = _cell_of("IV-B")
    for loss, expected in ((-0.09, "IV-B"), (-0.11, "III")):
        grid = translated(make_grid(noise=0.0))
        values = grid.values.copy()
        where = (values["quantity"] == "mode_connectivity_loss") & (values["cell"] == cell)
        values.loc[where, "value"] = loss
        changed = SweepTables("t", grid.load_path, None, grid.cells, values, grid.curves)
        assert label(changed, rules).table["nearest"].iloc[cell] == expected


def test_labels_do_not_depend_on_which_other_cells_there_are(make_grid: MakeGrid) -> None:
    whole = make_grid(mc_pairs="all")
    rules = Rules(hessian=250.0)
    everywhere = label(whole, rules).table.set_index("cell")["nearest"]
    for keep in (whole.cells["load"] >= 16, whole.cells["load"] <= 16, whole.cells["cell"] == 7):
        part = replace(whole, cells=whole.cells[keep].reset_index(drop=True))
        found = label(part, rules).table.set_index("cell")["nearest"]
        assert found.to_dict() == everywhere.loc[found.index].to_dict()


def test_only_the_threshold_of_the_hessian_is_found_by_default(make_grid: MakeGrid) -> None:
    origins = {t.name: t.origin for t in label(make_grid()).thresholds}
    assert {name for name, origin in origins.items() if origin == "otsu"} == {"hessian"}


def test_a_found_cka_threshold_divides_the_flat_and_connected_cells(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values.copy()
    elsewhere = values["cell"].isin([i for i in range(16) if i not in (7, 9, 10, 11, 13, 14, 15)])
    values.loc[elsewhere & (values["quantity"] == "cka"), "value"] = 0.05
    found = label(replace(grid, values=values), Rules(cka=None))
    assert 0.52 < found.threshold("cka") < 0.8


def test_a_loss_counts_from_what_label_smoothing_leaves(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.0)
    floor = -np.log(1 - 0.2 + 0.2 / 10)  # smoothing 0.2 among ten classes: 0.198 nats
    grid = replace(grid, values=grid.values[grid.values["quantity"] != "trace"])
    values = grid.values.copy()
    losses = values["quantity"] == "train_loss"
    values.loc[losses & (values["cell"] > 0), "value"] += floor
    raised = replace(grid, values=values)
    floors = dict.fromkeys(range(16), floor)
    rules = Rules()
    assert list(label(raised, rules).table["nearest"]) != list(label(grid, rules).table["nearest"])
    lowered = label(replace(raised, loss_floor=floors), rules).table["nearest"]
    assert list(lowered) == list(label(grid, rules).table["nearest"])


def test_a_loss_below_its_floor_is_small_and_not_undefined(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.0)
    below = replace(grid, loss_floor=dict.fromkeys(range(16), 0.5))
    cell = _cell_of("IV-B")
    assert label(below, Rules(hessian=250.0)).table["nearest"].iloc[cell] == "IV-B"


def test_nothing_says_how_sure_a_single_cell_with_one_curve_is(make_grid: MakeGrid) -> None:
    grid = make_grid([["IV-B"]], loads=[4], temperatures=[16])
    row = label(grid, Rules(hessian=250.0)).table.iloc[0]
    assert (row["nearest"], row["phase"], row["reason"]) == ("IV-B", UNDETERMINED, NO_SPREAD)
    assert np.isnan(row["confidence"])


def test_half_a_guess_is_half_way_from_the_floor() -> None:
    floor = -np.log(0.9 + 0.1 / 8000)
    rules = rules_from({}, "translation", 8000.0, floor)
    assert rules.not_converged == pytest.approx((np.log(8000) - floor) / 2)
