"""Figures of planes through points in weight space: they hold what was measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

import phasegrid
from phasegrid.analysis.draw.planes import plane_levels, plane_maps
from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.draw.style import MISSING

U, V = [0.0, 1.0, 2.0, 3.0], [0.0, 0.5, 1.0]
CELLS = pd.DataFrame(
    {
        "cell": [0, 1, 2],
        "facet": "[]",
        "load": [1.0, 2.0, 3.0],
        "load_label": ["1", "2", "3"],
        "temperature": 0.1,
        "temperature_label": "0.1",
    }
)
FRAME = make_frame(CELLS, "model.width", "train.lr")


def row(cell: int = 0, seeds: tuple[int, int] = (0, 1), **changed: object) -> dict[str, Any]:
    """A plane with the loss u + 10 v + cell + 1."""
    return {
        "cell": cell,
        "seed_a": float(seeds[0]),
        "seed_b": float(seeds[1]),
        "variant": "",
        "axis": np.array(U),
        "axis_2": np.array(V),
        "train_loss": [[u + 10 * v + cell + 1 for u in U] for v in V],
        "points_u": [0.0, 1.5, 3.0],
        "points_v": [0.0, 1.0, 0.0],
        **changed,
    }


def draw(*rows: dict[str, Any], cap: float = 99.0, most: int = 12) -> Figure:
    table = pd.DataFrame(list(rows)).merge(CELLS, on="cell")
    return plane_maps(table, FRAME, "train_loss", "training loss (nats)", cap=cap, most=most)


def maps(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.get_xlabel().startswith("u")]


def contours(ax: Axes) -> tuple[QuadContourSet, ...]:
    return tuple(item for item in ax.collections if isinstance(item, QuadContourSet))


def test_each_cell_has_its_plane_with_its_points() -> None:
    figure = draw(row(1), row(0))
    assert [ax.get_title(loc="left").replace("\n", " ") for ax in maps(figure)] == [
        "width 1, learning rate 0.1",
        "width 2, learning rate 0.1",
    ]
    for cell, ax in enumerate(maps(figure)):
        filled, lines = contours(ax)
        assert (filled.zmin, filled.zmax) == (1 + cell, 14 + cell)
        ends, bend = (item.get_offsets() for item in ax.collections if item.get_label() in ("ends", "bends"))  # fmt: skip
        assert np.asarray(ends).tolist() == [[0.0, 0.0], [3.0, 0.0]]
        assert np.asarray(bend).tolist() == [[1.5, 1.0]]
        for level, path in zip(lines.levels, lines.get_paths(), strict=True):
            u, v = path.vertices[:, 0], path.vertices[:, 1]
            np.testing.assert_allclose(u + 10 * v + cell + 1, level)  # the loss is linear
    assert figure.get_suptitle() == "training loss (nats); 2 planes"


def test_levels_are_shared_and_the_last_colour_is_for_what_lies_above_the_cap() -> None:
    figure = draw(row(0), row(1), cap=10.0)
    first, second = (contours(ax)[0] for ax in maps(figure))
    assert np.array_equal(first.levels, second.levels)
    assert (first.levels[0], first.levels[-1]) == pytest.approx((1.0, 10.0))
    assert first.extend == "max"
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "training loss (nats)"
    assert [tick.get_text() for tick in bar.get_yticklabels()][-1] == "10"


def test_levels_are_as_close_together_as_the_values_are_near_the_lowest() -> None:
    levels = plane_levels([np.array([[2.0, np.nan], [7.0, 1e6]])], 5.0)
    gaps = levels[1:] - 2.0
    np.testing.assert_allclose(gaps[1:] / gaps[:-1], gaps[1] / gaps[0])
    assert (levels[0], levels[-1]) == pytest.approx((2.0, 5.0))


@pytest.mark.parametrize("values", [[[3.0, 3.0]], [[np.nan, np.nan]], [[7.0, 8.0]]])
def test_levels_ascend_whatever_the_values(values: list[list[float]]) -> None:
    assert (np.diff(plane_levels([np.array(values)], 5.0)) > 0).all()


def test_the_first_seeds_stand_for_a_cell_and_ways_of_measuring_for_themselves() -> None:
    figure = draw(row(0, (1, 2)), row(0, (0, 1)), row(0, (0, 1), variant="bend=2"))
    notes = [text.get_text() for ax in maps(figure) for text in ax.texts]
    assert [note.replace("\n", " ") for note in notes] == [
        "seeds 0 and 1, as declared, 4 × 3 points",
        "seeds 0 and 1, bend=2, 4 × 3 points",
    ]


def test_of_too_many_planes_some_are_drawn_and_the_rest_is_counted() -> None:
    figure = draw(row(0), row(1), row(2), most=2)
    assert [ax.get_title(loc="left")[:7] for ax in maps(figure)] == ["width 1", "width 3"]
    assert figure.get_suptitle() == "training loss (nats); 2 planes of 3"


def test_points_that_diverged_are_hatched_and_counted() -> None:
    loss: list[list[float | None]] = [[1.0, 2.0, 3.0, 4.0] for _ in V]
    loss[2][3] = None
    one, none = maps(draw(row(0, train_loss=loss), row(1, train_loss=[[None] * 4] * 3)))
    assert one.patch.get_hatch() == none.patch.get_hatch() == MISSING.hatch
    assert "1 diverged" in one.texts[0].get_text()
    assert contours(none) == ()


SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "planes",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "width": 4},
    "train": {"epochs": 1, "batch_size": 64, "stop": None},
    "load": {"param": "model.width", "values": [2, 4]},
    "seeds": 2,
    "metrics": [
        {"connectivity": {"id": "bend", "epochs": 1, "points": 3}},
        {"plane": {"of": "bend", "points": 3, "examples": 50, "refresh_examples": 50}},
    ],
}


def test_planes_are_drawn_unasked_and_as_they_are_asked_for(tmp_path: Path) -> None:
    result = phasegrid.run(SWEEP, tmp_path / "store", serial=True, quiet=True)
    assert "not_drawn.csv" not in {path.name for path in phasegrid.plot(result).files}
    drawn = phasegrid.plot(result)["planes"]
    rows = result.results.metric("plane", sweep="planes").sort_values("cell")
    for ax, stored in zip(maps(drawn), rows.to_dict("records"), strict=True):
        filled = contours(ax)[0]
        values = np.array([list(line) for line in stored["train_loss"]])
        assert (filled.zmin, filled.zmax) == (values.min(), values.max())
    asked = {"planes": {"name": "errors", "column": "test_error_percent", "cap": 50, "most": 1}}
    again = phasegrid.run(
        {**SWEEP, "figures": [asked]}, tmp_path / "store", serial=True, quiet=True
    )
    figures = phasegrid.plot(again).figures
    assert "planes" not in figures
    assert figures["errors"].axes[-1].get_ylabel() == "test error (%)"
