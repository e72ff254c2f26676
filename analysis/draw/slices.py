"""Draw slices through loss landscapes from a table: contours of planes, profiles of lines."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.line_looks import line_look
from phasegrid.analysis.draw.style import MISSING
from phasegrid.analysis.draw.ticks import write_bar_ticks, write_log_ticks
from phasegrid.analysis.tables.quantities import BUILT_IN, NATS, in_units
from phasegrid.declare import Shown
from phasegrid.figures.slices import SliceColumn
from phasegrid.texts import counted

COLUMNS: tuple[SliceColumn, ...] = get_args(SliceColumn)
"""The columns of a slice that can be drawn."""

EXTEND: dict[tuple[bool, bool], Literal["neither", "both", "min", "max"]] = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}
"""The marks of a colour bar for values below or above its limits."""

_IN_NATS = in_units(BUILT_IN, NATS)["slice"]

CONTOUR_COLOURS = "viridis_r"
NUM_LEVELS = 20
TICK_ROOM = 0.07
"""The least distance of two ticks, as a share of the colour bar."""

LOG_RATIO = 10.0
"""A loss that spans more than this factor is drawn on a logarithmic scale, as Li et al. 2018 do for
exploding losses.
"""


def slice_points(rows: pd.DataFrame, cells: Sequence[int] | None = None) -> pd.DataFrame:
    """Return the points of stored slices: cell, seed, dimensions, args, a, b (0 on a line) and
    `COLUMNS`, NaN at diverged points.

    `rows` are the rows of the metric ``slice`` from `Results.metric` for a sweep, measured in one
    way (one text of ``args``); rows without a result are left out. `cells`: only these, in this
    order (default: all, ascending).
    """
    parts = [
        points_of_slice(row)
        for row in rows.to_dict("records")
        if row["outcome"] == "done" and (cells is None or row["cell"] in cells)
    ]
    if not parts:
        return pd.DataFrame(columns=["cell", "seed", "dimensions", "args", "a", "b", *COLUMNS])
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
    label: str = "",
    colour_bar: bool = True,
    level_labels: bool = False,
) -> Axes:
    """Draw one plane, the points of one trial, as filled contours; the cross in the middle marks
    the trained weights.

    Colours cover the finite values, or the `limits` that figures share; they are logarithmic if
    these span more than a factor 10. White lines are at round levels, with numbers if
    `level_labels`. Points at which the network diverged are hatched, with their surroundings.
    `label` names the colours (default: as declared, for losses in nats).
    """
    label = label or slice_label(column)
    low, high = limits or slice_limits(points, column)
    values = fill_plane(ax, points, column, (low, high), level_labels=level_labels)
    if colour_bar and values.count():
        figure = ax.get_figure()
        assert figure is not None
        _, norm = levels_between(low, high)
        shades = ScalarMappable(norm, CONTOUR_COLOURS)
        bar = figure.colorbar(shades, ax=ax, label=label)
        write_bar_ticks(bar, bar_ticks(low, high))
    mark_centre(ax)
    ax.set_aspect("equal")
    ax.set_xlabel(direction_label(points["args"].unique()))
    ax.set_ylabel("along direction 2")
    write_title(ax, title or label, _caption(values))
    return ax


def fill_plane(
    ax: Axes,
    points: pd.DataFrame,
    column: SliceColumn,
    limits: tuple[float, float],
    *,
    level_labels: bool = False,
) -> "np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]":
    """Draw the contours of one plane on an axes, and return its values; hatch missing values."""
    grid = points.pivot(index="b", columns="a", values=column).sort_index().sort_index(axis=1)
    values = np.ma.masked_invalid(grid.to_numpy(dtype=float))
    mark_missing(ax)
    if not values.count():
        return values
    low, high = limits
    levels, norm = levels_between(low, high)
    a, b = grid.columns.to_numpy(dtype=float), grid.index.to_numpy(dtype=float)
    extend = EXTEND[bool(values.min() < low), bool(values.max() > high)]
    ax.contourf(a, b, values, levels, norm=norm, cmap=CONTOUR_COLOURS, extend=extend)
    lines = ax.contour(
        a, b, values, round_levels(low, high), colors="white", linewidths=0.5, alpha=0.8
    )
    if level_labels:
        ax.clabel(lines, fontsize=6, fmt=lambda level: f"{level:g}")
    return values


def mark_missing(ax: Axes) -> None:
    """Hatch the background of an Axes, which shows where numbers are missing."""
    ax.patch.set(hatch=MISSING.hatch, facecolor=MISSING.facecolor, edgecolor=MISSING.edgecolor)


def mark_centre(ax: Axes, size: float = 7) -> None:
    """Mark the trained weights."""
    ax.plot([0], [0], marker="+", color="#c0643a", markersize=size, markeredgewidth=1.2)


def profile(
    ax: Axes,
    points: pd.DataFrame,
    *,
    column: SliceColumn = "train_loss",
    labels: Mapping[int, str] | None = None,
    chance: float | None = None,
    by_seed: bool = False,
    title: str = "",
    label: str = "",
) -> Axes:
    """Draw lines through the weights of one or several trials (for a plane, b = 0), with a look of
    its own per cell, or per seed of one cell (`by_seed`).

    `labels` name the cells. Dotted: `chance`, the loss of a network that knows nothing, ln C for C
    classes (Xu et al. 2024, Fig. 2). Diverged points leave gaps. The scale is logarithmic if the
    values span more than a factor 10. `label` names the values, as in `contour`.
    """
    label = label or slice_label(column)
    middle = points[points["b"] == 0]
    what = "seed" if by_seed else "cell"
    groups = list(dict.fromkeys(middle[what]))
    shades = colormaps["viridis"](np.linspace(0.1, 0.85, max(len(groups), 2)))
    for _, line in middle.groupby(["cell", "seed"], sort=False):
        one = int(line[what].iloc[0])
        name = (labels or {}).get(one, f"{what} {one}")
        line = line.sort_values("a")
        place = groups.index(one)
        look = line_look(place, len(groups), shades[place], len(line))
        ax.plot(line["a"], line[column], label=name, **look)
    if chance is not None:
        ax.axhline(chance, color="0.2", linewidth=0.8, linestyle=":")
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    low, high = slice_limits(middle, column)
    if is_logarithmic(low, high):
        ax.set_yscale("log")
        write_log_ticks(ax.yaxis)
    ax.set_xlabel(direction_label(points["args"].unique()))
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1 or labels:
        _name_cells(ax)
    num = middle.groupby(["cell", "seed"]).ngroups
    note = (
        f"{counted(num, 'trial')};"
        f" {_caption(np.ma.masked_invalid(middle[column].to_numpy(dtype=float)))}"
    )
    write_title(ax, title or label, note)
    return ax


def direction_label(args: Iterable[str]) -> str:
    """Name the first axis of slices by the arguments of their measurements, JSON texts.

    >>> direction_label(['{"directions":"weights"}']), direction_label(['{"directions":"random"}'])
    ('x in (1 + x) w', 'along direction 1')
    """
    along = {json.loads(text).get("directions") for text in args}
    return "x in (1 + x) w" if along == {"weights"} else "along direction 1"


def slice_label(column: SliceColumn, declared: Shown = _IN_NATS) -> str:
    """Return the label and the unit that the metric declares for a column of slices.

    >>> slice_label("train_loss")
    'training loss (nats)'
    """
    return next(one.title() for one in declared.columns if one.name == column)


def slice_limits(points: pd.DataFrame, column: SliceColumn) -> tuple[float, float]:
    """Return the smallest and the largest finite value of some slices; (0, 1) if there is none, a
    little wider if there is only one.
    """
    values = points[column].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def points_of_slice(row: Mapping[Any, Any]) -> pd.DataFrame:
    """Return the points of one stored slice, as `slice_points`."""
    a = np.asarray(row["axis"], dtype=float)
    second = row["axis_2"]
    b = np.zeros(1) if not isinstance(second, (list, np.ndarray)) else np.asarray(second, float)
    table = {
        "cell": row["cell"],
        "seed": row["seed_a"],
        "dimensions": 1 if len(b) == 1 else 2,
        "args": row["args"],
        "a": np.tile(a, len(b)),
        "b": np.repeat(b, len(a)),
    }
    for column in COLUMNS:
        table[column] = _flat(row.get(column), len(a) * len(b))
    return pd.DataFrame(table)


def _flat(grid: object, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return a stored grid row after row, with NaN for null; all NaN if nothing was measured."""
    if not isinstance(grid, (list, np.ndarray)):
        return np.full(size, np.nan)
    flat = [np.nan if value is None else value for line in grid for value in line]
    return np.asarray(flat, dtype=float)


