"""Draw planes through networks side by side, as contours or as surfaces, a row of panels for each
column, with the networks that lie on them or near.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.names import HALO, lay_out
from phasegrid.analysis.draw.panels import grid_shape
from phasegrid.analysis.draw.plane_points import (
    FAR_FACE,
    TRAINING,
    draw_points,
    in_frame,
    legend_of,
    name_points,
    points_of,
)
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.analysis.draw.slices import (
    CONTOUR_COLOURS,
    bar_ticks,
    fill_plane,
    is_logarithmic,
    levels_between,
    mark_centre,
    points_of_slice,
    slice_limits,
)
from phasegrid.analysis.draw.ticks import tick_texts, write_bar_ticks
from phasegrid.figures.slices import SliceColumn
from phasegrid.texts import counted

View = Literal["contour", "surface"]
Row = Mapping[Any, Any]
Floats = npt.NDArray[np.float64]

SIZES: Mapping[View, tuple[float, float]] = {"contour": (2.9, 2.45), "surface": (3.0, 2.75)}
"""Inches of a panel."""


def slice_panels(
    rows: Sequence[Row],
    columns: Mapping[SliceColumn, str],
    *,
    view: View,
    most: int,
    columns_across: int | None = None,
    title: str = "",
) -> Figure:
    """Draw planes (rows of ``slice`` with ``head``, the names of both directions, ``first`` and
    ``second``, and those of the networks on it, ``names``) side by side, for each of `columns` with
    its label; of more than `most` an evenly spread selection.
    """
    shown = [rows[place] for place in spread_out(len(rows), most)]
    down, across = grid_shape(len(shown), 1, columns_across)
    wide, high = SIZES[view]
    size = (max(4.4, wide * across), high * down * len(columns) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    flat: list[tuple[Axes, Row]] = []
    for index, (column, label) in enumerate(columns.items()):
        for place, row in enumerate(shown):
            spot = (index * down + place // across) * across + place % across + 1
            kind = {"projection": "3d"} if view == "surface" else {}
            ax = figure.add_subplot(down * len(columns), across, spot, **kind)
            if isinstance(ax, Axes3D):
                draw_height(ax, row, column, label)
            else:
                draw_contour(ax, row, column, label)
                flat.append((ax, row))
    _write_legend(figure, [row for row in shown if row["points_u"]])
    left = len(rows) - len(shown)
    more = f"{counted(len(shown), 'plane')} of {len(rows)}" if left else ""
    write_heading(figure, "\n".join(filter(None, [title, more])))
    if flat:
        lay_out(figure)
    for ax, row in flat:
        if row["points_u"]:
            name_points(ax, row)
    return figure


def draw_contour(ax: Axes, row: Row, column: SliceColumn, label: str) -> Axes:
    """Draw a plane as filled contours with a colour bar of its own, and what lies on it."""
    points = points_of_slice(row)
    low, high = slice_limits(points, column)
    values = fill_plane(ax, points, column, (low, high))
    if values.count():
        figure = ax.get_figure()
        assert figure is not None
        _, norm = levels_between(low, high)
        bar = figure.colorbar(ScalarMappable(norm, CONTOUR_COLOURS), ax=ax, label=label)
        write_bar_ticks(bar, bar_ticks(low, high))
    if row["points_u"]:
        draw_points(ax, row)
    else:
        mark_centre(ax)
    ax.set_xlim(row["axis"][0], row["axis"][-1])
    ax.set_ylim(row["axis_2"][0], row["axis_2"][-1])
    ax.set_xlabel(row["first"])
    ax.set_ylabel(row["second"])
    write_title(ax, *_texts(row, int(values.size - values.count())))
    return ax


def draw_height(ax: Axes3D, row: Row, column: SliceColumn, label: str) -> Axes3D:
    """Draw a plane as a surface whose height is a column, on the scale of its colours, with the
    networks on it.
    """
    points = points_of_slice(row)
    low, high = slice_limits(points, column)
    _, norm = levels_between(low, high)
    log = is_logarithmic(low, high)
    grid = points.pivot(index="b", columns="a", values=column).sort_index().sort_index(axis=1)
    values = grid.to_numpy(dtype=float)
    a, b = (np.asarray(row[axis], dtype=float) for axis in ("axis", "axis_2"))
    x, y = np.meshgrid(a, b)
    z = np.log10(values) if log else values
    looks: Any = {"rcount": len(b), "ccount": len(a), "linewidth": 0.15, "edgecolor": "0.25"}
    colours = ScalarMappable(norm, CONTOUR_COLOURS).to_rgba(values)
    ax.plot_surface(x, y, z, facecolors=colours, shade=False, antialiased=True, **looks)
    _stand_networks(ax, row, (a, b, z))
    ticks = bar_ticks(low, high)
    ax.set_zticks([math.log10(tick) for tick in ticks] if log else ticks, tick_texts(ticks, 3))
    ax.locator_params(axis="x", nbins=5)
    ax.locator_params(axis="y", nbins=5)
    ax.tick_params(labelsize=6, pad=-2)
    ax.set_xlabel(row["first"], labelpad=-6)
    ax.set_ylabel(row["second"], labelpad=-6)
    ax.set_zlabel(label, labelpad=-5)
    ax.view_init(elev=32, azim=-60)
    write_title(ax, *_texts(row, int(np.isnan(values).sum())))
    return ax


def _stand_networks(ax: Axes3D, row: Row, surface: tuple[Floats, Floats, Floats]) -> None:
    """Mark networks on a surface, at the height of the nearest point of the grid."""
    a, b, z = surface
    if not row["points_u"]:
        return
    points = points_of(row)

    def height(u: float, v: float) -> float:
        return float(z[np.abs(b - v).argmin(), np.abs(a - u).argmin()])

    at = {
        place: (point.u, point.v, height(point.u, point.v))
        for place, point in enumerate(points)
        if in_frame(row, point)
    }
    for course in row["courses"]:
        there = [at[place] for place in course if place in at]
        if len(there) > 1:
            ax.plot(*zip(*there, strict=True), zorder=10, **TRAINING)
    for place, spot in at.items():
        face = FAR_FACE if points[place].is_far else "white"
        look: Any = {"markerfacecolor": face, "markeredgecolor": "black", "markersize": 3.5}
        ax.plot(*([value] for value in spot), "o", zorder=11, **look)
        ax.text(*spot, f" {points[place].text()}", fontsize=6, zorder=12, path_effects=HALO)


def _texts(row: Row, missing: int) -> tuple[str, str]:
    """Return the head of a panel and what is written below it."""
    directions = f"{row['first']} × {row['second']}"
    head = row["head"] or directions
    shape, share = row.get("shape"), row.get("measured_share")
    notes = [
        directions * (head != directions),
        shape.replace("_", " ") if isinstance(shape, str) else "",
        f"{share:.0%} measured" if share is not None and share < 1 else "",
        f"{missing} diverged" if missing else "",
    ]
    return head, ", ".join(filter(None, notes))


def _write_legend(figure: Figure, rows: Sequence[Row]) -> None:
    handles = legend_of(rows) if rows else []
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
