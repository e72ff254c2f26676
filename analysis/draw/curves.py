"""Draw lines: the mode-connecting curve of every cell, and cuts through a diagram."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.line_looks import line_look
from phasegrid.analysis.draw.scales import Frame, GridAxis
from phasegrid.analysis.draw.style import PHASE_COLOURS
from phasegrid.analysis.draw.ticks import set_ticks, tick_room, write_log_ticks
from phasegrid.analysis.stats.aggregate import counts_in_words
from phasegrid.analysis.tables.quantities import NATS, Quantity, base_of
from phasegrid.texts import counted

BOX = 0.86
"""Share of a cell that its curve may fill."""


def curve_grid(
    ax: Axes,
    curves: pd.DataFrame,
    phases: pd.DataFrame,
    frame: Frame,
    *,
    top: float,
    title: str = "training error along the connecting curve",
    column: Literal["train_error_percent", "train_loss"] = "train_error_percent",
    loss_unit: str = NATS,
) -> Axes:
    """Draw every cell's error against t in a box of its own (Yang et al. 2021, Fig. 12), all on the
    scale 0 to `top` percent, on the colour of its phase; or its loss, in `loss_unit`.

    `curves` has the rows of a grid's curves, `phases` one facet of the phase table (which says
    where a cell is). Dashed: the mean of the two ends, from which mode connectivity is measured. A
    cell without a curve says so with a cross.
    """
    spots = phases[["cell", "load_label", "temperature_label", "nearest"]]
    lines = spots.merge(curves.dropna(subset=[column]), on="cell")
    _boxes(ax, spots, frame)
    for _, group in lines.groupby(["cell", "seed_a", "seed_b"], sort=False):
        spot = group.iloc[0]
        x0, y0 = _corner(frame, str(spot["load_label"]), str(spot["temperature_label"]))
        error = BOX * group[column].to_numpy(dtype=float) / top
        t = BOX * group["t"].to_numpy(dtype=float)
        ax.plot(x0 + t, y0 + error, color="#1a1a1a", linewidth=1.2, marker="o", markersize=1.6)
        ends = y0 + (error[0] + error[-1]) / 2
        ax.plot([x0, x0 + BOX], [ends, ends], color="#1a1a1a", linewidth=0.6, linestyle=(0, (2, 2)))
    without = spots[~spots["cell"].isin(lines["cell"])]
    for row in without.to_dict("records"):
        x0, y0 = _corner(frame, str(row["load_label"]), str(row["temperature_label"]))
        ax.plot([x0 + BOX / 2], [y0 + BOX / 2], marker="x", color="0.5", markersize=4)
    _index_axis(ax, frame)
    scale = (
        f"error from 0 to {top:g} %"
        if column == "train_error_percent"
        else f"loss from 0 to {top:g}" + (f" ({loss_unit})" if loss_unit else "")
    )
    caption = f"{_curves_a_cell(lines)}; each box: t from 0 to 1, {scale}; dashed: mean of the ends"
    write_title(
        ax,
        title,
        caption + (f"; {counted(len(without), 'cell')} without a curve" if len(without) else ""),
    )
    return ax


def _curves_a_cell(lines: pd.DataFrame) -> str:
    """Write how many curves the cells with a curve have: ``1 curve a cell``, ``1 to 3 curves a
    cell``.
    """
    pairs = lines[["cell", "seed_a", "seed_b"]].drop_duplicates()
    numbers = pairs["cell"].value_counts()
    least, most = (numbers.min(), numbers.max()) if len(numbers) else (0, 0)
    return (
        f"{least} to {most} curves a cell" if least < most else f"{counted(most, 'curve')} a cell"
    )


def cuts(
    ax: Axes,
    table: pd.DataFrame,
    quantity: Quantity,
    frame: Frame,
    *,
    along: str = "load",
    at: Sequence[str] | None = None,
    legend: bool = True,
    head: str = "",
    label: str | None = None,
) -> Axes:
    """Draw rows (``along="load"``) or columns (``along="temperature"``) of a diagram as lines with
    standard errors.

    `at`: labels of the other axis, one line each (default: all), from cold and pale to hot and
    dark, or from small to large. `label` replaces the name of the quantity.
    """
    x_axis, lines = (
        (frame.load, frame.temperature) if along == "load" else (frame.temperature, frame.load)
    )
    other = "temperature_label" if along == "load" else "load_label"
    chosen = [label for label in lines.labels if at is None or label in at]
    if lines.inverted:
        chosen = chosen[::-1]
    palest = 0.12 if len(chosen) > 1 else 0.95
    shades = colormaps["viridis_r"](np.linspace(palest, 0.95, len(chosen)))
    table = table[table[other].isin(chosen)]
    for place, (shade, at_label) in enumerate(zip(shades, chosen, strict=True)):
        rows = table[table[other] == at_label].set_index(f"{along}_label")
        rows = rows.reindex(list(x_axis.labels))
        look = line_look(place, len(chosen), shade)
        _line(ax, x_axis, rows, look, f"{lines.name} {at_label}" if lines.name else None)
    _line_axes(ax, x_axis, quantity)
    if quantity.centre is not None:
        ax.axhline(quantity.centre, color="0.5", linewidth=0.6, zorder=0)
    bars = "bars: standard error" if table["stderr"].notna().any() else "no standard error"
    bars += "; hollow: not trained" if table["not_trained"].any() else ""
    arrow = "load →" if along == "load" else "temperature →"
    ax.set_xlabel(f"{x_axis.name}  ({arrow})" if x_axis.name else "")
    name = quantity.label if label is None else label
    write_title(ax, f"{head}\n{name}" if head else name, f"{counts_in_words(table)}; {bars}")
    if legend and lines.name:
        ax.legend()
    return ax


def _line(
    ax: Axes, x_axis: GridAxis, rows: pd.DataFrame, look: Mapping[str, Any], label: str | None
) -> None:
    """Draw one line with its error bars, and hollow markers where cells are not trained."""
    hollow = rows["not_trained"].fillna(False).astype(bool)
    ax.plot(
        np.array(x_axis.centres)[hollow],
        rows["value"].to_numpy(dtype=float)[hollow],
        color=look["color"],
        linestyle="none",
        marker=look["marker"],
        markersize=look["markersize"] + 0.8,
        markerfacecolor="white",
        zorder=3,
    )
    ax.errorbar(
        x_axis.centres,
        rows["value"].to_numpy(dtype=float),
        yerr=rows["stderr"].to_numpy(dtype=float),
        elinewidth=0.8,
        capsize=look["markersize"] / 2,
        label=label,
        **look,
    )


def _line_axes(ax: Axes, x_axis: GridAxis, quantity: Quantity) -> None:
    if x_axis.spacing == "log":
        ax.set_xscale("log")
    set_ticks(ax.xaxis, x_axis, tick_room(ax, x_axis))
    low, high = x_axis.edges[0], x_axis.edges[-1]
    ax.set_xlim(*((high, low) if x_axis.inverted else (low, high)))
    if quantity.scale == "log":
        ax.set_yscale("log", nonpositive="clip")
        write_log_ticks(ax.yaxis)
    ax.set_ylabel(base_of(quantity).title())
    ax.spines[["top", "right"]].set_visible(False)


def _corner(frame: Frame, load: str, temperature: str) -> tuple[float, float]:
    """Return the lower left corner of a cell's box; boxes have unit distance, and hot ones are on
    top.
    """
    column = frame.load.drawn_labels().index(load)
    row = frame.temperature.drawn_labels().index(temperature)
    return column - BOX / 2, row - BOX / 2


def _boxes(ax: Axes, spots: pd.DataFrame, frame: Frame) -> None:
    for row in spots.to_dict("records"):
        corner = _corner(frame, str(row["load_label"]), str(row["temperature_label"]))
        colour = PHASE_COLOURS.get(str(row["nearest"]), "#ffffff")
        box = Rectangle(
            corner, BOX, BOX, facecolor=to_rgba(colour, 0.45), edgecolor="0.6", linewidth=0.5
        )
        ax.add_patch(box)


def _index_axis(ax: Axes, frame: Frame) -> None:
    tall = len(frame.temperature.labels)
    ax.set_xticks(range(len(frame.load.labels)), labels=list(frame.load.drawn_labels()))
    ax.set_yticks(range(tall), labels=list(frame.temperature.drawn_labels()))
    ax.set_xlim(-0.55, len(frame.load.labels) - 0.45)
    ax.set_ylim(-0.55, tall - 0.45)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"{frame.load.name}  (load →)" if frame.load.name else "")
    ax.set_ylabel(f"{frame.temperature.name}  (temperature →)" if frame.temperature.name else "")
