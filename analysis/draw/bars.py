"""Draw a number of each row of a measurement as a bar, a panel for each network."""

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headed import headed_panels
from phasegrid.analysis.draw.profiles import direction_name

COLOURS = {"positive": "#c0643a", "negative": "#17606e"}
OTHERS = "#6f6a7d"
"""Eigenvectors of the largest eigenvalues, of the smallest, and all else."""


def bar_panels(
    rows: pd.DataFrame,
    column: str,
    label: str,
    *,
    scale: Literal["linear", "log"] = "linear",
    share_y: bool = False,
    most: int,
    columns: int | None = None,
    title: str = "",
) -> Figure:
    """Draw a panel for each ``head``, and in it a bar for each of its rows, named by ``label``."""

    def draw(ax: Axes, head: str) -> None:
        bar_axes(ax, rows[rows["head"] == head], column, head)
        ax.set_yscale(scale)
        ax.set_ylabel(label)

    heads = list(dict.fromkeys(rows["head"]))
    return headed_panels(heads, draw, [], most=most, columns=columns, share_y=share_y, title=title)


def bar_axes(ax: Axes, rows: pd.DataFrame, column: str, head: str = "") -> Axes:
    """Draw the bars of one panel in the order of the rows."""
    places, labels = np.arange(len(rows)), rows["label"].tolist()
    colours = [COLOURS.get(label.rpartition("_")[0], OTHERS) for label in labels]
    ax.bar(places, rows[column], color=colours)
    ax.set_xticks(places, [direction_name(label) for label in labels], rotation=90, fontsize=5)
    ax.axhline(0, color="black", linewidth=0.5)
    write_title(ax, head, "")
    return ax
