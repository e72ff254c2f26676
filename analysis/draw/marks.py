"""Draw small marks on the cells of a diagram: a triangle where seeds collapsed, a dot where two
sweeps differ.
"""

from collections.abc import Iterable
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path

from phasegrid.analysis.draw.scales import Frame, GridAxis

CORNER = Path([(0, 0), (-1, 0), (0, -1), (0, 0)], closed=True)
"""A triangle that fills the upper right corner of a cell whose corner is at the origin."""
COLLAPSED = "some seeds collapsed (learned nothing)"
LARGEST, SMALLEST = 6.0, 2.2  # points


def mark_collapsed(ax: Axes, table: pd.DataFrame, frame: Frame) -> None:
    """Put a filled triangle in the upper right corner of every cell with ``n_collapsed`` above
    zero.
    """
    cells = table[table["n_collapsed"] > 0]
    if cells.empty:
        return
    x = [_end(frame.load, str(label)) for label in cells["load_label"]]
    y = [_end(frame.temperature, str(label)) for label in cells["temperature_label"]]
    size = _fitting(ax, frame, 0.45)
    ax.scatter(
        x,
        y,
        # A marker's longest reach is scaled to sqrt(s) / 2, so sqrt(s) is twice the wanted size.
        s=(2 * size) ** 2,
        marker=CORNER,
        color="black",
        edgecolors="white",
        linewidths=0.4,
        zorder=2.5,
        gid="collapsed",
    )


def mark_cells(ax: Axes, cells: pd.DataFrame, frame: Frame) -> None:
    """Put a dot in the middle of every cell of a table."""
    if cells.empty:
        return
    x = [_centre(frame.load, str(label)) for label in cells["load_label"]]
    y = [_centre(frame.temperature, str(label)) for label in cells["temperature_label"]]
    ax.scatter(
        x,
        y,
        s=_fitting(ax, frame, 0.28) ** 2,
        color="black",
        edgecolors="white",
        linewidths=0.4,
        zorder=2.5,
        gid="differs",
    )


def collapsed_handle() -> Line2D:
    """Return the legend of the triangle."""
    return Line2D(
        [], [], linestyle="none", marker=CORNER, color="black", markersize=9, label=COLLAPSED
    )


def dot_handle(label: str) -> Line2D:
    """Return the legend of the dot."""
    return Line2D([], [], linestyle="none", marker="o", color="black", markersize=3.5, label=label)


def _fitting(ax: Axes, frame: Frame, share: float) -> float:
    """Return, within bounds, a `share` of the thinnest cell in points, for the layout so far."""
    box, figure = ax.get_position(), ax.get_figure(root=True)
    assert figure is not None
    wide = _thinnest(frame.load) * box.width * figure.get_figwidth() * 72
    high = _thinnest(frame.temperature) * box.height * figure.get_figheight() * 72
    return min(LARGEST, max(SMALLEST, share * min(wide, high)))


def _thinnest(axis: GridAxis) -> float:
    ends: Iterable[tuple[float, float]] = pairwise(axis.edges)
    return min(abs(axis.fraction(high) - axis.fraction(low)) for low, high in ends)


def _end(axis: GridAxis, label: str) -> float:
    """Return the far edge of a cell in the direction of drawing: right, or top."""
    i = axis.index(label)
    return axis.edges[i] if axis.inverted else axis.edges[i + 1]


def _centre(axis: GridAxis, label: str) -> float:
    """Return the middle of a drawn cell: halfway between its edges on the scale of the axis."""
    low, high = axis.edges[axis.index(label) : axis.index(label) + 2]
    return (low * high) ** 0.5 if axis.spacing == "log" else (low + high) / 2
