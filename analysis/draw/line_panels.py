"""Draw lines over a shared x: a panel for each column and place, a line for each name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.line_looks import line_look
from phasegrid.analysis.draw.ticks import write_log_ticks
from phasegrid.declare import Column
from phasegrid.errors import SweepError
from phasegrid.texts import counted

PANEL = (2.5, 2.1)  # inches
WIDE = (3.2, 2.5)
"""The same where the panels are the columns of one cell."""
STACKED = (5.2, 1.9)
"""The same where these stand below each other, or there is one."""
LETTER = 0.062
"""The width of a letter of a legend, in inches."""
LINE = 0.17
"""The height of a line of a legend, in inches."""
SHARED = 0.99
"""Measurements of a cell share their x if at this share of all x there is a point of every
measurement.
"""
LEVELS = ("#3a3a3a", "#b0413e", "#3b6ea5", "#8a6d1f")
"""The colours of dashed levels without a line of their name."""

Scale = Literal["linear", "log"]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a figure of lines shows: each of `y` over `x`.

    Rows have a column ``panel``, one of `panels` (the head of a column of panels), and ``line``,
    one of `lines`, in their order. `scales` are those of x and y; some y have one of their own in
    `y_scales`. `legend` is the title of the legend, `each` the name of a
    measurement. `levels` are dashed horizontal lines: a table of ``y``, ``panel``, ``label`` and
    ``value``; one whose label begins with the name of a line has its colour. `marks` are circles
    on the lines at some x, by their label; `ticks` are some x with their names, and `dots` is the
    column of the x at which each line has a dot. With one panel for each y, `across` of them stand
    side by side, on one scale with `share_y`. A `diagonal` is the line y = x.
    """

    x: str
    y: Sequence[str]
    panels: Sequence[str]
    lines: Sequence[str]
    scales: tuple[Scale, Scale] = ("linear", "linear")
    y_scales: Mapping[str, Scale] = field(default_factory=dict)
    legend: str = ""
    each: str = "measurement"
    levels: pd.DataFrame | None = None
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    diagonal: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    dots: str | None = None
    across: int = 1
    share_y: bool = False


