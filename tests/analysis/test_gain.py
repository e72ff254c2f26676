"""The best of every load and the gain between two sweeps."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from scipy import stats

from phasegrid.analysis.draw.gain import gain_figure
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.stats.compare import compare_grids
from phasegrid.analysis.stats.gain import Best, best_per_load, gain_table
from phasegrid.analysis.tables.grid import SweepTables, by_seed
from phasegrid.analysis.tables.quantities import QUANTITIES
from phasegrid.errors import SweepError

MakeGrid = Callable[..., SweepTables]


def best(grid: SweepTables, name: str = "test_accuracy") -> Best:
    return best_per_load(grid, name)


def raised(grid: SweepTables, points: float) -> SweepTables:
    """The same grid with every test accuracy so many points higher."""
    values = grid.values.copy()
    values.loc[values["quantity"] == "test_accuracy", "value"] += points
    return replace(grid, values=values, sweep="raised")


def test_the_best_is_the_largest_mean_and_says_at_which_temperature(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = best(grid).table.set_index("load_label")
    means = aggregate(grid, ["test_accuracy"])
    for load, cells in means.groupby("load_label"):
        top = cells.loc[cells["value"].idxmax()]
        assert table.loc[load, "best"] == top["value"]
        assert table.loc[load, "temperature_label"] == top["temperature_label"]


def test_the_best_loss_is_the_smallest(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = best(grid, "train_loss").table.set_index("load_label")
    means = aggregate(grid, ["train_loss"]).groupby("load_label")["value"].min()
    assert table["best"].to_dict() == means.to_dict()


def test_one_temperature_has_the_interval_of_a_mean(make_grid: MakeGrid) -> None:
    grid = make_grid([["II"] * 4], temperatures=[16], seeds=3)
    table = best(grid).table
    error = aggregate(grid, ["test_accuracy"])["stderr"].to_numpy()
    half = (table["high"] - table["low"]).to_numpy() / 2
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 2) * error)
    np.testing.assert_allclose((table["high"] + table["low"]) / 2, table["best"])


def test_the_seeds_that_choose_the_temperature_do_not_measure_it(make_grid: MakeGrid) -> None:
    grid = make_grid(seeds=5, noise=0.3)
    table = best(grid).table
    trials = by_seed(grid.values, "test_accuracy", grid.cells)
    for load, row in zip(("4", "16", "64", "256"), table.to_dict("records"), strict=True):
        here = trials[(grid.cells["load_label"] == load).to_numpy()]
        kept = here[here[:, :2].mean(axis=1).argmax(), 2:]
        assert (row["low"] + row["high"]) / 2 == pytest.approx(kept.mean())


@pytest.mark.parametrize(("seeds", "known"), [(1, False), (2, False), (3, True)])
def test_choosing_and_measuring_takes_three_seeds(
    make_grid: MakeGrid, seeds: int, known: bool
) -> None:
    grid = make_grid(seeds=seeds)
    assert set(best(grid).table["low"].notna()) == {known}
    assert set(gain_table(best(grid), best(grid))["gain_low"].notna()) == {known}


def test_a_gain_at_a_single_temperature_is_the_difference_that_compare_gives(
    make_grid: MakeGrid,
) -> None:
    a, b = (make_grid([["II"] * 4], temperatures=[16], seeds=n, noise=0.1) for n in (2, 3))
    gains = gain_table(best(b), best(a))
    compared = compare_grids(a, b)
    compared = compared[compared["quantity"] == "test_accuracy"]
    for ours, theirs in (("gain", "difference"), ("gain_low", "low"), ("gain_high", "high")):
        np.testing.assert_allclose(gains[ours], compared[theirs])


def test_pairs_and_whole_cells_have_bests_too(make_grid: MakeGrid) -> None:
    grid = make_grid()
    numbers = QUANTITIES["cka"]
    assert numbers.better is None
    rows = grid.values[grid.values["quantity"] == "cka"].assign(quantity="bleu")
    whole = grid.cells[["cell"]].assign(
        quantity="test_ece",
        seed_a=np.nan,
        seed_b=np.nan,
        value=0.5,
        stderr=0.1,
        outcome="done",
        num_trials=4,
    )
    grid = replace(grid, values=pd.concat([rows, whole], ignore_index=True))
    assert best(grid, "bleu").table["low"].isna().all()
    cells = best(grid, "test_ece").table
    assert set(cells["best"]) == {0.5}
    assert cells["low"].isna().all()


def test_a_cell_without_better_is_refused(make_grid: MakeGrid) -> None:
    with pytest.raises(SweepError, match="the best trace: neither more nor less"):
        best(make_grid(), "trace")


def test_the_gain_is_the_difference_with_its_interval(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = gain_table(best(raised(grid, 3.0)), best(make_grid(seeds=5)))
    np.testing.assert_allclose(table["gain"], table["best_this"] - table["best_other"])
    assert (table["gain_low"] < 3.0).all()
    assert (table["gain_high"] > 3.0).all()


def test_a_lower_loss_is_a_positive_gain(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values.copy()
    values.loc[values["quantity"] == "train_loss", "value"] /= 2
    better = best(replace(grid, values=values), "train_loss")
    table = gain_table(better, best(grid, "train_loss"), lower_is_better=True)
    assert (table["gain"] > 0).all()


def test_loads_of_one_sweep_alone_keep_a_row_without_a_gain(make_grid: MakeGrid) -> None:
    grid = make_grid()
    cells = grid.cells[grid.cells["load"] < 256].reset_index(drop=True)
    fewer = replace(grid, cells=cells, values=grid.values[grid.values["load"] < 256])
    table = gain_table(best(grid), best(fewer))
    assert list(table["load_label"]) == ["4", "16", "64", "256"]
    assert table["gain"].isna().tolist() == [False, False, False, True]
    assert table["best_other"].isna().tolist() == [False, False, False, True]


def drawn(table: pd.DataFrame) -> tuple[Axes, Axes]:
    figure = gain_figure(
        table, QUANTITIES["test_accuracy"], ("decay", "constant"), "model.width", "batch size"
    )
    left, right = figure.axes
    return left, right


def test_both_sweeps_are_on_the_left_and_shared_loads_on_the_right(make_grid: MakeGrid) -> None:
    grid = make_grid()
    cells = grid.cells[grid.cells["load"] < 256].reset_index(drop=True)
    fewer = replace(grid, cells=cells, values=grid.values[grid.values["load"] < 256])
    left, right = drawn(gain_table(best(grid), best(fewer)))
    lines = {line.get_label(): len(line.get_xdata()) for line in left.lines}
    assert (lines["decay"], lines["constant"]) == (4, 3)
    assert max(len(line.get_xdata()) for line in right.lines) == 3
    marked = [text for text in left.texts if text.get_gid() == "temperature"]
    assert len(marked) == 7
    said = " ".join(text.get_text() for text in right.texts)
    assert "1 load in one sweep only" in said


def test_everything_drawn_lies_within_the_axes(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = gain_table(best(raised(grid, 3.0)), best(grid))
    left, right = drawn(table)
    low, high = left.get_ylim()
    assert low < table["low_other"].min()
    assert high > table["high_this"].max()
    assert right.get_ylim()[1] > table["gain_high"].max()
