"""Draw planes through points in weight space: maps of what was measured on them, a row of panels
for each quantity, with shared levels and with marks at the points that lie on them or near.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.line_panels import LETTER
from phasegrid.analysis.draw.names import lay_out
from phasegrid.analysis.draw.plane_points import (
    draw_points,
    in_frame,
    legend_of,
    name_points,
    points_of,
)
from phasegrid.analysis.draw.slices import CONTOUR_COLOURS, mark_missing
from phasegrid.analysis.draw.ticks import tick_texts, write_bar_ticks
from phasegrid.texts import counted

NUM_LEVELS = 9
RATIO = 300.0
"""The distance of the highest level from the lowest value, in units of that of the second level:
between the 740 for losses and the 110 for errors in the published code of Garipov et al. 2018.
"""
ACROSS = 4
WIDTH = 2.75  # inches of a panel
SHAPES = (0.28, 1.6)
"""The least and the greatest height of maps whose two axes have one scale, as shares of their
width.
"""
STRETCHED = 0.65
"""The height of maps whose axes have scales of their own: the colour bar beside them has room for
its numbers.
"""
AXES = "u, v: distances in weight space"
OWN_SCALE = f"{AXES}, v on a scale of its own"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Surface:
    """A column that is drawn, what names its colours, and the highest level."""

    column: str
    label: str
    cap: float


def plane_maps(
    rows: pd.DataFrame, surfaces: Sequence[Surface], *, most: int, title: str = ""
) -> Figure:
    """Draw columns of the first plane of each cell and way of measuring (of more than `most`, an
    evenly spread selection): the planes side by side, each of `surfaces` below the one before.

    `rows` are those of a metric such as ``plane``, in the order of the panels; `head` names a
    panel, `line` its way of measuring, and `names` its points. The panels of a surface share their
    levels, which are close together near the lowest value and end at the highest, or at its `cap`;
    higher values have the last colour. Axes are lengths in weight space, on one scale; if any map
    would then be a strip (`SHAPES`), v has its own in all.

    Raises:
        ValueError: if there is no row.
    """
    first = rows.drop_duplicates(["cell", "line"])
    shown = first.iloc[spread_out(len(first), most)].to_dict("records")
    down = math.ceil(len(shown) / ACROSS)
    across = math.ceil(len(shown) / down)
    ratios = [_ratio(row) for row in shown]
    stretched = not all(SHAPES[0] < ratio < SHAPES[1] for ratio in ratios)
    high = WIDTH * (STRETCHED if stretched else max(ratios)) + 0.95
    figure = Figure(
        figsize=(max(4.6, WIDTH * across + 1.0), high * down * len(surfaces) + 0.8),
        layout="constrained",
    )
    axes = figure.subplots(down * len(surfaces), across, squeeze=False)
    for index, surface in enumerate(surfaces):
        own = list(axes[index * down : (index + 1) * down].flat)
        _draw_surface(figure, own[: len(shown)], shown, surface, stretched)
        for ax in own[len(shown) :]:
            ax.remove()
    handles = legend_of(shown)
    letters = max(len(str(handle.get_label())) for handle in handles) + 9
    fitting = max(1, min(ACROSS, int(figure.get_figwidth() / (LETTER * letters))))
    figure.legend(handles=handles, loc="outside lower center", ncols=fitting)
    counts = f"{_counts(surfaces, len(shown), len(first))}; {OWN_SCALE if stretched else AXES}"
    write_heading(figure, f"{title}\n{counts}" if title else counts)
    lay_out(figure)
    for place, ax in enumerate(axes.flat):
        if ax.figure is not None:
            name_points(ax, shown[place % (down * across)])
    return figure


def plane_levels(surfaces: Sequence[Floats], cap: float) -> Floats:
    """Return the levels at which colours change: low + (high - low) r^(k/K - 1) for k = 0 to K, r =
    `RATIO`, and low itself, where low is the lowest value, and high the highest or the cap.

    >>> plane_levels([np.array([[1.0, 301.0]])], 1e9).round(1).tolist()[:4]
    [1.0, 2.0, 3.0, 5.2]
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in surfaces])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    high = min(high, cap) if cap > low else high
    if not high > low:
        high = low + 1.0
    steps = np.geomspace(1 / RATIO, 1.0, NUM_LEVELS)
    return np.concatenate([[low], low + (high - low) * steps])