def is_logarithmic(low: float, high: float) -> bool:
    """Say whether values between these limits are drawn on a logarithmic scale."""
    return low > 0 and high > LOG_RATIO * low


def levels_between(
    low: float, high: float
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], Normalize]:
    """Return the levels at which colours change, and the scale of the colours."""
    if is_logarithmic(low, high):
        return np.geomspace(low, high, NUM_LEVELS), LogNorm(low, high)
    return np.linspace(low, high, NUM_LEVELS), Normalize(low, high)


def round_levels(low: float, high: float) -> list[float]:
    """Return a few round numbers between two limits.

    >>> round_levels(0.04, 3.0), round_levels(0.0, 90.0)
    ([0.05, 0.1, 0.2, 0.5, 1.0, 2.0], [20.0, 40.0, 60.0, 80.0])
    """
    if is_logarithmic(low, high):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if len(powers) <= 5 else (1,)
        found = [float(f"{step}e{power}") for power in powers for step in steps]
    else:
        found = [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]
    return [level for level in found if low < level < high]


def bar_ticks(low: float, high: float) -> list[float]:
    """Return both limits of a colour bar and the round levels with room between them."""
    _, norm = levels_between(low, high)
    ticks = [low, high]
    for level in round_levels(low, high):
        if all(abs(float(norm(level)) - float(norm(tick))) > TICK_ROOM for tick in ticks):
            ticks.append(level)
    return sorted(ticks)


def _name_cells(ax: Axes) -> None:
    """Put each label into the legend once, although a cell has a line for every seed."""
    handles, texts = ax.get_legend_handles_labels()
    once = dict(zip(texts, handles, strict=True))
    ax.legend(once.values(), once.keys())


def _caption(values: np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    missing = int(values.size - values.count())
    return f"{values.size} points" + (f", {missing} diverged" if missing else "")
