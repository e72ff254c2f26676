"""Slices through loss landscapes: contours of planes, profiles of lines. Table in, Axes out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.panels import grid_shape
from phasegrid.analysis.draw.style import MISSING

SliceColumn = Literal["train_loss", "train_error_percent", "test_loss", "test_error_percent"]

COLUMNS: dict[SliceColumn, str] = {
    "train_loss": "training loss (nats)",
    "train_error_percent": "training error (%)",
    "test_loss": "test loss (nats)",
    "test_error_percent": "test error (%)",
}
"""What can be drawn of a slice, and how its axis or colour bar is called."""

EXTEND: dict[tuple[bool, bool], Literal["neither", "both", "min", "max"]] = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}
"""How a colour bar says that values lie below or above its limits."""

NUM_LEVELS = 20
LOG_RATIO = 10.0
"""A loss that spans more than this factor is drawn on a logarithmic scale, as Li et al. 2018 do
where it explodes.
"""
PANEL = (3.3, 2.9)  # inches


def slice_points(rows: pd.DataFrame, cells: Sequence[int] | None = None) -> pd.DataFrame:
    """Return the points of stored slices: cell, seed, dimensions, a, b (0 on a line) and `COLUMNS`,
    NaN where a point diverged.

    `rows` are those of the metric ``slice`` as `Results.metric` gives them for a sweep, measured in
    one way (one text of ``args``); those without a result are left out. `cells`: only these, in
    this order (default: all, ascending).
    """
    parts = [
        _points_of(row)
        for row in rows.to_dict("records")
        if row["outcome"] == "done" and (cells is None or row["cell"] in cells)
    ]
    if not parts:
        return pd.DataFrame(columns=["cell", "seed", "dimensions", "a", "b", *COLUMNS])
    points = pd.concat(parts, ignore_index=True)
    order = sorted(set(points["cell"])) if cells is None else cells
    place = points["cell"].map({cell: i for i, cell in enumerate(order)})
    return points.loc[place.sort_values(kind="stable").index].reset_index(drop=True)


def contour(
    ax: Axes,
    points: pd.DataFrame,
    *,
    column: SliceColumn = "train_loss",
    limits: tuple[float, float] | None = None,
    title: str = "",
    colour_bar: bool = True,
) -> Axes:
    """Draw one plane, the points of one trial, as filled contours; the trained weights are the
    cross in the middle.

    Colours run over the finite values, or `limits` to share them; logarithmic where these span more
    than a factor 10. Points where the network diverged, and what touches them, are hatched.
    """
    grid = points.pivot(index="b", columns="a", values=column).sort_index().sort_index(axis=1)
    values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
    low, high = limits or slice_limits(points, column)
    levels, norm = _levels(low, high)
    ax.patch.set(hatch=MISSING.hatch, facecolor=MISSING.facecolor, edgecolor=MISSING.edgecolor)
    a, b = grid.columns.to_numpy(dtype=float), grid.index.to_numpy(dtype=float)
    if values.count():
        extend = EXTEND[bool(values.min() < low), bool(values.max() > high)]
        filled = ax.contourf(a, b, values, levels, norm=norm, cmap="viridis_r", extend=extend)
        lines = levels[:: max(1, NUM_LEVELS // 5)]
        ax.contour(a, b, values, lines, colors="white", linewidths=0.4, alpha=0.7)
        if colour_bar:
            assert ax.figure is not None
            bar = ax.figure.colorbar(filled, ax=ax, label=COLUMNS[column])
            _write_ticks(bar.ax, low, high, isinstance(norm, LogNorm))
    ax.plot([0], [0], marker="+", color="#c0643a", markersize=7, markeredgewidth=1.2)
    ax.set_aspect("equal")
    ax.set_xlabel("along direction 1")
    ax.set_ylabel("along direction 2")
    write_title(ax, title or COLUMNS[column], _caption(values))
    return ax


def profile(
    ax: Axes,
    points: pd.DataFrame,
    *,
    column: SliceColumn = "train_loss",
    labels: Mapping[int, str] | None = None,
    chance: float | None = None,
    title: str = "",
) -> Axes:
    """Draw lines through the weights of one or several trials: the middle of a plane (b = 0), a
    colour per cell.

    `labels` name the cells. Dotted: `chance`, what a network that knows nothing has, ln C for C
    classes (Xu et al. 2024, Fig. 2). Points that diverged are gaps. Logarithmic where the values
    span more than a factor 10.
    """
    middle = points[points["b"] == 0]
    cells = list(dict.fromkeys(middle["cell"]))
    shades = colormaps["viridis"](np.linspace(0.1, 0.85, max(len(cells), 2)))
    for _, line in middle.groupby(["cell", "seed"], sort=False):
        cell = int(line["cell"].iloc[0])
        name = (labels or {}).get(cell, f"cell {cell}")
        line = line.sort_values("a")
        shade = shades[cells.index(cell)]
        ax.plot(line["a"], line[column], color=shade, linewidth=1.0, label=name)
    if chance is not None:
        ax.axhline(chance, color="0.2", linewidth=0.8, linestyle=":")
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    low, high = slice_limits(middle, column)
    if _is_log(low, high):
        ax.set_yscale("log")
    ax.set_xlabel("along direction 1")
    ax.set_ylabel(COLUMNS[column])
    ax.spines[["top", "right"]].set_visible(False)
    if len(cells) > 1 or labels:
        _name_cells(ax)
    num = middle.groupby(["cell", "seed"]).ngroups
    note = (
        f"{num} trial{'s' * (num != 1)};"
        f" {_caption(np.ma.masked_invalid(middle[column].to_numpy(dtype=float)))}"
    )
    write_title(ax, title or COLUMNS[column], note)
    return ax


def slice_panels(
    points: pd.DataFrame,
    *,
    column: SliceColumn = "train_loss",
    labels: Mapping[int, str] | None = None,
    title: str = "",
) -> Figure:
    """Draw the planes of several cells side by side on one colour scale, of each cell the first
    seed; `labels` name them.
    """
    first = points.groupby("cell")["seed"].transform("min")
    chosen = points[(points["seed"] == first) & (points["dimensions"] == 2)]
    cells = list(dict.fromkeys(chosen["cell"]))
    rows, across = grid_shape(max(len(cells), 1), 1)
    figure = Figure(
        figsize=(PANEL[0] * across, PANEL[1] * rows + 0.3 * bool(title)), layout="constrained"
    )
    axes = figure.subplots(rows, across, squeeze=False)
    limits = slice_limits(chosen, column)
    for ax, cell in zip(axes.flat, cells, strict=False):
        name = (labels or {}).get(cell, f"cell {cell}")
        plane = chosen[chosen["cell"] == cell]
        last = cell == cells[-1]
        contour(ax, plane, column=column, limits=limits, title=name, colour_bar=last)
    for ax in axes.flat[len(cells) :]:
        ax.remove()
    write_heading(figure, title)
    return figure


def slice_limits(points: pd.DataFrame, column: SliceColumn) -> tuple[float, float]:
    """Return the smallest and the largest finite value of some slices; (0, 1) where there is none,
    a little room for one.
    """
    values = points[column].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _points_of(row: Mapping[Any, Any]) -> pd.DataFrame:
    a = np.asarray(row["axis"], dtype=float)
    second = row["axis_2"]
    b = np.zeros(1) if not isinstance(second, (list, np.ndarray)) else np.asarray(second, float)
    table = {
        "cell": row["cell"],
        "seed": row["seed_a"],
        "dimensions": 1 if len(b) == 1 else 2,
        "a": np.tile(a, len(b)),
        "b": np.repeat(b, len(a)),
    }
    for column in COLUMNS:
        table[column] = _flat(row.get(column), len(a) * len(b))
    return pd.DataFrame(table)


def _flat(grid: object, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return a stored grid row after row; NaN for what is null, all of it where nothing was
    measured.
    """
    if not isinstance(grid, (list, np.ndarray)):
        return np.full(size, np.nan)
    flat = [np.nan if value is None else value for line in grid for value in line]
    return np.asarray(flat, dtype=float)


def _is_log(low: float, high: float) -> bool:
    return low > 0 and high > LOG_RATIO * low


def _levels(
    low: float, high: float
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], Normalize]:
    if _is_log(low, high):
        return np.geomspace(low, high, NUM_LEVELS), LogNorm(low, high)
    return np.linspace(low, high, NUM_LEVELS), Normalize(low, high)


def _write_ticks(bar: Axes, low: float, high: float, log: bool) -> None:
    """Mark both limits and the geometric or arithmetic middle of a colour bar."""
    middle = float(np.sqrt(low * high)) if log else (low + high) / 2
    bar.set_yticks([low, middle, high], labels=[f"{tick:.3g}" for tick in (low, middle, high)])
    bar.yaxis.set_minor_formatter(NullFormatter())


def _name_cells(ax: Axes) -> None:
    """Put each label once into the legend, though a cell has a line for every seed."""
    handles, texts = ax.get_legend_handles_labels()
    once = dict(zip(texts, handles, strict=True))
    ax.legend(once.values(), once.keys())


def _caption(values: np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    missing = int(values.size - values.count())
    return f"{values.size} points" + (f", {missing} diverged" if missing else "")
