"""Confidence means what it says: on planted diagrams, nine in ten cells of confidence 0.9 are
right.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.phase_map import UNDETERMINED
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.stats.confidence import probabilities
from phasegrid.analysis.stats.spread import Estimate, of_pairs, of_trials, pooled
from phasegrid.analysis.tables.grid import by_pair
from tests.analysis.planted import CKA, HESSIAN, Pairs, Recipe, planted

RULES = Rules(hessian=HESSIAN, cka=CKA)
NOISES = (0.3, 1.0, 2.5)
KINDS: tuple[tuple[bool, bool], ...] = ((True, False), (True, True), (False, False))
"""Smooth with equal noise, smooth with noise in proportion to mode connectivity, blocks."""
EDGES = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99, 1.0)


def judged(recipes: Iterable[Recipe], diagrams: int, seed: int) -> pd.DataFrame:
    """Confidence of every cell of planted diagrams, and whether its label is right."""
    rng = np.random.default_rng(seed)
    parts = []
    for recipe in recipes:
        for _ in range(diagrams):
            grid, truth = planted(recipe, rng)
            table = label_phases(grid, RULES).table
            parts.append(
                pd.DataFrame(
                    {
                        "pairs": recipe.pairs,
                        "seeds": recipe.seeds,
                        "noise": recipe.mc_noise,
                        "blocks": not recipe.smooth,
                        "stated": table["confidence"],
                        "right": table["nearest"].to_numpy() == truth,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def recipes(pairs: Iterable[Pairs], seeds: Iterable[int]) -> list[Recipe]:
    return [
        Recipe(seeds=n, pairs=which, mc_noise=noise, smooth=smooth, scaled=scaled)
        for which, n, noise, (smooth, scaled) in product(pairs, seeds, NOISES, KINDS)
    ]


def calibration(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells, mean stated confidence and share that is right, by bins of stated confidence."""
    bins = pd.cut(cells["stated"], EDGES, include_lowest=True)
    return cells.groupby(bins, observed=True).agg(
        cells=("right", "size"), stated=("stated", "mean"), right=("right", "mean")
    )


def test_confidence_is_about_right_in_a_few_diagrams() -> None:
    cells = judged(recipes(("first", "ring"), (3,)), diagrams=2, seed=0)
    table = calibration(cells)
    assert table["cells"].sum() == 36 * 72
    nine = table.loc[0.9]
    assert nine["cells"] > 150
    # 85 to 95%, with two standard errors of so many cells.
    assert 0.80 <= nine["right"] <= 0.97
    assert table.loc[1.0, "right"] > 0.99


@pytest.mark.slow
def test_nine_in_ten_cells_of_confidence_nine_tenths_are_right() -> None:
    cells = judged(recipes(("first", "ring", "all"), (3, 5)), diagrams=6, seed=1)
    table = calibration(cells)
    print(table.to_string())
    assert 0.88 <= table.loc[0.9, "right"] <= 0.93
    assert (np.abs(table["right"] - table["stated"]) < 0.12).all()
    for by in ("pairs", "seeds", "noise", "blocks"):
        for name, part in cells.groupby(by):
            nine = calibration(part).loc[0.9]
            print(by, name, nine.to_dict())
            chance = 2 * np.sqrt(0.9 * 0.1 / nine["cells"])
            assert 0.85 - chance <= nine["right"] <= 0.95 + chance, (by, name)


def places(rows: int, columns: int) -> npt.NDArray[np.int_]:
    return np.array([(0, x, y) for y in range(rows) for x in range(columns)])


def test_a_hot_cell_among_barriers_is_undetermined_though_its_mean_is_above_the_tolerance() -> None:
    """The coldest narrow cell of the quickstart: +6.7 points with a standard error of 5.8, Phase I
    around it.
    """
    recipe = Recipe(pairs="ring", mc_noise=3.0, smooth=False, scaled=True)
    grid, truth = planted(recipe, np.random.default_rng(5))
    grid = replace(grid, cells=grid.cells[truth != "II"].reset_index(drop=True))
    cell = int(grid.cells["cell"].iloc[np.flatnonzero(truth[truth != "II"] == "I")[-1]])
    values = grid.values.copy()
    here = (values["quantity"] == "mode_connectivity") & (values["cell"] == cell)
    curves = np.array([24.0, -7.0, -4.0, 22.0, -1.5])
    assert curves.mean() == pytest.approx(6.7, abs=0.1)
    assert curves.std(ddof=1) / np.sqrt(5) == pytest.approx(6.6, abs=0.5)
    values.loc[here, "value"] = curves
    table = label_phases(replace(grid, values=values), RULES).table.set_index("cell")
    assert (table.loc[cell, "nearest"], table.loc[cell, "phase"]) == ("II", UNDETERMINED)


