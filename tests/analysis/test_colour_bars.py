"""Numbers beside colour bars: each can be told from the others and is where it says it is."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.colours import colour_scale, linear_scale
from phasegrid.analysis.draw.diagrams import phase_diagram
from phasegrid.analysis.draw.differences import difference_diagram
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.planes import Surface, plane_maps
from phasegrid.analysis.draw.scales import Frame, make_frame
from phasegrid.analysis.draw.slice_grids import slice_grid
from phasegrid.analysis.draw.slices import contour, slice_points
from phasegrid.analysis.draw.ticks import tick_texts, write_log_ticks
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import QUANTITIES

MakeGrid = Callable[..., SweepTables]
AXIS = [-1.0, 0.0, 1.0]
SURFACE = [[1 + 1e-5 * (3 * i + j) for j in range(3)] for i in range(3)]
"""Losses from 1 to 1.00008: three digits do not tell them apart."""


def frame_of(grid: SweepTables) -> Frame:
    return make_frame(grid.cells, grid.load_path, grid.temperature_path)


def a_diagram(grid: SweepTables) -> Figure:
    table = aggregate(grid, ["train_loss"])
    table["value"] = 1 + 1e-5 * np.arange(len(table))
    ax = Figure().subplots()
    phase_diagram(ax, table, QUANTITIES["length_ratio"], frame_of(grid))
    return whole(ax)


def differences(grid: SweepTables) -> Figure:
    table = aggregate(grid, ["train_loss"]).assign(differs=False, n_a=4, n_b=4)
    table["difference"] = 1 + 1e-5 * np.arange(len(table))
    scale = linear_scale(table["difference"].to_numpy(dtype=float), 1.0)
    ax = Figure().subplots()
    difference_diagram(ax, table, QUANTITIES["train_loss"], frame_of(grid), scale)
    return whole(ax)


def planes(_grid: SweepTables) -> Figure:
    ends = {"seed_a": 0.0, "seed_b": 1.0, "points_u": [-1.0, 0.0, 1.0], "points_v": [0.0, 1.0, 0.0]}
    measured = {"axis": AXIS, "axis_2": AXIS, "train_loss": SURFACE, "line": "", "head": ""}
    rows = pd.DataFrame([{"cell": 0, **ends, **measured}])
    return plane_maps(rows, [Surface("train_loss", "loss", 5.0)], most=1)


def points() -> pd.DataFrame:
    slice_row = {
        "cell": 0,
        "seed_a": 0,
        "outcome": "done",
        "axis": AXIS,
        "axis_2": AXIS,
        "args": "{}",
    }
    return slice_points(pd.DataFrame([{**slice_row, "train_loss": SURFACE}]))


def a_slice(_grid: SweepTables) -> Figure:
    ax = Figure().subplots()
    contour(ax, points())
    return whole(ax)


def slices(grid: SweepTables) -> Figure:
    return slice_grid(points(), grid.cells, frame_of(grid), "train_loss", label="loss")


def whole(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


@pytest.mark.parametrize("draw", [a_diagram, differences, planes, a_slice, slices])
def test_no_two_ticks_of_a_colour_bar_read_alike(
    draw: Callable[[SweepTables], Figure], make_grid: MakeGrid
) -> None:
    figure = draw(make_grid())
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert bars
    for bar in bars:
        texts = [text.get_text() for text in bar.get_yticklabels()]
        assert len(texts) > 1
        assert len(set(texts)) == len(texts)
        read = np.array([float(text.replace("−", "-").removeprefix("> ")) for text in texts])
        ticks = bar.get_yticks()
        assert np.abs(read - ticks).max() <= np.diff(ticks).max() / 10


def test_the_numbers_beside_a_row_of_flat_planes_do_not_overlap() -> None:
    flat = {"axis": AXIS, "axis_2": [0.0, 0.1, 0.2], "train_loss": SURFACE, "line": ""}
    ends = {"seed_a": 0.0, "seed_b": 1.0, "points_u": [-1.0, 0.0, 1.0], "points_v": [0.0] * 3}
    head = "poisoned share 0.5, w0 θ0 w1"
    rows = pd.DataFrame([{"cell": cell, "head": head, **ends, **flat} for cell in range(4)])
    figure = plane_maps(rows, [Surface("train_loss", "loss", 5.0)], most=4, title="two\nlines")
    figure.draw_without_rendering()
    (bar,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    boxes = [text.get_window_extent() for text in bar.get_yticklabels()]
    assert len(boxes) > 1
    assert all(low.y1 <= high.y0 for low, high in pairwise(sorted(boxes, key=lambda b: b.y0)))


@pytest.mark.parametrize(
    ("ticks", "texts"),
    [
        ([1.0, 1.01, 1.02, 1.03], ["1", "1.01", "1.02", "1.03"]),
        ([1.001, 1.0025, 1.004], ["1.001", "1.0025", "1.004"]),
        ([-0.755, 0.0, 0.755], ["−0.755", "0", "0.755"]),
        ([0.0655, 0.1, 1.9481], ["0.0655", "0.1", "1.95"]),
        ([12345.0, 12346.0], ["12345", "12346"]),
        ([4.9312e-7, 1e-5, 3.3456e-4], ["4.93e−07", "1e−05", "0.000335"]),
        ([1.0, 1.0 + 2**-52], ["1", "1.0000000000000002"]),
    ],
)
def test_a_tick_has_three_digits_or_as_many_as_tell_it_apart(
    ticks: list[float], texts: list[str]
) -> None:
    assert tick_texts(ticks) == texts


def test_numbers_that_differ_by_rounding_alone_are_one_colour(make_grid: MakeGrid) -> None:
    table = aggregate(make_grid(), ["train_loss"])
    table["value"] = 1 + 1e-15 * np.arange(len(table))
    scale = colour_scale(table, QUANTITIES["length_ratio"])
    assert (scale.low, scale.high) == pytest.approx((0.5, 1.5))


@pytest.mark.parametrize(
    ("ends", "texts"),
    [
        ((0.8, 12.0), ["1", "2", "5", "10"]),
        ((1.5e-5, 6e-5), [r"$2\times10^{-5}$", r"$5\times10^{-5}$"]),
    ],
)
def test_numbers_on_a_log_axis_are_decimals_where_these_are_short(
    ends: tuple[float, float], texts: list[str]
) -> None:
    ax = Figure().subplots()
    ax.set_yscale("log")
    write_log_ticks(ax.yaxis)
    ax.set_ylim(ends)
    shown = zip(ax.get_yticks(), ax.yaxis.get_ticklabels(), strict=True)
    assert [text.get_text() for at, text in shown if ends[0] <= at <= ends[1]] == texts


def test_a_figure_grows_by_the_lines_of_a_long_heading() -> None:
    short, long = Figure(figsize=(4, 3)), Figure(figsize=(4, 3))
    write_heading(short, "two\nlines")
    write_heading(long, "two\nlines\nand\nmore")
    assert short.get_figheight() == 3
    assert long.get_figheight() == pytest.approx(3 + 2 * 1.25 * 11 / 72)
