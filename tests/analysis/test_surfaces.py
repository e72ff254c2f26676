"""Figures of slices without pixels: which point is where, what is missing, shared colours,
logarithms.
"""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet, QuadContourSet
from matplotlib.figure import Figure

from phasegrid.analysis.draw.scales import make_frame
from phasegrid.analysis.draw.slice_grids import large_slice, slice_grid
from phasegrid.analysis.draw.slices import (
    COLUMNS,
    contour,
    profile,
    slice_limits,
    slice_points,
)
from phasegrid.analysis.draw.style import MISSING

AXIS = [-1.0, -0.5, 0.0, 0.5, 1.0]


def row(
    cell: int = 0, seed: int = 0, dimensions: int = 2, scale: float = 1.0, **changed: object
) -> dict[str, object]:
    """A slice whose loss is 1 + scale (a^2 + 10 b^2) + a/4, as the store gives it."""
    other = AXIS if dimensions == 2 else [0.0]
    loss = [[1 + scale * (a * a + 10 * b * b) + a / 4 for a in AXIS] for b in other]
    return {
        "cell": cell,
        "seed_a": seed,
        "outcome": "done",
        "axis": np.array(AXIS),
        "axis_2": np.array(AXIS) if dimensions == 2 else None,
        "train_loss": np.array([np.array(line) for line in loss], dtype=object),
        "train_error_percent": loss,
        "test_loss": None,
        "test_error_percent": None,
        "args": '{"directions":"random"}',
        **changed,
    }


def points_of(*rows: dict[str, object], cells: list[int] | None = None) -> pd.DataFrame:
    return slice_points(pd.DataFrame(list(rows)), cells)


def new_axes() -> Axes:
    return Figure(figsize=(4, 3)).subplots()


def contours(ax: Axes) -> list[QuadContourSet]:
    return [item for item in ax.collections if isinstance(item, QuadContourSet)]


def test_every_point_of_a_plane_has_its_coordinates() -> None:
    points = points_of(row())
    assert len(points) == 25
    for _, point in points.iterrows():
        a, b = point["a"], point["b"]
        assert point["train_loss"] == pytest.approx(1 + a * a + 10 * b * b + a / 4)
    assert points["test_loss"].isna().all()
    assert set(points["dimensions"]) == {2}
    assert set(points_of(row(dimensions=1))["b"]) == {0.0}


def test_cells_are_chosen_in_order_and_what_was_not_measured_is_left_out() -> None:
    rows = [row(0), row(1, outcome="not_applicable"), row(2, 1), row(2, 0), row(3)]
    points = points_of(*rows, cells=[2, 0])
    assert list(dict.fromkeys(points["cell"])) == [2, 0]
    assert set(points[points["cell"] == 2]["seed"]) == {0, 1}
    empty = points_of(rows[1])
    assert empty.empty
    assert set(COLUMNS) < set(empty.columns)
    assert list(dict.fromkeys(points_of(*rows[::-1])["cell"])) == [0, 2, 3]


def test_a_contour_is_that_of_the_plane_the_right_way_up() -> None:
    ax = contour(new_axes(), points_of(row()))
    filled, lines = contours(ax)
    assert filled.zmin == pytest.approx(1.0, abs=0.2)
    assert (filled.norm.vmin, filled.norm.vmax) == slice_limits(points_of(row()), "train_loss")
    # ten times steeper along direction 2: contour lines are wide along direction 1
    corners = np.concatenate([path.vertices for path in lines.get_paths()[:2]])
    assert np.ptp(corners[:, 0]) > np.ptp(corners[:, 1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("along direction 1", "along direction 2")


def test_the_colour_bar_shows_its_limits_and_its_unit() -> None:
    ax = contour(new_axes(), points_of(row()), limits=(1.0, 9.0))
    assert isinstance(ax.figure, Figure)
    bar = ax.figure.axes[1]
    ticks = [label.get_text() for label in bar.get_yticklabels()]
    assert (ticks[0], ticks[-1]) == ("1", "9")
    assert set(ticks[1:-1]) <= {"2", "3", "4", "5", "6", "7", "8"}
    assert bar.get_ylabel() == "training loss (nats)"
    bare = contour(new_axes(), points_of(row()), colour_bar=False)
    assert isinstance(bare.figure, Figure)
    assert bare.figure.axes == [bare]


@pytest.mark.parametrize(
    ("limits", "extend"),
    [(None, "neither"), ((0.0, 99.0), "neither"), ((2.0, 99.0), "min"), ((0.0, 9.0), "max"), ((2.0, 9.0), "both")],
)  # fmt: skip
def test_values_beyond_the_limits_are_shown_at_the_ends_of_the_bar(
    limits: tuple[float, float] | None, extend: str
) -> None:
    ax = contour(new_axes(), points_of(row()), limits=limits)
    assert contours(ax)[0].extend == extend


def test_a_steep_plane_is_logarithmic_and_a_flat_one_is_not() -> None:
    steep, flat = (contours(contour(new_axes(), points_of(row(scale=s))))[0] for s in (100.0, 0.1))
    assert isinstance(steep, ContourSet)
    ratios = steep.levels[1:] / steep.levels[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    np.testing.assert_allclose(np.diff(flat.levels), np.diff(flat.levels)[0])


def test_diverged_points_are_counted_and_hatched() -> None:
    loss: list[list[float | None]] = [[1.0 + a for a in range(5)] for _ in AXIS]
    loss[0][0] = loss[4][4] = None
    points = points_of(row(train_loss=loss))
    assert points["train_loss"].isna().sum() == 2
    ax = contour(new_axes(), points)
    assert ax.patch.get_hatch() == MISSING.hatch
    assert any("25 points, 2 diverged" in text.get_text() for text in ax.texts)


def test_a_plane_that_diverged_everywhere_is_all_hatched() -> None:
    points = points_of(row(train_loss=[[None] * 5 for _ in AXIS]))
    assert slice_limits(points, "train_loss") == (0.0, 1.0)
    ax = contour(new_axes(), points)
    assert contours(ax) == []
    assert any("25 diverged" in text.get_text() for text in ax.texts)


def test_a_constant_plane_can_be_drawn() -> None:
    points = points_of(row(train_loss=[[2.0] * 5 for _ in AXIS]))
    assert slice_limits(points, "train_loss") == (1.5, 2.5)
    assert contours(contour(new_axes(), points))


def test_a_profile_has_a_line_for_every_trial_and_a_name_for_every_cell() -> None:
    points = points_of(row(4, 0, 1), row(4, 1, 1), row(7, 0, 2, scale=2.0))
    ax = profile(new_axes(), points, labels={4: "narrow", 7: "wide"}, chance=math.log(3))
    lines = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 5]
    assert len(lines) == 3
    assert [line.get_marker() for line in lines] == ["o", "o", "s"]
    for line, scale in zip(lines, (1, 1, 2), strict=True):
        wanted = [1 + scale * a * a + a / 4 for a in AXIS]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), wanted)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["narrow", "wide"]
    assert any(list(np.asarray(line.get_ydata())) == [math.log(3)] * 2 for line in ax.lines)
    assert any("3 trials" in text.get_text() for text in ax.texts)
    assert ax.get_yscale() == "linear"