def test_standard_errors_of_trials_are_the_plain_ones_before_pooling() -> None:
    x = np.random.default_rng(0).standard_normal((5, 4))
    raw = of_trials(x.mean(axis=1), (x.sum(axis=1, keepdims=True) - x) / 3)
    np.testing.assert_allclose(raw.unit, x.var(axis=1, ddof=1))
    np.testing.assert_allclose(raw.unit * raw.factor, x.var(axis=1, ddof=1) / 4)
    assert (raw.freedom == 3).all()


def test_pooling_draws_equal_spreads_together_and_leaves_unequal_ones_apart() -> None:
    rng = np.random.default_rng(1)
    where = places(10, 30)
    for scatter, low, high in ((0.0, 0.0, 0.12), (1.0, 0.7, 1.3)):
        sigma = np.exp(scatter * rng.standard_normal(300))
        x = sigma[:, None] * rng.standard_normal((300, 5))
        raw = of_trials(x.mean(axis=1), (x.sum(axis=1, keepdims=True) - x) / 4)
        found = pooled(raw, 1e-6, by_size=False, places=where)
        # Of four degrees of freedom, the logarithm of s alone scatters by 0.4.
        assert low <= np.log(found.stderr * np.sqrt(5)).std() <= high
        t = x.mean(axis=1) / found.stderr
        assert np.mean(np.abs(t) < stats.t.ppf(0.95, found.freedom)) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("pairs", ["ring", "all"])
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_errors_of_pairs_know_how_much_comes_from_the_seeds(pairs: Pairs, shared: float) -> None:
    recipe = Recipe(pairs=pairs, shared=shared, smooth=False, rows=20, columns=20)
    grid, truth = planted(recipe, np.random.default_rng(2))
    array = by_pair(grid.values, "mode_connectivity", grid.cells)
    found = pooled(of_pairs(array), 0.02, by_size=True, places=places(20, 20))
    errors = [found.value[truth == phase].std() for phase in np.unique(truth)]
    assert np.median(found.stderr) == pytest.approx(np.mean(errors), rel=0.1)


def test_neighbours_tell_the_spread_where_each_cell_has_one_curve() -> None:
    recipe = Recipe(pairs="first", mc_noise=1.5, smooth=False, rows=16, columns=16)
    grid, _ = planted(recipe, np.random.default_rng(3))
    array = by_pair(grid.values, "mode_connectivity", grid.cells)
    found = pooled(of_pairs(array), 0.02, by_size=True, places=places(16, 16))
    assert np.median(found.stderr) == pytest.approx(1.5, rel=0.25)


def test_a_cell_alone_is_judged_by_its_own_t() -> None:
    one = Estimate(np.array([1.5]), np.array([0.5]), np.array([4.0]))
    expected = stats.t.cdf((1.0 - 1.5) / 0.5, 4)
    np.testing.assert_allclose(probabilities(one, (1.0,)), [[expected, 1 - expected]])


def test_what_other_cells_are_makes_likely_what_a_cell_is() -> None:
    values = np.concatenate([np.full(30, 0.0), np.full(30, -8.0), [-2.5]])
    unsure = Estimate(values, np.full(61, 1.2), np.full(61, 20.0))
    found = probabilities(unsure, (-1.0, 1.0))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    alone = stats.t.cdf(1.5 / 1.2, 20)
    assert found[-1, 0] < 0.5 < alone  # no other is near -2.5, and many are at 0
    sure = probabilities(Estimate(values, np.full(61, 0.1), np.full(61, 20.0)), (-1.0, 1.0))
    assert sure[-1, 0] > 0.99


def test_an_unknown_spread_has_no_probability() -> None:
    unknown = Estimate(np.array([1.0, np.nan]), np.full(2, np.nan), np.full(2, np.nan))
    assert np.isnan(probabilities(unknown, (0.0,))).all()