def spread_out(num: int, most: int) -> list[int]:
    """Return the places of at most `most` of `num` things, evenly spread from the first to the
    last.

    >>> spread_out(5, 3)
    [0, 2, 4]
    """
    return [round(float(place)) for place in np.linspace(0, num - 1, min(num, most))]


def _draw_surface(
    figure: Figure,
    axes: Sequence[Axes],
    rows: Sequence[Mapping[Any, Any]],
    surface: Surface,
    stretched: bool,
) -> None:
    """Draw one quantity of some planes on shared levels, with its colour bar."""
    grids = [_grid(row, surface.column) for row in rows]
    levels = plane_levels(grids, surface.cap)
    above = any(bool((values > levels[-1]).any()) for values in grids)
    for ax, row, values in zip(axes, rows, grids, strict=True):
        _draw(ax, row, values, levels)
        ax.set_aspect("auto" if stretched else "equal")
    colours = ScalarMappable(_norm(levels), CONTOUR_COLOURS)
    extend = "max" if above else "neither"
    bar = figure.colorbar(
        colours, ax=list(axes), label=surface.label, extend=extend, fraction=0.04, pad=0.02
    )
    write_bar_ticks(bar, list(levels), digits=2)
    if above:
        *lower, highest = tick_texts(list(levels), 2)
        bar.set_ticks(list(levels), labels=[*lower, f"> {highest}"])


def _draw(ax: Axes, row: Mapping[Any, Any], values: Floats, levels: Floats) -> None:
    u, v = (np.asarray(row[axis], dtype=float) for axis in ("axis", "axis_2"))
    mark_missing(ax)
    masked = np.ma.masked_invalid(values)
    if masked.count():
        ax.contourf(u, v, masked, levels, norm=_norm(levels), cmap=CONTOUR_COLOURS, extend="max")
        ax.contour(u, v, masked, levels[1:], colors="white", linewidths=0.5, alpha=0.8)
    ax.set_xlim(u[0], u[-1])
    ax.set_ylim(v[0], v[-1])
    draw_points(ax, row)
    ax.set_xlabel("u")
    ax.set_ylabel("v")
    write_title(ax, row["head"], ", ".join(filter(None, _notes(row, masked))))


def _notes(row: Mapping[Any, Any], values: "np.ma.MaskedArray[Any, Any]") -> list[str]:
    """Say which networks a map is of, how fine it is, and what does not lie on it."""
    seeds = [f"{row[name]:.0f}" for name in ("seed_a", "seed_b") if not pd.isna(row[name])]
    missing = int(values.size - values.count())
    points = points_of(row)
    farthest = max((point.distance for point in points), default=0.0)
    outside = sum(not in_frame(row, point) for point in points)
    return [
        f"seed{'s' * (len(seeds) > 1)} {' and '.join(seeds)}" if seeds else "",
        f"{values.shape[1]} × {values.shape[0]} points",
        f"{missing} diverged" if 0 < missing < values.size else "not measured" * (missing > 0),
        f"up to {farthest:.2g} off" if farthest > 0 else "",
        f"{outside} outside" if outside else "",
    ]


def _norm(levels: Floats) -> BoundaryNorm:
    return BoundaryNorm(list(levels), colormaps[CONTOUR_COLOURS].N, extend="max")


def _ratio(row: Mapping[Any, Any]) -> float:
    u, v = row["axis"], row["axis_2"]
    return float((v[-1] - v[0]) / (u[-1] - u[0]))


def _grid(row: Mapping[Any, Any], column: str) -> Floats:
    """Return a stored grid (V, U), with NaN for null and where nothing is stored."""
    found = row.get(column)
    if not isinstance(found, (list, np.ndarray)):
        return np.full((len(row["axis_2"]), len(row["axis"])), np.nan)
    lines = [[np.nan if x is None else x for x in line] for line in found]
    return np.asarray(lines, dtype=float)


def _counts(surfaces: Sequence[Surface], shown: int, there: int) -> str:
    labels = ", ".join(surface.label for surface in surfaces)
    return f"{labels}; {counted(shown, 'plane')}" + (f" of {there}" if shown < there else "")
