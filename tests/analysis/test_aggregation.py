"""Cells from seeds, against numpy written out by hand."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.stats.aggregate import (
    aggregate,
    collapsed_seeds,
    counts_in_words,
    jackknife,
    measured,
)
from phasegrid.analysis.tables.grid import SweepTables, by_pair, by_seed

MakeGrid = Callable[..., SweepTables]


def test_standard_error_of_trials_is_s_over_root_n() -> None:
    array = np.random.default_rng(1).normal(size=(6, 5))
    mean, stderr = jackknife(array)
    np.testing.assert_allclose(mean, array.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(stderr, array.std(axis=1, ddof=1) / np.sqrt(5), rtol=1e-12)


def test_standard_error_of_pairs_is_the_spread_of_leave_one_seed_out_means() -> None:
    array = np.full((1, 4, 4), np.nan)
    for a, b in permutations(range(4), 2):
        array[0, a, b] = np.random.default_rng([a, b]).normal()
    without = []
    for left_out in range(4):
        keep = [i for i in range(4) if i != left_out]
        without.append(np.nanmean(array[0][np.ix_(keep, keep)]))
    expected = np.sqrt(3 / 4 * np.sum((np.array(without) - np.mean(without)) ** 2))
    mean, stderr = jackknife(array)
    np.testing.assert_allclose(mean, np.nanmean(array), rtol=1e-12)
    np.testing.assert_allclose(stderr, expected, rtol=1e-12)


def test_pairs_that_share_seeds_are_less_certain_than_independent_numbers() -> None:
    # s_ab = u_a + u_b: all the spread is between seeds, so s/sqrt(pairs) is far too small.
    u = np.random.default_rng(2).normal(size=(400, 6))
    array = u[:, :, None] + u[:, None, :]
    array[:, np.arange(6), np.arange(6)] = np.nan
    mean, stderr = jackknife(array)
    naive = np.nanstd(array.reshape(400, -1), axis=1, ddof=1) / np.sqrt(30)
    true = mean.std()
    assert stderr.mean() == pytest.approx(true, rel=0.1)  # 400 cells: 5% from chance
    assert naive.mean() < 0.7 * true


def test_one_seed_or_one_pair_has_no_standard_error() -> None:
    one = np.array([[3.0, np.nan]])
    pair = np.full((1, 3, 3), np.nan)
    pair[0, 0, 1] = 2.0
    for array, value in ((one, 3.0), (pair, 2.0)):
        mean, stderr = jackknife(array)
        assert mean[0] == value
        assert np.isnan(stderr[0])


def test_nothing_measured_is_nan_not_zero() -> None:
    mean, stderr = jackknife(np.full((2, 3), np.nan))
    assert np.isnan(mean).all()
    assert np.isnan(stderr).all()


def test_logarithm_is_of_the_mean_not_the_mean_of_logarithms(make_grid: MakeGrid) -> None:
    grid = make_grid(noise=0.5)
    table = aggregate(grid, ["trace"])
    seeds = by_seed(grid.values, "trace", grid.cells)
    np.testing.assert_allclose(table["value"], np.log(seeds.mean(axis=1)), rtol=1e-12)
    relative = seeds.std(axis=1, ddof=1) / np.sqrt(seeds.shape[1]) / seeds.mean(axis=1)
    np.testing.assert_allclose(table["stderr"], relative, rtol=1e-12)


def test_logarithm_of_a_negative_mean_is_null(make_grid: MakeGrid) -> None:
    grid = make_grid([["I"]], loads=[4], temperatures=[16])
    values = grid.values.assign(
        value=grid.values["value"].where(grid.values["quantity"] != "trace", -1.0)
    )
    table = aggregate(SweepTables("g", None, None, grid.cells, values, grid.curves), ["trace"])
    assert table["value"].isna().all()
    assert set(table["status"]) == {"negative"}


@pytest.mark.parametrize(
    ("trace", "status"),
    [(-3.0, "negative"), (0.0, "zero"), (1e-20, "zero"), (-1e-20, "zero"), (1e-3, "done")],
)
def test_negative_zero_and_missing_are_three_things(
    make_grid: MakeGrid, trace: float, status: str
) -> None:
    # lambda_max of the cell is 200, of which float32 rounding is 2e-5.
    grid = make_grid([["I", None]], loads=[4, 16], temperatures=[16], noise=0.0)
    values = grid.values.assign(
        value=grid.values["value"].where(grid.values["quantity"] != "trace", trace)
    )
    table = aggregate(SweepTables("g", None, None, grid.cells, values, grid.curves), ["trace"])
    assert list(table["status"]) == [status, "missing"]
    assert list(table["n"]) == [4, 0]
    assert table["value"].isna().iloc[0] == (status != "done")
    said = counts_in_words(table)
    assert ("1 cell missing" in said, f"1 cell {status}" in said) == (True, status != "done")


def test_diverged_trials_are_counted_and_not_averaged(make_grid: MakeGrid) -> None:
    grid = make_grid([["I", "diverged"], [None, "IV-B"]], loads=[4, 16], temperatures=[16, 64])
    table = aggregate(grid, ["train_loss"]).set_index(["load_label", "temperature_label"])
    assert list(table["status"]) == ["done", "missing", "diverged", "done"]
    assert table.loc[("16", "16"), "n_diverged"] == 4
    assert np.isnan(table.loc[("16", "16"), "value"])
    assert table.loc[("4", "16"), "n"] == 4


def test_collapsed_seeds_are_flagged_and_averaged(make_grid: MakeGrid) -> None:
    grid = make_grid()
    flags = collapsed_seeds(grid)
    assert flags[0].all()
    assert not flags[1:].any()
    table = aggregate(grid, ["train_loss"])
    assert table["n_collapsed"].iloc[0] == 4
    assert table["value"].iloc[0] == pytest.approx(2.31, abs=0.05)


def test_a_guess_is_seen_without_knowing_the_number_of_classes(make_grid: MakeGrid) -> None:
    grid = make_grid()
    blind = SweepTables(
        "g", None, None, grid.cells.assign(num_classes=np.nan), grid.values, grid.curves
    )
    np.testing.assert_array_equal(collapsed_seeds(blind), collapsed_seeds(grid))


def test_a_bad_but_learning_trial_is_no_collapse(make_grid: MakeGrid) -> None:
    # The pilots' width-2 nets: loss 1.42 at 32% among ten classes.
    grid = make_grid([["I"]], loads=[2], temperatures=[16])
    values = grid.values.copy()
    values.loc[values["quantity"] == "train_loss", "value"] = 1.42
    values.loc[values["quantity"] == "train_accuracy", "value"] = 32.0
    for classes in (10.0, np.nan):
        cells = grid.cells.assign(num_classes=classes)
        assert not collapsed_seeds(SweepTables("g", None, None, cells, values, grid.curves)).any()


def test_pairs_in_either_order_count_once_and_the_diagonal_never(make_grid: MakeGrid) -> None:
    grid = make_grid([["IV-B"]], loads=[4], temperatures=[16], seeds=3)
    cka = grid.values[grid.values["quantity"] == "cka"]
    swapped = cka.assign(seed_a=cka["seed_b"], seed_b=cka["seed_a"].astype(float))
    self_pairs = cka.assign(seed_b=cka["seed_a"].astype(float), value=1.0)
    both = SweepTables(
        "g", None, None, grid.cells, pd.concat([grid.values, swapped, self_pairs]), grid.curves
    )
    once, twice = aggregate(grid, ["cka"]), aggregate(both, ["cka"])
    assert once["value"].iloc[0] == pytest.approx(twice["value"].iloc[0], rel=1e-12)
    assert list(twice["n_pairs"]) == [3]
    assert np.isnan(by_pair(both.values, "cka", both.cells)[0].diagonal()).all()


def test_cell_metrics_keep_their_own_standard_error(make_grid: MakeGrid) -> None:
    grid = make_grid()
    extra = grid.values.head(1).assign(
        quantity="expected_test_loss",
        seed_a=np.nan,
        seed_b=np.nan,
        value=0.7,
        stderr=0.02,
        outcome="done",
        num_trials=3,
    )
    values = pd.concat([grid.values, extra], ignore_index=True)
    table = aggregate(
        SweepTables("g", None, None, grid.cells, values, grid.curves), ["expected_test_loss"]
    )
    assert (table["value"].iloc[0], table["stderr"].iloc[0], table["n"].iloc[0]) == (0.7, 0.02, 3)
    assert set(table["status"].iloc[1:]) == {"missing"}


def test_quantities_come_in_declared_order_with_variants_after(make_grid: MakeGrid) -> None:
    grid = make_grid()
    cka = grid.values[grid.values["quantity"] == "cka"].assign(quantity="cka[mixup_alpha=4]")
    own = cka.assign(quantity="lab.sharpness")
    values = pd.concat([own, cka, grid.values], ignore_index=True)
    names = measured(SweepTables("g", None, None, grid.cells, values, grid.curves))
    assert names[:2] == ["test_accuracy", "train_loss"]
    assert names.index("cka[mixup_alpha=4]") == names.index("cka") + 1
    assert names[-1] == "lab.sharpness"


def test_an_empty_grid_aggregates_to_an_empty_table(make_grid: MakeGrid) -> None:
    grid = make_grid([[None]], loads=[4], temperatures=[16])
    assert aggregate(grid).empty


def test_caption_names_missing_diverged_and_collapsed(make_grid: MakeGrid) -> None:
    grid = make_grid(
        [["collapsed", "diverged"], [None, "IV-B"]], loads=[4, 16], temperatures=[16, 64]
    )
    words = counts_in_words(aggregate(grid, ["cka"]))
    assert (
        words == "n = 4 seeds, 6 pairs; 1 cell missing; 1 cell diverged; 1 cell undefined; 4 trials"
        " diverged; 4 trials collapsed"
    )
