"""Draw columns of a metric's rows against each other: profiles, spectra, layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.line_looks import line_look
from phasegrid.analysis.draw.lines import spread
from phasegrid.analysis.draw.panels import facet_title
from phasegrid.analysis.draw.scales import Frame, GridAxis
from phasegrid.declare import Column
from phasegrid.errors import SweepError
from phasegrid.texts import counted

PANEL = (2.5, 2.1)  # inches
SHARED = 0.99
"""Measurements of a cell share their x if at this share of all x there is a point of every
measurement.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What lines show: `y` over `x`, with a line for each value of the axis `lines` and a panel for
    each value of the other axis, or only for those in `at`; the scales of x and y; and the name of
    `each` measurement.
    """

    x: str
    y: Sequence[str]
    lines: Literal["load", "temperature"]
    at: Sequence[str] | None
    scales: tuple[Literal["linear", "log"], Literal["linear", "log"]]
    each: str = "measurement"


def row_panels(
    rows: pd.DataFrame,
    frame: Frame,
    line: Line,
    columns: Mapping[str, Column],
    *,
    title: str = "",
) -> Figure:
    """Draw columns of a metric (`rows`, with the place of their cell) as lines: a row of panels for
    each y, a column of panels for each facet and value of the axis that has no lines.

    If the measurements of a cell share their x, a line is their mean, with a band of its standard
    error; otherwise each measurement has a thin line.

    Raises:
        SweepError: for labels that no cell has, or columns that are not numbers.
    """
    lined, other = frame.load, frame.temperature
    if line.lines == "temperature":
        lined, other = other, lined
    label = "temperature_label" if line.lines == "load" else "load_label"
    at = list(line.at) if line.at is not None else spread(other)
    unknown = [one for one in at if one not in other.labels]
    if unknown:
        raise SweepError(f"at: found {unknown[0]!r}; there are: {', '.join(other.labels)}")
    places = [(facet, one) for facet in dict.fromkeys(rows["facet"]) for one in at]
    figure = Figure(
        figsize=(
            max(3.4, PANEL[0] * len(places)),
            PANEL[1] * len(line.y) + 0.6 + 0.3 * bool(title),
        ),
        layout="constrained",
    )
    axes = figure.subplots(len(line.y), len(places), squeeze=False, sharey="row", sharex=True)
    for (i, j), ax in np.ndenumerate(axes):
        facet, one = places[j]
        own = rows[(rows["facet"] == facet) & (rows[label] == one)]
        ax.set_xscale(line.scales[0])
        ax.set_yscale(line.scales[1])
        _panel(ax, own, line, line.y[i], lined)
        ax.spines[["top", "right"]].set_visible(False)
        if i == 0:
            where = f"{other.name} {one}" if other.name else ""
            head = ", ".join(text for text in (facet_title(str(facet)), where) if text)
            ax.set_title(head, loc="left", fontsize=8, fontweight="bold")
        if i == len(line.y) - 1:
            ax.set_xlabel(_title(line.x, columns))
        if j == 0:
            ax.set_ylabel(_title(line.y[i], columns))
    _name_lines(figure, lined)
    note = _counted(rows[rows[line.x].notna()], line.each)
    write_heading(figure, f"{title}\n{note}" if title else note)
    return figure


def _counted(rows: pd.DataFrame, each: str) -> str:
    """Say how many measurements a cell has."""
    if rows.empty:
        return "nothing measured"
    counts = rows.groupby("cell")["key"].nunique()
    low, high = int(counts.min()), int(counts.max())
    fewest = f"{low} to " if low < high else ""
    return f"{fewest}{counted(high, each)} a cell"


def points_of(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return x and y of each measurement (``cell``, ``key``), one row per point; lists are
    unrolled.

    Raises:
        SweepError: if lists of one row differ in length, or y has no numbers.
    """
    table = rows[["cell", "key", "load_label", "temperature_label"]].assign(x=rows[x], y=rows[y])
    try:
        table = table.explode(["x", "y"], ignore_index=True).dropna(subset=["x", "y"])
        return table.assign(y=table["y"].astype(float))
    except (ValueError, TypeError) as error:
        raise SweepError(f"{y} over {x} cannot be drawn: {error}") from error


def _panel(ax: Axes, own: pd.DataFrame, line: Line, y: str, lined: GridAxis) -> None:
    label = f"{line.lines}_label"
    points = points_of(own, line.x, y)
    names = points["x"].map(lambda value: isinstance(value, str)).any()
    if names:  # for example layers: in their stored order
        order = list(dict.fromkeys(points["x"]))
        points = points.assign(x=points["x"].map({name: i for i, name in enumerate(order)}))
    points = points.assign(x=points["x"].astype(float))
    shades = colormaps["viridis"](np.linspace(0.05, 0.9, max(2, len(lined.labels))))
    for place, value in enumerate(lined.labels):
        own = points[points[label] == value]
        look = line_look(place, len(lined.labels), shades[place], own["x"].nunique())
        _draw_line(ax, own, look, value)
    if names:
        ax.set_xticks(range(len(order)), labels=order, rotation=45, ha="right")
    if points.empty:
        ax.text(0.5, 0.5, "nothing measured", transform=ax.transAxes, ha="center", color="0.5")


def _draw_line(ax: Axes, points: pd.DataFrame, look: Mapping[str, Any], value: str) -> None:
    if points.empty:
        return
    num = points["key"].nunique()
    sizes = points.groupby("x")["key"].transform("nunique")
    if num == 1 or (sizes == num).mean() < SHARED:
        thin = {**look, "linewidth": 0.8 * look["linewidth"]}
        for i, (_, one) in enumerate(points.groupby("key", sort=False)):
            one = one.sort_values("x")
            ax.plot(one["x"], one["y"], label=None if i else value, **thin)
        return
    by_x = points.groupby("x")["y"]
    mean, stderr = by_x.mean(), by_x.sem()
    ax.plot(mean.index, mean, label=value, **look)
    band = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
    ax.fill_between(mean.index, mean - stderr, mean + stderr, **band)


def _title(name: str, columns: Mapping[str, Column]) -> str:
    """Return the label and the unit of a column for an axis."""
    return columns[name].title() if name in columns else name.replace("_", " ")


def _name_lines(figure: Figure, lined: GridAxis) -> None:
    """Name the lines of all panels in one legend, in the order of the axis."""
    found: dict[str, Artist] = {}
    for ax in figure.axes:
        found |= {
            text: handle for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)
        }
    texts = [label for label in lined.labels if label in found]
    if len(texts) > 1 or lined.name:
        figure.legend(
            [found[text] for text in texts],
            texts,
            title=lined.name,
            loc="outside right upper",
        )
