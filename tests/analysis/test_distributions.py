"""Histograms of stored samples, and spectral densities, drawn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from phasegrid.analysis.draw.distributions import density_panels, histogram_panels, smoothed
from phasegrid.declare import Grid
from phasegrid.figures.distributions import HISTOGRAMS


def samples(head: str, label: str, values: list[float], **theory: float) -> dict[str, Any]:
    usual = {"mean": np.nan, "deviation": np.nan}
    return {"head": head, "label": label, "samples": np.array(values), **usual, **theory}


def test_every_sample_is_in_a_bin_and_rows_share_their_bins() -> None:
    rows = [samples("a", "gradient", [1.0, 2.0, 2.0]), samples("a", "to_1", [4.0, 5.0])]
    (ax,) = histogram_panels(pd.DataFrame(rows), "angle", bins=4, most=9).axes
    heights = [float(patch.get_height()) for patch in ax.patches]  # type: ignore[attr-defined]
    assert heights == [1, 2, 0, 0, 0, 0, 0, 2]
    assert ax.get_xlabel() == "angle"


def test_theory_is_a_gaussian_of_as_many_draws() -> None:
    values = np.random.default_rng(0).normal(3.0, 0.5, 400)
    row = samples("a", "", list(values), mean=3.0, deviation=0.5)
    figure = histogram_panels(pd.DataFrame([row]), "change", bins=10, most=9)
    (line,) = figure.axes[0].lines
    x, y = (np.asarray(one) for one in line.get_data())
    width = (values.max() - values.min()) / 10
    assert np.trapezoid(y, x) == pytest.approx(400 * width, rel=0.02)  # but for the tails
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["theory"]


def test_rows_apart_have_panels_and_some_of_many_are_drawn() -> None:
    rows = [samples(f"size={i}", "", [0.0, float(i + 1)]) for i in range(6)]
    figure = histogram_panels(pd.DataFrame(rows), "change", bins=3, most=3, title="all")
    assert len(figure.axes) == 3
    assert "3 panels of 6" in figure.get_suptitle()


def spectrum(place: str, line: str, nodes: list[float]) -> dict[str, Any]:
    weights = np.full(len(nodes), 1 / len(nodes))
    return {
        "place": place,
        "line": line,
        "density_nodes": np.array(nodes),
        "density_weights": weights,
        "lambda_min": min(nodes),
        "num_parameters": 100,
    }


def test_a_smoothed_density_has_the_mass_and_the_mean_of_its_nodes() -> None:
    x = np.linspace(-3, 5, 4001)
    y = smoothed(x, np.array([-1.0, 0.0, 3.0]), np.array([0.2, 0.5, 0.3]), 0.05)
    assert np.trapezoid(y, x) == pytest.approx(1, rel=1e-6)
    assert np.trapezoid(x * y, x) == pytest.approx(0.7, rel=1e-6)


def test_the_smallest_eigenvalue_stands_in_brackets() -> None:
    rows = pd.DataFrame([spectrum("", "E=0", [-0.5, 2.0]), spectrum("", "E=9", [-0.1, 1.0])])
    figure = density_panels(rows, smoothing=0.01, most=9)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    assert len(ax.lines) == 2
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["E=0 [-0.5]", "E=9 [-0.1]"]
    cells = pd.DataFrame([spectrum("one", "E=0", [-0.5, 2.0]), spectrum("two", "E=0", [0.1, 1.0])])
    figure = density_panels(cells, smoothing=0.01, most=9)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["E=0"]


def test_a_single_eigenvalue_is_seen_above_the_bottom() -> None:
    nodes, weights = [0.0, 1.0], np.array([0.99, 0.01])
    row = {**spectrum("", "E=0", nodes), "density_weights": weights}
    (ax,) = density_panels(pd.DataFrame([row]), smoothing=0.01, most=9).axes
    bottom, top = ax.get_ylim()
    y = np.asarray(ax.lines[0].get_ydata())
    assert y[-60:].max() == pytest.approx(10 * bottom, rel=0.01)  # 1 / P of a hundred parameters
    assert top == pytest.approx(2 * y.max())


@pytest.mark.parametrize(
    ("asked", "place", "message"),
    [
        ({"column": "trace"}, "column", "found 'trace', which holds single numbers"),
        ({"column": "angle"}, "column", "found 'angle'; allowed: a column of angles"),
        ({"theory": [90, "angles"]}, "theory.1", "found 'angles', which holds lists"),
        ({"cell": 2}, "cell", "found 2; allowed: 0 to 1"),
    ],
)
def test_a_request_that_fits_no_column_or_cell_is_a_mistake(
    asked: dict[str, Any], place: str, message: str
) -> None:
    columns = {"angles": {"angles": "list<float64>", "trace": "float64", "direction": "string"}}
    given = {"metric": "angles", "column": "angles", "theory": None, "cell": None, **asked}
    fits = HISTOGRAMS.fits
    assert callable(fits)
    ((where, told),) = fits(given, Grid({}, 2, columns))
    assert where == place
    assert message in told