def line_panels(
    rows: pd.DataFrame, layout: Layout, columns: Mapping[str, Column], *, title: str = ""
) -> Figure:
    """Draw columns of a metric (`rows`, with ``panel`` and ``line``) as lines: a row of panels for
    each y, a column of panels for each place; or, with one place, the panels of all y in a grid.

    If the measurements of a line in a panel share their x, the line is their mean, with a band of
    its standard error; otherwise each measurement has a thin line.

    Raises:
        SweepError: for columns that are not numbers, or marks at an x that no line has.
    """
    alone = len(layout.panels) == 1
    across = min(layout.across, len(layout.y)) if alone else len(layout.panels)
    down = -(-len(layout.y) // across) if alone else len(layout.y)
    size = (WIDE if across > 1 else STACKED) if alone else PANEL
    wide, high = max(3.4, size[0] * across), size[1] * down + 0.6 + 0.3 * bool(title)
    figure = Figure(figsize=(wide, high), layout="constrained")
    axes = figure.subplots(
        down, across, squeeze=False, sharey=layout.share_y if alone else "row", sharex=True
    )
    spots = [(y, panel) for y in layout.y for panel in layout.panels]
    for ax in axes.flat[len(spots) :]:
        ax.remove()
    marked: set[str] = set()
    for place, (ax, (y, panel)) in enumerate(zip(axes.flat, spots, strict=False)):
        marked |= _panel(ax, rows[rows["panel"] == panel], layout, y, panel)
        if panel and place < (1 if alone else across):
            ax.set_title(panel, loc="left", fontsize=8, fontweight="bold")
        if place + across >= len(spots):
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(_title(layout.x, columns))
        if alone or place % across == 0:
            ax.tick_params(labelleft=True)
            ax.set_ylabel(_title(y, columns))
    lost = [label for label in layout.marks if label not in marked]
    if lost:
        raise SweepError(
            f"marks.{lost[0]}: no line has a point at {layout.x} ="
            f" {', '.join(f'{x:g}' for x in layout.marks[lost[0]])}"
        )
    _name_lines(figure, layout)
    note = _counted(rows[rows[layout.x].notna()], layout.each)
    note += "; band: standard error" if any(ax.collections for ax in figure.axes) else ""
    write_heading(figure, f"{title}\n{note}" if title else note)
    return figure


def points_of(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return x and y of each measurement (``cell``, ``key``), one row per point, with the ``line``
    that it is on; lists are unrolled, and so are grids of one row.

    Raises:
        SweepError: if lists of one row differ in length, or y has no numbers.
    """
    table = rows[["cell", "key", "line"]].assign(x=rows[x], y=rows[y].map(_only_row))
    try:
        table = table.explode(["x", "y"], ignore_index=True).dropna(subset=["x", "y"])
        return table.assign(y=table["y"].astype(float))
    except (ValueError, TypeError) as error:
        raise SweepError(f"{y} over {x} cannot be drawn: {error}") from error


def _only_row(value: Any) -> Any:
    """Return the row of a grid that has one, as that of a slice along a line."""
    nested = isinstance(value, (list, np.ndarray)) and len(value) == 1
    return value[0] if nested and isinstance(value[0], (list, np.ndarray)) else value


def _counted(rows: pd.DataFrame, each: str) -> str:
    """Say how many measurements a line has."""
    if rows.empty:
        return "nothing measured"
    counts = rows.groupby(["panel", "line"])["key"].nunique()
    low, high = int(counts.min()), int(counts.max())
    fewest = f"{low} to " if low < high else ""
    return f"{fewest}{counted(high, each)} a line"


def _panel(ax: Axes, own: pd.DataFrame, layout: Layout, y: str, panel: str) -> set[str]:
    """Draw one panel; return the labels of the marks that are on a line."""
    scales = layout.scales[0], layout.y_scales.get(y, layout.scales[1])
    ax.set_xscale(scales[0])
    ax.set_yscale(scales[1])
    for axis, scale in zip((ax.xaxis, ax.yaxis), scales, strict=True):
        if scale == "log":
            write_log_ticks(axis)
    ax.spines[["top", "right"]].set_visible(False)
    points = points_of(own, layout.x, y)
    names = points["x"].map(lambda value: isinstance(value, str)).any()
    if names:  # for example layers: in their stored order
        order = list(dict.fromkeys(points["x"]))
        points = points.assign(x=points["x"].map({name: i for i, name in enumerate(order)}))
        ax.set_xticks(range(len(order)), labels=order, rotation=45, ha="right")
    points = points.assign(x=points["x"].astype(float))
    if not names and layout.scales[0] == "linear" and (points["x"] % 1 == 0).all():
        ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    if layout.ticks:
        places, texts = zip(*layout.ticks, strict=True)
        ax.set_xticks(places, labels=texts)
        ax.grid(axis="x", color="0.85", linewidth=0.5)
    shades = colormaps["viridis"](np.linspace(0.05, 0.9, max(2, len(layout.lines))))
    marked: set[str] = set()
    for place, name in enumerate(layout.lines):
        line = points[points["line"] == name]
        look = line_look(place, len(layout.lines), shades[place], line["x"].nunique())
        _draw_line(ax, line, look, name)
        if layout.dots is not None:
            _dot(ax, line, own.loc[own["line"] == name, ["key", layout.dots]], look)
        marked |= _mark(ax, line, layout.marks)
    _draw_levels(ax, layout, y, panel, dict(zip(layout.lines, shades, strict=False)))
    if layout.diagonal and not points.empty:
        ends = [points[["x", "y"]].min().min(), points[["x", "y"]].max().max()]
        look_of_diagonal: Any = {"color": "0.6", "linestyle": (0, (7, 3)), "linewidth": 1.0}
        ax.plot(ends, ends, label="y = x", zorder=1, **look_of_diagonal)
    if points.empty:
        ax.text(0.5, 0.5, "nothing measured", transform=ax.transAxes, ha="center", color="0.5")
    return marked


def _draw_line(ax: Axes, points: pd.DataFrame, look: Mapping[str, Any], name: str) -> None:
    if points.empty:
        return
    num = points["key"].nunique()
    sizes = points.groupby("x")["key"].transform("nunique")
    if num == 1 or (sizes == num).mean() < SHARED:
        thin = {**look, "linewidth": 0.8 * look["linewidth"]}
        for i, (_, one) in enumerate(points.groupby("key", sort=False)):
            one = one.sort_values("x")
            ax.plot(one["x"], one["y"], label=None if i else name, **thin)
        return
    by_x = points.groupby("x")["y"]
    mean, stderr = by_x.mean(), by_x.sem()
    ax.plot(mean.index, mean, label=name, **look)
    band = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
    ax.fill_between(mean.index, mean - stderr, mean + stderr, **band)


def _dot(ax: Axes, points: pd.DataFrame, dots: pd.DataFrame, look: Mapping[str, Any]) -> None:
    """Put a dot on the lines of a name at the x of each, or of its mean where these agree."""
    at = dots.set_axis(["key", "x"], axis=1).explode("x", ignore_index=True).dropna()
    there = points.merge(at.astype({"x": float}), on=["key", "x"])
    if len(dots) > 1 and at.groupby("x")["key"].nunique().eq(len(dots)).all():
        there = there.groupby("x")["y"].mean().reset_index()
    dot: Any = {"linestyle": "none", "marker": "o", "markersize": 3.2, "gid": "dots"}
    ax.plot(there["x"], there["y"], color=look["color"], **dot)


def _mark(ax: Axes, points: pd.DataFrame, marks: Mapping[str, Sequence[float]]) -> set[str]:
    """Circle the points of a line, or of the mean that it shows, at the x of each mark."""
    means = points.groupby("x")["y"].mean()
    drawn: set[str] = set()
    for label, places in marks.items():
        there = means[np.isin(means.index.to_numpy(dtype=float), list(places))]
        if there.empty:
            continue
        drawn.add(label)
        ax.plot(
            there.index,
            there,
            linestyle="none",
            marker="o",
            markersize=7,
            markerfacecolor="none",
            markeredgecolor="#b0413e",
            markeredgewidth=1.0,
            zorder=4,
            label=label,
        )
    return drawn


def _draw_levels(
    ax: Axes, layout: Layout, y: str, panel: str, colours: Mapping[str, object]
) -> None:
    """Draw the dashed levels of one panel."""
    if layout.levels is None:
        return
    labels = list(dict.fromkeys(layout.levels["label"]))
    others = [one for one in labels if _named_after(one, layout.lines) is None]
    here = layout.levels[(layout.levels["y"] == y) & (layout.levels["panel"] == panel)]
    for row in here.to_dict("records"):
        label = str(row["label"])
        line = _named_after(label, layout.lines)
        colour: Any = colours[line] if line else LEVELS[others.index(label) % len(LEVELS)]
        look: Any = {"color": colour, "linestyle": (0, (7, 3)), "linewidth": 1.0, "zorder": 1}
        ax.axhline(float(row["value"]), label=label, **look)


def _named_after(label: str, lines: Sequence[str]) -> str | None:
    """Return the longest name of a line that a label begins with."""
    return max((name for name in lines if name and label.startswith(name)), key=len, default=None)


def _title(name: str, columns: Mapping[str, Column]) -> str:
    """Return the label and the unit of a column for an axis."""
    return columns[name].title() if name in columns else name.replace("_", " ")


def _name_lines(figure: Figure, layout: Layout) -> None:
    """Name the lines of all panels in one legend, in their order: at the right with a title, else
    below.
    """
    found: dict[str, Artist] = {}
    for ax in figure.axes:
        found |= {
            text: handle for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)
        }
    order = [name for name in layout.lines if name in found]
    texts = order + [text for text in found if text not in order]
    handles = [found[text] for text in texts]
    if layout.legend:
        figure.legend(handles, texts, title=layout.legend, loc="outside right upper")
    elif len(texts) > 1:
        letters = max(map(len, texts)) + 9
        fitting = int(figure.get_figwidth() / (LETTER * letters))
        columns = max(1, min(len(texts), fitting))
        more = -(-len(texts) // columns) - 1
        figure.set_figheight(figure.get_figheight() + more * LINE)
        figure.legend(handles, texts, loc="outside lower center", ncols=columns)
