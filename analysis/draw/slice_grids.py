"""Draw the slices of all cells in a grid of small plots, placed like the cells of a diagram; or
those of one cell, large.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure

from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.panels import facet_title
from phasegrid.analysis.draw.scales import Frame
from phasegrid.analysis.draw.slices import (
    CONTOUR_COLOURS,
    bar_ticks,
    contour,
    fill_plane,
    is_logarithmic,
    levels_between,
    mark_centre,
    mark_missing,
    profile,
    slice_label,
    slice_limits,
)
from phasegrid.analysis.draw.ticks import write_bar_ticks
from phasegrid.figures.slices import SliceColumn

SMALL = 1.15  # inches
LARGE = (5.2, 4.4)
MARGIN = (1.5, 1.1)
LINE_COLOUR = "#17606e"


def slice_grid(
    points: pd.DataFrame,
    cells: pd.DataFrame,
    frame: Frame,
    column: SliceColumn,
    *,
    title: str = "",
    label: str = "",
) -> Figure:
    """Draw the slices of every cell at its place in a diagram, all on one scale, with facets side
    by side: planes of the first seed, or lines of every seed.

    Cells without slices are hatched. The trained weights are at the cross, or at the middle of a
    line. `label` names the values, as in `contour`.
    """
    label = label or slice_label(column)
    facets = list(dict.fromkeys(cells["facet"]))
    across, tall = len(frame.load.labels), len(frame.temperature.labels)
    size = (
        SMALL * across * len(facets) + MARGIN[0],
        SMALL * tall + MARGIN[1] + 0.35 * bool(title),
    )
    figure = Figure(figsize=(max(size[0], 3.6), max(size[1], 2.6)), layout="constrained")
    is_plane = bool((points["dimensions"] == 2).all())
    drawn = _first_seeds(points) if is_plane else points
    limits = slice_limits(drawn, column)
    blocks = np.atleast_1d(np.asarray(figure.subfigures(1, len(facets))))
    every: list[Axes] = []
    for block, facet in zip(blocks, facets, strict=True):
        spots = cells[cells["facet"] == facet]
        axes = block.subplots(tall, across, squeeze=False)
        every += list(axes.flat)
        _fill(axes, spots, drawn, frame, column, limits, is_plane)
        _name_axes(block, axes, frame, facet_title(str(facet), frame.names))
    if is_plane:
        _, norm = levels_between(*limits)
        bar = figure.colorbar(
            ScalarMappable(norm, CONTOUR_COLOURS),
            ax=list(blocks[-1].axes),
            label=label,
            aspect=30,
        )
        write_bar_ticks(bar, bar_ticks(*limits))
    counts = _counts(drawn, column, is_plane, label)
    write_heading(figure, f"{title}\n{counts}" if title else counts)
    return figure


def large_slice(
    points: pd.DataFrame,
    cells: pd.DataFrame,
    frame: Frame,
    column: SliceColumn,
    *,
    title: str = "",
    label: str = "",
) -> Figure:
    """Draw the plane of one cell (of its first seed), with levels written on its contours; or its
    lines, one per seed.
    """
    cell = int(points["cell"].iloc[0])
    place = cells[cells["cell"] == cell].iloc[0]
    where = ", ".join(
        f"{axis.name} {label}"
        for axis, label in (
            (frame.load, place["load_label"]),
            (frame.temperature, place["temperature_label"]),
        )
        if axis.name
    )
    figure = Figure(figsize=(LARGE[0], LARGE[1] + 0.35 * bool(title)), layout="constrained")
    ax = figure.subplots()
    if (points["dimensions"] == 2).all():
        plane = _first_seeds(points)
        seed = plane["seed"].iloc[0]
        head = (
            f"cell {cell}: {where}, seed {seed:.0f}" if where else f"cell {cell}, seed {seed:.0f}"
        )
        contour(ax, plane, column=column, title=head, label=label, level_labels=True)
    else:
        head = f"cell {cell}: {where}" if where else f"cell {cell}"
        profile(ax, points, column=column, by_seed=True, title=head, label=label)
    write_heading(figure, title)
    return figure


def _first_seeds(points: pd.DataFrame) -> pd.DataFrame:
    first = points.groupby("cell")["seed"].transform("min")
    return points[points["seed"] == first]


def _fill(
    axes: "np.ndarray[tuple[int, int], np.dtype[np.object_]]",
    spots: pd.DataFrame,
    points: pd.DataFrame,
    frame: Frame,
    column: SliceColumn,
    limits: tuple[float, float],
    is_plane: bool,
) -> None:
    """Draw the slices of the cells of one facet, hot cells on top; hatch cells without slices."""
    temperatures = frame.temperature.drawn_labels()[::-1]
    loads = frame.load.drawn_labels()
    by_place = {
        (row["temperature_label"], row["load_label"]): row["cell"]
        for row in spots.to_dict("records")
    }
    extent = float(points["a"].abs().max())
    for (i, j), ax in np.ndenumerate(axes):
        ax.tick_params(length=0, labelleft=False, labelbottom=False)
        cell = by_place.get((temperatures[i], loads[j]))
        own = points[points["cell"] == cell]
        if cell is None:
            ax.set_axis_off()
        elif own.empty or not np.isfinite(own[column]).any():
            mark_missing(ax)
            ax.set_xticks([])
            ax.set_yticks([])
        elif is_plane:
            fill_plane(ax, own, column, limits)
            mark_centre(ax, size=4)
            ax.set_aspect("equal")
            ax.set_xticks([])
            ax.set_yticks([])
        else:
            _small_lines(ax, own, column, limits, extent)
            ax.tick_params(labelleft=j == 0, length=2)
            ax.tick_params(axis="x", labelbottom=i == axes.shape[0] - 1)


def _small_lines(
    ax: Axes, own: pd.DataFrame, column: SliceColumn, limits: tuple[float, float], extent: float
) -> None:
    for _, line in own.groupby("seed"):
        line = line.sort_values("a")
        ax.plot(line["a"], line[column], color=LINE_COLOUR, linewidth=0.9, alpha=0.8)
    ax.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    if is_logarithmic(*limits):
        ax.set_yscale("log")
        ax.minorticks_off()
        room = 1.15
        ax.set_ylim(limits[0] / room, limits[1] * room)
    else:
        room = 0.06 * (limits[1] - limits[0])
        ax.set_ylim(limits[0] - room, limits[1] + room)
    ax.set_xlim(-extent, extent)
    ax.set_xticks([-extent, 0, extent], labels=[f"{-extent:g}", "0", f"{extent:g}"])
    ax.tick_params(labelsize=5.5, pad=1.5)


def _name_axes(
    block: SubFigure,
    axes: "np.ndarray[tuple[int, int], np.dtype[np.object_]]",
    frame: Frame,
    facet: str,
) -> None:
    """Write the labels of cells beside rows and below columns, and the names of the axes."""
    for ax, label in zip(axes[:, 0], frame.temperature.drawn_labels()[::-1], strict=True):
        if label:
            ax.set_ylabel(_short(label), rotation=0, ha="right", va="center", fontsize=7)
    for ax, label in zip(axes[-1, :], frame.load.drawn_labels(), strict=True):
        if label:
            ax.set_xlabel(_short(label), fontsize=7)
    if frame.load.name:
        block.supxlabel(f"{frame.load.name}  (load →)", fontsize=8)
    if frame.temperature.name:
        block.supylabel(f"{frame.temperature.name}  (temperature →)", fontsize=8)
    if facet:
        block.suptitle(facet, fontsize=9)


def _short(label: str) -> str:
    return label if len(label) <= 12 else f"{label[:11]}…"


def _counts(points: pd.DataFrame, column: SliceColumn, is_plane: bool, label: str) -> str:
    """Say how many networks, points and diverged points are shown."""
    networks = points.groupby(["cell", "seed"]).ngroups
    side = points["a"].nunique()
    each = f"{side} × {side} points" if is_plane else f"{side} points"
    of = f"{networks} cells, one network each" if is_plane else f"{networks} networks"
    missing = int(points[column].isna().sum())
    diverged = f", {missing} points diverged" if missing else ""
    return f"{label}; {of}, {each}{diverged}"
