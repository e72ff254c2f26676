"""Laws of rank correlations over cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, rankdata, spearmanr

from phasegrid.analysis.stats.correlations import rank_correlations

PUBLISHED_SIGNS = {
    "cka": 1,
    "lambda_max": -1,
    "trace": -1,
    "train_loss": -1,
    "mode_connectivity": 1,
}


def make_table(**columns: list[float]) -> pd.DataFrame:
    rows = [
        {"quantity": name, "cell": cell, "value": value}
        for name, values in columns.items()
        for cell, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def correlate(table: pd.DataFrame) -> pd.DataFrame:
    found = rank_correlations(table, "test_accuracy", np.random.default_rng(0), resamples=200)
    return found.set_index("quantity")


def test_any_rising_function_correlates_fully() -> None:
    x = [1.0, 2.0, 3.0, 4.0, 5.0]
    table = make_table(test_accuracy=x, up=[np.exp(v) for v in x], down=[-(v**3) for v in x])
    found = correlate(table)
    assert found.loc["up", "spearman"] == pytest.approx(1)
    assert found.loc["down", "spearman"] == pytest.approx(-1)
    assert found.loc["up", ["spearman_low", "spearman_high"]].tolist() == pytest.approx([1, 1])


def test_cells_without_both_numbers_are_left_out() -> None:
    table = make_table(test_accuracy=[1, 2, 3, 4, 5, np.nan], other=[1, 2, 3, 4, np.nan, 0])
    found = correlate(table)
    assert found.loc["other", "n_cells"] == 4
    assert found.loc["other", "spearman"] == pytest.approx(1)


def test_a_constant_and_a_handful_of_cells_tell_nothing() -> None:
    table = make_table(test_accuracy=[1, 2, 3, 4], same=[7, 7, 7, 7], few=[1, 2, 3, np.nan])
    assert correlate(table).empty


def test_without_the_target_there_is_nothing_to_tell() -> None:
    assert correlate(make_table(trace=[1, 2, 3, 4])).empty


def test_the_interval_holds_the_correlation_and_shrinks_with_cells() -> None:
    rng = np.random.default_rng(3)
    widths = []
    for count in (12, 300):
        x = rng.normal(size=count)
        y = x + rng.normal(size=count)
        found = correlate(make_table(test_accuracy=x.tolist(), noisy=y.tolist())).loc["noisy"]
        assert found["spearman_low"] <= found["spearman"] <= found["spearman_high"]
        widths.append(found["spearman_high"] - found["spearman_low"])
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize(("name", "scipys"), [("spearman", spearmanr), ("kendall", kendalltau)])
def test_correlation_and_interval_are_scipys_of_the_same_draws_with_ties_too(
    name: str, scipys: Any
) -> None:
    pairs = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [2.0, 1.0]])
    columns = {"test_accuracy": pairs[:, 1].tolist(), "tied": pairs[:, 0].tolist()}
    found = correlate(make_table(**columns)).loc["tied"]
    draws = pairs[np.random.default_rng(0).integers(5, size=(200, 5))]
    varied = [draw for draw in draws if np.ptp(draw, axis=0).min() > 0]
    assert 0 < len(varied) < 200  # draws with a constant column are left out
    low, high = np.percentile([scipys(*draw.T).statistic for draw in varied], (2.5, 97.5))
    assert found[name] == pytest.approx(scipys(*pairs.T).statistic, rel=1e-12)
    assert found[[f"{name}_low", f"{name}_high"]].tolist() == pytest.approx([low, high], rel=1e-12)


def on_grid(table: pd.DataFrame) -> pd.DataFrame:
    """Put cells on a grid of three temperatures, in two facets of equal size."""
    half = table["cell"].max() // 2 + 1
    place = table["cell"] % half
    axes = {"load": place // 3, "temperature": place % 3}
    labels = {f"{name}_label": values.astype(str) for name, values in axes.items()}
    return table.assign(**axes, **labels, facet=(table["cell"] // half).astype(str))


def residual(ranks: np.ndarray, axes: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones(len(ranks)), axes])
    return ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]


def test_partial_correlation_is_that_of_the_residuals_of_ranks() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 24))
    table = on_grid(make_table(test_accuracy=(x + y).tolist(), other=y.tolist()))
    found = correlate(table).loc["other"]
    draws = [np.arange(24), *np.random.default_rng(0).integers(24, size=(200, 24))]
    cells = table.drop_duplicates("cell")
    values = []
    for draw in draws:
        numbers = (cells["load"], cells["temperature"])
        ranks = [rankdata(column.to_numpy()[draw]) for column in numbers]
        axes = np.column_stack([*ranks, (cells["facet"] == "1").to_numpy()[draw]])
        pair = [residual(rankdata(each[draw]), axes) for each in (x + y, y)]
        values.append(np.corrcoef(*pair)[0, 1])
    low, high = np.percentile(values[1:], (2.5, 97.5))
    expected = pytest.approx([values[0], low, high], rel=1e-9)
    assert found[["partial", "partial_low", "partial_high"]].tolist() == expected


def test_a_quantity_that_repeats_an_axis_has_no_partial_correlation() -> None:
    load = [float(cell % 12 // 3) for cell in range(24)]
    noise = np.random.default_rng(2).normal(size=24)
    found = correlate(on_grid(make_table(test_accuracy=(load + noise).tolist(), load=load)))
    assert found.loc["load", "spearman"] > 0.5
    assert np.isnan(found.loc["load", "partial"])


def test_quantities_known_in_the_same_cells_share_their_draws() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 20))
    found = correlate(make_table(test_accuracy=x.tolist(), one=y.tolist(), other=y.tolist()))
    assert found.loc["one"].equals(found.loc["other"])


def test_the_published_grid_has_the_published_signs(shared_data: Path) -> None:
    """Spearman over the published aggregates: as computed on the whole 13 x 13 grid, CKA .89,
    eigenvalue -.88, mc .61.
    """
    target = pd.read_csv(shared_data / "taxonomy_fig3_part_aggregates.csv")
    assert not target.empty
    names = {
        "test_acc": "test_accuracy",
        "CKA": "cka",
        "hessian_e": "lambda_max",
        "hessian_t": "trace",
    }
    names |= {"loss": "train_loss"}
    long = target.rename(columns={"metric": "quantity"}).replace({"quantity": names})
    long["cell"] = long.groupby(["width", "batch_size"]).ngroup()
    found = correlate(long[["quantity", "cell", "value"]])
    for name, sign in PUBLISHED_SIGNS.items():
        assert np.sign(found.loc[name, "spearman"]) == sign, name
        assert abs(found.loc[name, "spearman"]) > 0.5, name
