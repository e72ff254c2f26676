"""Draw the figure of the gain (Yang et al. 2021, Fig. 13) from a table."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from phasegrid.analysis.draw.diagrams import write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.panels import facet_title
from phasegrid.analysis.draw.scales import GridAxis, make_axis
from phasegrid.analysis.draw.ticks import set_ticks, tick_room
from phasegrid.analysis.tables.quantities import Quantity, difference_unit
from phasegrid.texts import counted

THIS, OTHER, GAIN = "#17606e", "#c0643a", "#333333"
ASIDE = 2.0  # points between the two sweeps, so that no bar hides another


def gain_figure(
    table: pd.DataFrame,
    what: Quantity,
    labels: tuple[str, str],
    load_path: str | None,
    temperature_name: str,
    *,
    names: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """Draw the rows of `gain_table`, two panels in a row for each facet: the bests of both sweeps,
    and the gain.

    `labels` name the sweeps. Every best has its temperature written beside it.
    """
    facets = [str(facet) for facet in table["facet"].unique()]
    figure = Figure(figsize=(8.2, 2.9 * len(facets) + 0.35 * bool(title)), layout="constrained")
    axis = make_axis(load_path, list(table["load"]), list(table["load_label"]), names=names)
    for (left, right), facet in zip(
        figure.subplots(len(facets), 2, squeeze=False), facets, strict=True
    ):
        rows = table[table["facet"] == facet]
        named = facet_title(facet, names or {})
        head = f"{named}\n" if named else ""
        bests(left, rows, what, axis, labels, temperature_name, head=head)
        gains(right, rows, what, axis, labels, head=head)
    write_heading(figure, title)
    return figure


def bests(
    ax: Axes,
    rows: pd.DataFrame,
    what: Quantity,
    axis: GridAxis,
    labels: tuple[str, str],
    temperature_name: str,
    *,
    head: str = "",
) -> Axes:
    """Draw the best of every load in both sweeps with 95% intervals and, in small type, its
    temperature.
    """
    for which, colour, label, aside in (
        ("this", THIS, labels[0], -ASIDE),
        ("other", OTHER, labels[1], ASIDE),
    ):
        _points(
            ax, rows, (f"best_{which}", f"low_{which}", f"high_{which}"), axis, colour, label, aside
        )
        if temperature_name:
            _write_temperatures(ax, rows, which, axis, colour, aside)
    _axes(ax, axis)
    ax.margins(y=0.14)
    ax.set_ylabel(what.title())
    ax.legend(loc="lower right" if what.better == "higher" else "upper right")
    at = f"; small: {temperature_name} at the best" if temperature_name else ""
    write_title(ax, f"{head}best {what.label} of each load", f"{_bars(rows, 'low_this')}{at}")
    return ax


def gains(
    ax: Axes,
    rows: pd.DataFrame,
    what: Quantity,
    axis: GridAxis,
    labels: tuple[str, str],
    *,
    head: str = "",
) -> Axes:
    """Draw the gain of the first sweep over the second with its 95% interval; positive: the first
    is better.
    """
    _points(ax, rows, ("gain", "gain_low", "gain_high"), axis, GAIN, None)
    ax.axhline(0.0, color="0.5", linewidth=0.6, zorder=0)
    _axes(ax, axis)
    unit = difference_unit(what)
    ax.set_ylabel(f"gain ({unit})" if unit else "gain")
    alone = int(rows["gain"].isna().sum())
    left_out = f"; {counted(alone, 'load')} in one sweep only" if alone else ""
    write_title(
        ax, f"{head}gain of {labels[0]} over {labels[1]}", _bars(rows, "gain_low") + left_out
    )
    return ax


def _points(
    ax: Axes,
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    axis: GridAxis,
    colour: str,
    label: str | None,
    aside: float = 0.0,
) -> None:
    """Draw a line through the finite values, with bars from low to high (`columns`), shifted
    `aside` by this many points.
    """
    value, low, high = columns
    there = rows.dropna(subset=[value])
    x = [axis.centres[axis.index(str(name))] for name in there["load_label"]]
    figure = ax.get_figure(root=True)
    assert figure is not None
    moved = offset_copy(ax.transData, figure, x=aside, units="points")
    y = there[value].to_numpy(dtype=float)
    ax.plot(
        x, y, color=colour, linewidth=1.1, marker="o", markersize=3, label=label, transform=moved
    )
    ax.update_datalim(  # moved artists do not do this by themselves
        [(a, b) for name in columns for a, b in zip(x, there[name], strict=True) if pd.notna(b)]
    )
    ax.autoscale_view()
    # Not error bars: the best of all seeds is biased, so the interval, which is from other seeds,
    # may not contain it.
    for place, *ends in zip(x, there[low], there[high], strict=True):
        ax.plot(
            [place, place],
            ends,
            color=colour,
            linewidth=0.8,
            marker="_",
            markersize=3.6,
            transform=moved,
        )


def _write_temperatures(
    ax: Axes, rows: pd.DataFrame, which: str, axis: GridAxis, colour: str, aside: float
) -> None:
    """Write the temperature of each best: above its bar in the better sweep, below in the worse
    one.
    """
    for row in rows.dropna(subset=[f"best_{which}"]).to_dict("records"):
        this, other = float(row["best_this"]), float(row["best_other"])
        above = pd.isna(this) or pd.isna(other) or (which == "this") == (this >= other)
        best, end = row[f"best_{which}"], row[f"{'high' if above else 'low'}_{which}"]
        ax.annotate(
            str(row[f"temperature_label_{which}"]),
            (axis.centres[axis.index(str(row["load_label"]))], best if pd.isna(end) else end),
            (aside, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=5.5,
            color=colour,
            gid="temperature",
        )


def _axes(ax: Axes, axis: GridAxis) -> None:
    if axis.spacing == "log":
        ax.set_xscale("log")
    set_ticks(ax.xaxis, axis, tick_room(ax, axis))
    ax.set_xlim(axis.edges[0], axis.edges[-1])
    ax.set_xlabel(f"{axis.name}  (load →)" if axis.name else "")
    ax.spines[["top", "right"]].set_visible(False)


def _bars(rows: pd.DataFrame, column: str) -> str:
    known = rows[column].notna().any()
    return "bars: 95% over other seeds" if known else "no valid interval"
