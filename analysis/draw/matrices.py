"""Draw numbers of pairs as matrices with shared colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from phasegrid.analysis.draw.colours import ColourScale, colour_scale
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.slices import mark_missing
from phasegrid.analysis.draw.ticks import write_bar_ticks
from phasegrid.analysis.tables.quantities import Quantity, base_of

ACROSS = 4
PANEL = 2.4  # inches
ENTRY = 0.42
"""The least side of an entry in inches."""
LETTER = 0.07
"""The width of a letter of a label in inches."""
WRITTEN = 8
"""Matrices of at most so many networks have their numbers written."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Square:
    """Numbers (N, N) of pairs of the networks with these N `labels`, NaN where there is none; the
    diagonal is left out.
    """

    head: str
    labels: Sequence[str]
    values: Floats


def matrix_panels(
    squares: Sequence[Square],
    what: Quantity,
    *,
    networks: str = "seed",
    title: str = "",
) -> Figure:
    """Draw matrices of one quantity side by side; `networks` is what the labels are.

    Raises:
        ValueError: if there is no matrix.
    """
    across = min(ACROSS, len(squares))
    down = math.ceil(len(squares) / across)
    letters = max(len(label) for square in squares for label in square.labels)
    most = max(len(square.labels) for square in squares)
    side = max(PANEL, ENTRY * most + LETTER * letters + 0.6)
    size = (max(3.6, side * across + 1.0), side * down + 0.6 + 0.2 * title.count("\n"))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    off = [square.values[~np.eye(len(square.labels), dtype=bool)] for square in squares]
    scale = colour_scale(pd.DataFrame({"value": np.concatenate(off), "not_trained": False}), what)
    for ax, square in zip(axes.flat, squares, strict=False):
        _draw(ax, square, what, scale)
        ax.set_xlabel(networks)
        ax.set_ylabel(networks)
    for ax in axes.flat[len(squares) :]:
        ax.remove()
    colours = ScalarMappable(scale.norm(), what.colours)
    bar = figure.colorbar(
        colours, ax=list(figure.axes), label=base_of(what).title(), extend=scale.extend
    )
    write_bar_ticks(bar, scale.ticks)
    write_heading(figure, "\n".join(filter(None, [title, what.title()])))
    return figure


def _draw(ax: Axes, square: Square, what: Quantity, scale: ColourScale) -> None:
    num = len(square.labels)
    shown = np.ma.masked_invalid(np.where(np.eye(num, dtype=bool), np.nan, square.values))
    mark_missing(ax)
    edges = np.arange(num + 1) - 0.5
    ax.pcolormesh(edges, edges, shown, norm=scale.norm(), cmap=what.colours)
    for i in range(num):
        ax.fill([i - 0.5, i + 0.5, i + 0.5, i - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5], "0.9")
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.set_xticks(range(num), labels=list(square.labels))
    ax.set_yticks(range(num), labels=list(square.labels))
    if max(map(len, square.labels)) > 3:
        ax.tick_params(axis="x", rotation=90)
    ax.tick_params(length=0)
    if square.head:
        ax.set_title(square.head, loc="left", fontsize=8, fontweight="bold")
    if num <= WRITTEN:
        _write(ax, square, what, scale)


def _write(ax: Axes, square: Square, what: Quantity, scale: ColourScale) -> None:
    """Write each number on its entry, in the colour that can be read on it."""
    for (row, column), value in np.ndenumerate(square.values):
        if row == column or np.isnan(value):
            continue
        red, green, blue, _ = colormaps[what.colours](float(scale.norm()(value)))
        light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
        colour = "black" if light else "white"
        ax.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=6.5, color=colour)
