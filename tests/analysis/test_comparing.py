"""Two sweeps joined cell by cell, against scipy and by hand, and the command that does it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from phasegrid.analysis.report.comparison import compare
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.stats.compare import (
    OWN,
    PAIRS,
    TRIALS,
    compare_grids,
    one_sided_cells,
    summary_lines,
)
from phasegrid.analysis.tables.grid import SweepTables, by_seed
from phasegrid.cli.main import app
from phasegrid.errors import SweepError
from phasegrid.run.published.taxonomy import import_taxonomy
from phasegrid.store.store import Store

MakeGrid = Callable[..., SweepTables]


def changed(grid: SweepTables, quantity: str, change: float, sweep: str = "b") -> SweepTables:
    values = grid.values.copy()
    values.loc[values["quantity"] == quantity, "value"] += change
    return replace(grid, values=values, sweep=sweep)


def of(comparison: pd.DataFrame, quantity: str) -> pd.DataFrame:
    return comparison[comparison["quantity"] == quantity].reset_index(drop=True)


def test_intervals_of_trials_are_those_of_the_paired_t(make_grid: MakeGrid) -> None:
    a, b = make_grid(seeds=4, noise=0.05), make_grid(seeds=4, noise=0.2)
    found = of(compare_grids(a, b), "test_accuracy")
    one, other = (by_seed(grid.values, "test_accuracy", grid.cells) for grid in (a, b))
    for i, row in enumerate(found.to_dict("records")):
        paired = stats.ttest_rel(other[i], one[i]).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((paired.low, paired.high), rel=1e-9)
    assert set(found["interval"]) == {TRIALS}


def test_other_numbers_of_seeds_give_scheffes_interval(make_grid: MakeGrid) -> None:
    a, b = make_grid(seeds=4, noise=0.05), make_grid(seeds=6, noise=0.2)
    found = of(compare_grids(a, b), "test_accuracy")
    x, y = (by_seed(grid.values, "test_accuracy", grid.cells) for grid in (a, b))
    d = x - np.sqrt(4 / 6) * y[:, :4] + y[:, :4].sum(axis=1, keepdims=True) / np.sqrt(24)
    d -= y.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found["difference"], -d.mean(axis=1))
    reach = stats.t.ppf(0.975, 3) * d.std(axis=1, ddof=1) / 2
    np.testing.assert_allclose(found["high"] - found["difference"], reach)
    assert (set(found["n_a"]), set(found["n_b"])) == ({4}, {6})


def test_the_difference_is_b_minus_a_and_is_seen_where_it_is_large(make_grid: MakeGrid) -> None:
    a = make_grid()
    found = compare_grids(a, changed(a, "test_accuracy", 50.0))
    accuracy = of(found, "test_accuracy")
    np.testing.assert_allclose(accuracy["difference"], 50.0)
    assert accuracy["differs"].all()
    assert not of(found, "train_loss")["differs"].any()


def test_a_difference_of_logarithms_has_the_error_of_logarithms(make_grid: MakeGrid) -> None:
    a, b = make_grid(), make_grid(noise=0.2)
    found = of(compare_grids(a, b), "trace")
    tables = [aggregate(grid, ["trace"]) for grid in (a, b)]
    np.testing.assert_allclose(found["difference"], tables[1]["value"] - tables[0]["value"])
    x, y = (by_seed(grid.values, "trace", grid.cells) for grid in (a, b))
    relative = y / y.mean(axis=1, keepdims=True) - x / x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found["stderr"], relative.std(axis=1, ddof=1) / 2)


def test_pairs_have_jackknife_errors_and_one_pair_has_no_verdict(make_grid: MakeGrid) -> None:
    found = compare_grids(make_grid(), make_grid())
    cka, mc = of(found, "cka"), of(found, "mode_connectivity")
    assert set(cka["interval"]) == {PAIRS}
    assert cka["differs"].notna().all()
    assert mc["differs"].isna().all()
    assert mc["low"].isna().all()


def test_whole_cells_bring_their_own_errors(make_grid: MakeGrid) -> None:
    grid = make_grid()
    rows = grid.cells.assign(
        quantity="expected_test_loss", seed_a=np.nan, seed_b=np.nan, value=0.5, stderr=0.03, outcome="done", num_trials=4
    )[list(grid.values.columns)]  # fmt: skip
    a = replace(grid, values=pd.concat([grid.values, rows], ignore_index=True))
    found = of(compare_grids(a, changed(a, "expected_test_loss", 0.1)), "expected_test_loss")
    np.testing.assert_allclose(found["high"] - found["low"], 2 * 1.959964 * np.hypot(0.03, 0.03))
    assert set(found["interval"]) == {OWN}
    assert found["differs"].all()


def test_equal_numbers_without_spread_do_not_differ(make_grid: MakeGrid) -> None:
    a = make_grid(noise=0.0)
    assert not of(compare_grids(a, a), "train_loss")["differs"].any()
    moved = of(compare_grids(a, changed(a, "train_loss", 1e-3)), "train_loss")
    assert moved["differs"][1:].all()  # the first cell collapsed, which has a spread of its own


@pytest.mark.parametrize("value", [99.1, 93.3, 12.7, 1.0, 0.1])
def test_rounding_is_no_difference(make_grid: MakeGrid, value: float) -> None:
    # Sums of 2 to 6 equal numbers divided by their count differ in the last digit.
    grids = [make_grid(seeds=n, noise=0.0) for n in range(2, 7)]
    names = ["test_accuracy", "trace"]  # as it is, and the logarithm of the mean
    for a, b in combinations(grids, 2):
        found = compare_grids(*(_all_equal(grid, names, value) for grid in (a, b)))
        assert not found.loc[found["quantity"].isin(names), "differs"].any()


def _all_equal(grid: SweepTables, names: list[str], value: float) -> SweepTables:
    chosen = grid.values["quantity"].isin(names)
    return replace(grid, values=grid.values.assign(value=grid.values["value"].mask(chosen, value)))


def test_cells_of_one_sweep_alone_are_named(make_grid: MakeGrid) -> None:
    a, b = make_grid(), make_grid(loads=(4, 16, 64, 512))
    b = replace(b, sweep="b")
    alone = one_sided_cells(a, b)
    assert alone.groupby("sweep")["load_label"].agg(set).to_dict() == {"b": {"512"}, "toy": {"256"}}
    assert set(of(compare_grids(a, b), "train_loss")["load_label"]) == {"4", "16", "64"}


def test_the_summary_has_a_line_per_quantity(make_grid: MakeGrid) -> None:
    a = make_grid()
    lines = summary_lines(compare_grids(a, changed(a, "test_accuracy", 50.0)))
    assert (
        lines[0]
        == "test_accuracy: 16 cells joined, mean difference +50 points, 16 of 16 differ (16 up, 0"
        " down)"
    )
    assert any(line.startswith("mode_connectivity:") and "no spread" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_path": "model.depth"}, "the load is model.width in the one and model.depth"),
        ({"temperature_path": "train.lr"}, "the temperature is train.batch_size in the one and train.lr"),
        ({"loads": (5, 6, 7, 8)}, "they share no cell"),
    ],
)  # fmt: skip
def test_sweeps_with_nothing_in_common_are_refused(
    make_grid: MakeGrid, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        compare_grids(make_grid(), make_grid(**options))


def test_sweeps_that_measured_different_things_are_refused(make_grid: MakeGrid) -> None:
    grid = make_grid()
    loss = replace(grid, values=grid.values[grid.values["quantity"] == "train_loss"])
    cka = replace(grid, values=grid.values[grid.values["quantity"] == "cka"])
    with pytest.raises(SweepError, match="no quantity is measured in both"):
        compare_grids(loss, cka)


def stored(folder: Path, sweep: str, gain: float, widths: tuple[int, ...]) -> str:
    """A store with a published sweep whose test accuracy is so many points higher."""
    lines = [
        f"{w},{b},{metric},{s},,{value + 0.01 * s}"
        for w in widths
        for b in (16, 256)
        for s in (0, 1, 2)
        for metric, value in (
            ("train_nll", 0.5),
            ("train_accuracy", 80.0),
            ("test_accuracy", 70.0 + gain),
            ("test_nll", 1.0),
        )
    ]
    folder.mkdir()
    csv = folder / "published.csv"
    csv.write_text("\n".join(["width,batch_size,metric,seed_a,seed_b,value", *lines]))
    import_taxonomy(csv, Store.open(str(folder / "store"), create=True), sweep)
    return str(folder / "store")


def test_the_command_compares_sweeps_of_two_stores(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", "plain", 0.0, (4, 64))
    other = stored(tmp_path / "other", "decayed", 2.0, (4, 8, 64))
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app,
        ["compare", "plain", "decayed", "--storage", one, "--storage-b", other, "-o", str(out), "--format", "png"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "test_accuracy: 4 cells joined, mean difference +2 points, 4 of 4 differ" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "comparison.png", "gain.png", "comparison.csv", "cells_in_one.csv", "gain.csv",
    }  # fmt: skip
    assert pd.read_csv(out / "cells_in_one.csv")["load_label"].tolist() == [8, 8]
    gains = pd.read_csv(out / "gain.csv").set_index("load_label")["gain"]
    assert gains.to_dict() == {4: pytest.approx(2.0), 8: pytest.approx(np.nan, nan_ok=True), 64: pytest.approx(2.0)}  # fmt: skip


def test_a_sweep_that_is_not_there_is_refused_by_the_command(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", "plain", 0.0, (4, 64))
    done = CliRunner().invoke(app, ["compare", "plain", "nope", "--storage", one])
    assert isinstance(done.exception, SweepError)
    assert "there is no sweep 'nope'" in str(done.exception)


def test_a_format_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="found 'gif'"):
        compare(tmp_path, "a", tmp_path, "b", tmp_path, ["gif"])


def test_a_sweep_without_numbers_compares_to_nothing_and_is_no_mistake(
    make_grid: MakeGrid,
) -> None:
    diverged = make_grid([["diverged"] * 4] * 4)
    for a, b in ((diverged, make_grid()), (make_grid(), diverged), (diverged, diverged)):
        found = compare_grids(a, b)
        assert found.empty
        assert summary_lines(found) == ["no cell has a number in both sweeps: nothing to compare"]
        assert one_sided_cells(a, b).empty