def test_a_profile_along_the_weights_says_what_x_is() -> None:
    ax = profile(new_axes(), points_of(row(dimensions=1, args='{"directions":"weights"}')))
    assert ax.get_xlabel() == "x in (1 + x) w"


def test_a_profile_that_explodes_is_logarithmic_with_gaps() -> None:
    loss = [[None, 50.0, 1.0, 40.0, None]]
    ax = profile(new_axes(), points_of(row(0, 0, 1, train_loss=loss)))
    assert ax.get_yscale() == "log"
    assert ax.get_legend() is None
    assert np.isnan(np.asarray(ax.lines[0].get_ydata(), dtype=float)).sum() == 2
    assert any("1 trial; 5 points, 2 diverged" in text.get_text() for text in ax.texts)


CELLS = pd.DataFrame(
    {
        "cell": [0, 1, 2, 3],
        "facet": "[]",
        "load": [1.0, 2.0, 1.0, 2.0],
        "load_label": ["1", "2", "1", "2"],
        "temperature": [0.1, 0.1, 0.2, 0.2],
        "temperature_label": ["0.1", "0.1", "0.2", "0.2"],
    }
)
FRAME = make_frame(CELLS, "model.width", "train.lr")


def test_small_planes_stand_as_the_cells_do_and_share_their_colours() -> None:
    points = points_of(row(0, 1), row(0, 0, scale=2.0), row(1, 0, scale=0.5), row(2, 0))
    figure = slice_grid(points, CELLS, FRAME, "train_loss", title="planes")
    axes = figure.axes[:4]
    assert [bool(contours(ax)) for ax in axes] == [True, False, True, True], "hot cells on top"
    assert axes[1].patch.get_hatch() == MISSING.hatch
    limits = {(contours(ax)[0].norm.vmin, contours(ax)[0].norm.vmax) for ax in axes if contours(ax)}
    assert len(limits) == 1
    (shared,) = limits
    assert shared[1] == pytest.approx(1 + 2 * 11 + 1 / 4), "of the first seed of cell 0"
    assert figure.axes[4].get_ylabel() == "training loss (nats)"
    assert " ".join(figure.get_suptitle().split()) == (
        "planes training loss (nats); 3 cells, one network each, 5 × 5 points"
    )


def test_small_profiles_have_a_line_for_every_seed_and_one_scale() -> None:
    points = points_of(row(0, 0, 1), row(0, 1, 1), row(3, 0, 1, scale=4.0))
    figure = slice_grid(points, CELLS, FRAME, "train_loss")
    top_left, top_right, bottom_left, bottom_right = figure.axes
    assert [len(ax.lines) for ax in (bottom_left, top_right)] == [3, 2]  # with that of w
    assert top_right.get_ylim() == bottom_left.get_ylim()
    for ax in (top_left, bottom_right):
        assert ax.patch.get_hatch() == MISSING.hatch


def test_a_large_plane_names_its_cell_and_its_levels() -> None:
    figure = large_slice(points_of(row(1), row(1, 1)), CELLS, FRAME, "train_loss")
    ax = figure.axes[0]
    assert ax.get_title(loc="left").replace("\n", " ") == (
        "cell 1: width 2, learning rate 0.1, seed 0"
    )
    written = {text.get_text() for text in ax.texts}
    assert {"2", "5"} <= written
    lines = large_slice(points_of(row(1, 0, 1), row(1, 1, 1)), CELLS, FRAME, "train_loss").axes[0]
    legend = lines.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["seed 0", "seed 1"]


def test_an_error_is_drawn_in_percent() -> None:
    ax = contour(new_axes(), points_of(row()), column="train_error_percent")
    assert isinstance(ax.figure, Figure)
    assert ax.figure.axes[1].get_ylabel() == "training error (%)"
