"""Draw planes through points in weight space: a map of the loss for each of some cells, with shared
levels, and with marks at the points that span the plane.
"""

import math
from collections.abc import Mapping, Sequence
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
from phasegrid.analysis.draw.panels import facet_title
from phasegrid.analysis.draw.scales import Frame
from phasegrid.analysis.draw.slices import CONTOUR_COLOURS, mark_missing
from phasegrid.analysis.draw.ticks import write_bar_ticks
from phasegrid.texts import counted

NUM_LEVELS = 9
RATIO = 300.0
"""The distance of the highest level from the lowest value, in units of that of the second level:
between the 740 for losses and the 110 for errors in the published code of Garipov et al. 2018.
"""
ACROSS = 4
PANEL = (2.6, 2.7)  # inches
MARKS = (("o", "ends"), ("D", "bends"))

Floats = npt.NDArray[np.float64]


def plane_maps(
    rows: pd.DataFrame,
    frame: Frame,
    column: str,
    label: str,
    *,
    cap: float,
    most: int,
    title: str = "",
) -> Figure:
    """Draw `column` of the first plane of each cell and way of measuring; if there are more than
    `most`, an evenly spread selection.

    `rows` are those of a metric such as ``plane``, with the place of their cell. Levels are close
    together near the lowest value and reach the highest, or `cap`; higher values have the last
    colour. `label` names the colours. Both axes are lengths in weight space, each on a scale of its
    own, because bends lie close to the line between the ends.

    Raises:
        ValueError: if there is no row.
    """
    first = _first(rows)
    shown = first.iloc[spread_out(len(first), most)].to_dict("records")
    surfaces = [_surface(row[column]) for row in shown]
    levels = plane_levels(surfaces, cap)
    above = any(bool((values > levels[-1]).any()) for values in surfaces)
    across = min(ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(
        figsize=(max(4.6, PANEL[0] * across + 1.0), PANEL[1] * down + 0.7), layout="constrained"
    )
    axes = figure.subplots(down, across, squeeze=False)
    several = first["variant"].nunique() > 1
    for ax, row, values in zip(axes.flat, shown, surfaces, strict=False):
        _draw(ax, row, values, levels, _place(row, frame), several)
    for ax in list(axes.flat)[len(shown) :]:
        ax.remove()
    colours = ScalarMappable(_norm(levels), CONTOUR_COLOURS)
    bar = figure.colorbar(
        colours, ax=list(figure.axes), label=label, extend="max" if above else "neither", aspect=30
    )
    write_bar_ticks(bar, list(levels), digits=2)
    marks, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(marks, texts, loc="outside lower center", ncols=2)
    write_heading(figure, "\n".join(filter(None, [title, _counts(label, len(shown), len(first))])))
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


def _draw(
    ax: Axes,
    row: Mapping[Any, Any],
    values: Floats,
    levels: Floats,
    place: str,
    several: bool,
) -> None:
    u, v = (np.asarray(row[axis], dtype=float) for axis in ("axis", "axis_2"))
    mark_missing(ax)
    masked = np.ma.masked_invalid(values)
    if masked.count():
        ax.contourf(u, v, masked, levels, norm=_norm(levels), cmap=CONTOUR_COLOURS, extend="max")
        ax.contour(u, v, masked, levels[1:], colors="white", linewidths=0.5, alpha=0.8)
    points_u, points_v = (np.asarray(row[f"points_{axis}"], dtype=float) for axis in "uv")
    inner = np.arange(len(points_u)) % (len(points_u) - 1) > 0
    for (mark, text), chosen in zip(MARKS, (~inner, inner), strict=True):
        ax.scatter(
            points_u[chosen],
            points_v[chosen],
            marker=mark,
            s=22,
            color="white",
            edgecolors="black",
            linewidths=0.8,
            zorder=3,
            label=text,
        )
    ax.set_xlabel("u, from end to end")
    ax.set_ylabel("v, at right angles")
    missing = int(masked.size - masked.count())
    seeds = [f"{row[name]:.0f}" for name in ("seed_a", "seed_b") if not pd.isna(row[name])]
    notes = [
        f"seed{'s' * (len(seeds) > 1)} {' and '.join(seeds)}" if seeds else "",
        (row["variant"] or "as declared") if several else "",
        f"stage={row['stage']}" if _has_unnamed_stage(row, several) else "",
        f"{len(u)} × {len(v)} points",
        f"{missing} diverged" if missing else "",
    ]
    write_title(ax, place, ", ".join(filter(None, notes)))


def _has_unnamed_stage(row: Mapping[Any, Any], variant_shown: bool) -> bool:
    """Say whether a map is of a stage that its way of measuring, if it is shown, does not name."""
    named = variant_shown and "stage=" in row["variant"]
    return not pd.isna(row.get("stage")) and not named


def _norm(levels: Floats) -> BoundaryNorm:
    return BoundaryNorm(list(levels), colormaps[CONTOUR_COLOURS].N, extend="max")


def _first(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each cell and way of measuring, that of the first seeds, in the order of
    cells.
    """
    return rows.sort_values(["cell", "variant", "seed_a", "seed_b"]).drop_duplicates(
        ["cell", "variant"]
    )


def _place(row: Mapping[Any, Any], frame: Frame) -> str:
    axes = ((frame.load, row["load_label"]), (frame.temperature, row["temperature_label"]))
    named = [f"{axis.name} {label}" for axis, label in axes if axis.name]
    facet = facet_title(str(row["facet"]))
    return ", ".join([facet] * bool(facet) + named) or f"cell {row['cell']}"


def _surface(grid: object) -> Floats:
    """Return a stored grid (V, U), with NaN for null."""
    lines = [[np.nan if x is None else x for x in line] for line in grid]  # type: ignore[attr-defined]
    return np.asarray(lines, dtype=float)


def _counts(label: str, shown: int, there: int) -> str:
    planes = counted(shown, "plane")
    return f"{label}; {planes}" + (f" of {there}" if shown < there else "")
