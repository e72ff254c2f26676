"""Draw a phase diagram: one table of cells onto one Axes. Only positions of ink are computed
here.
"""

import textwrap

import numpy as np
import pandas as pd
from matplotlib import patheffects, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm, Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from phasegrid.analysis.draw.colours import ColourScale, colour_scale
from phasegrid.analysis.draw.marks import collapsed_handle, mark_collapsed
from phasegrid.analysis.draw.scales import Frame, GridAxis
from phasegrid.analysis.draw.style import (
    DIVERGED,
    FAILED,
    INAPPLICABLE,
    MISSING,
    NEGATIVE,
    NOT_CONVERGED,
    NOT_TRAINED,
    PHASE_COLOURS,
    PHASE_MEANINGS,
    UNDEFINED,
    UNSURE,
    ZERO,
    Hatch,
)
from phasegrid.analysis.draw.ticks import inches, set_ticks, tick_room, write_bar_ticks
from phasegrid.analysis.phases.label import PHASES
from phasegrid.analysis.phases.phase_map import EVERY_DIVERGED, NO_LOGARITHM, UNDETERMINED
from phasegrid.analysis.phases.regions import borders, centres, label_array
from phasegrid.analysis.stats.aggregate import counts_in_words
from phasegrid.analysis.tables.quantities import Quantity, base_of

HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]


EMPTY = {
    MISSING: "not measured",
    FAILED: "failed",
    DIVERGED: EVERY_DIVERGED,
    NEGATIVE: "negative: no logarithm",
    ZERO: "zero within rounding: no logarithm",
    UNDEFINED: "measured, but undefined",
    INAPPLICABLE: "not applicable: a trial diverged",
    NOT_TRAINED: "not trained: half of the seeds or more learned nothing",
}
STATUS = {
    "missing": MISSING,
    "failed": FAILED,
    "diverged": DIVERGED,
    "negative": NEGATIVE,
    "zero": ZERO,
    "undefined": UNDEFINED,
    "not applicable": INAPPLICABLE,
}
"""The filling of a cell without a number, by its status in the table of `aggregate`."""
HATCHED_PHASES = {"NC": NOT_CONVERGED, "not trained": NOT_TRAINED}
"""The additional filling of cells of these phases in the map of phases."""


def phase_diagram(
    ax: Axes,
    table: pd.DataFrame,
    quantity: Quantity,
    frame: Frame,
    *,
    phases: pd.DataFrame | None = None,
    colours: ColourScale | None = None,
    title: str | None = None,
    colour_bar: bool = True,
    legend: bool = True,
    note: str = "",
) -> Axes:
    """Draw one quantity of one facet: a rectangle per cell, hatched if the cell has no number.

    `table` has the rows of `aggregate` for this quantity and facet. `phases` has the rows of
    `label_phases`, to draw borders and names. `colours` is the scale that panels share (default:
    from this table). A small digit in a cell is its n, if that differs from the commonest n; a
    triangle in its corner means collapsed seeds. Cells that are not trained have no colour, because
    the Hessian of a network that learned nothing vanishes and would look like the flattest. `note`
    is written after the counts.
    """
    scale = colours or colour_scale(table, quantity)
    trained = table[~table["not_trained"]]
    mesh = value_mesh(ax, trained, "value", frame, quantity.colours, scale.norm())
    draw_axes(ax, frame)
    hatch_cells(ax, table, frame)
    mark_collapsed(ax, trained, frame)
    _write_odd_counts(ax, table, frame)
    if phases is not None:
        draw_borders(ax, phases, frame)
    write_title(ax, quantity.title() if title is None else title, f"{counts_in_words(table)}{note}")
    if colour_bar and trained["value"].notna().any():
        bar = ax.figure.colorbar(mesh, ax=ax, extend=scale.extend, pad=0.02, aspect=22)
        bar.outline.set_linewidth(0.4)
        write_bar_ticks(bar, scale.ticks)
        bar.set_label(base_of(quantity).title())
    if legend and (handles := status_handles(table)):
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    return ax


def phase_map(
    ax: Axes, phases: pd.DataFrame, frame: Frame, *, title: str = "phase", legend: bool = True
) -> Axes:
    """Draw the nearest phase of every cell of one facet: stippled if it is undetermined, hatched if
    there is none or the cell did not converge.
    """
    names = label_array(phases, frame.load, frame.temperature)
    codes = np.array([[PHASES.index(name) if name else -1 for name in row] for row in names])
    ax.pcolormesh(
        frame.load.edges,
        frame.temperature.edges,
        np.ma.masked_less(codes, 0),
        cmap=ListedColormap([PHASE_COLOURS[phase] for phase in PHASES]),
        norm=BoundaryNorm(np.arange(len(PHASES) + 1) - 0.5, len(PHASES)),
        edgecolors="face",
        linewidth=0.2,
    )
    draw_axes(ax, frame)
    for phase, style in HATCHED_PHASES.items():
        for row in phases[phases["nearest"] == phase].to_dict("records"):
            ax.add_patch(_cell(frame, row["load_label"], row["temperature_label"], style))
    for row in phases[phases["phase"] == UNDETERMINED].to_dict("records"):
        style = UNSURE if isinstance(row["nearest"], str) else _why_empty(row["reason"])
        ax.add_patch(_cell(frame, row["load_label"], row["temperature_label"], style))
    mark_collapsed(ax, phases, frame)
    draw_borders(ax, phases, frame)
    unsure = int((phases["phase"] == UNDETERMINED).sum())
    write_title(ax, title, f"{unsure} of {len(phases)} cells undetermined")
    if legend:
        ax.legend(handles=phase_handles(phases), loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return ax


def value_mesh(
    ax: Axes, table: pd.DataFrame, column: str, frame: Frame, colours: str, norm: Normalize
) -> QuadMesh:
    """Colour the cells of one facet by a column of numbers; cells without a number stay empty.

    On a logarithmic scale a loss of exactly 0 has the colour of values below the limits.
    """
    values = np.full((len(frame.temperature.labels), len(frame.load.labels)), np.nan)
    for row in table[["temperature_label", "load_label", column]].itertuples(index=False):
        values[frame.temperature.index(str(row[0])), frame.load.index(str(row[1]))] = row[2]
    if isinstance(norm, LogNorm):
        assert norm.vmin is not None
        values = np.where(values <= 0, norm.vmin / 2, values)
    return ax.pcolormesh(
        frame.load.edges,
        frame.temperature.edges,
        np.ma.masked_invalid(values),
        cmap=colours,
        norm=norm,
        edgecolors="face",
        linewidth=0.2,
    )


def draw_axes(ax: Axes, frame: Frame) -> None:
    """Set scales, limits, directions, names and ticks: load to the right, temperature upward, a
    tick per value.
    """
    for axis, scale in ((ax.xaxis, frame.load), (ax.yaxis, frame.temperature)):
        set_scale = ax.set_xscale if axis is ax.xaxis else ax.set_yscale
        set_scale("log" if scale.spacing == "log" else "linear")
        room = tick_room(ax, scale) if axis is ax.xaxis else tick_room(ax, scale, upright=True)
        set_ticks(axis, scale, room)
    ax.set_xlim(*_ends(frame.load))
    ax.set_ylim(*_ends(frame.temperature))
    ax.set_xlabel(f"{frame.load.name}  (load →)" if frame.load.name else "")
    ax.set_ylabel(f"{frame.temperature.name}  (temperature →)" if frame.temperature.name else "")


def hatch_cells(ax: Axes, table: pd.DataFrame, frame: Frame) -> None:
    """Hatch the cells without a number, by the reason, and the cells that are not trained."""
    for row in table.to_dict("records"):
        style = NOT_TRAINED if row["not_trained"] else STATUS.get(str(row["status"]))
        if style is not None:
            ax.add_patch(_cell(frame, row["load_label"], row["temperature_label"], style))


def draw_borders(ax: Axes, phases: pd.DataFrame, frame: Frame) -> None:
    """Draw the borders between phases, dashed between IV-A and IV-B, and write each phase's name in
    its largest region.
    """
    lines = borders(phases, frame.load, frame.temperature)
    for soft, dash, width in ((True, (0, (2, 1.5)), 1.0), (False, "solid", 1.4)):
        chosen = lines[lines["within_iv"] == soft]
        segments = [
            [(row["x0"], row["y0"]), (row["x1"], row["y1"])] for row in chosen.to_dict("records")
        ]
        # All the white first: halos segment by segment would cut the black line into dashes.
        for colour, thickness, style in (("white", width + 1.4, "solid"), ("black", width, dash)):
            ax.add_collection(
                LineCollection(
                    segments,
                    colors=colour,
                    linewidths=thickness,
                    linestyles=[style],
                    capstyle="projecting" if style == "solid" else "butt",
                ),
                autolim=False,
            )
    for row in centres(phases, frame.load, frame.temperature).to_dict("records"):
        ax.text(
            float(row["x"]),
            float(row["y"]),
            str(row["phase"]),
            ha="center",
            va="center",
            fontsize=8.5 if int(row["cells"]) > 3 else 7,
            fontweight="bold",
            path_effects=HALO,
            gid="phase-name",
        )


def status_handles(table: pd.DataFrame) -> list[Patch | Line2D]:
    """Return the legend of the hatches and marks that occur in a table."""
    trained = table[~table["not_trained"]]
    found = set(trained["status"])
    styles = [style for status, style in STATUS.items() if status in found]
    styles += [NOT_TRAINED] if len(trained) < len(table) else []
    handles: list[Patch | Line2D] = [_swatch(EMPTY[style], style) for style in styles]
    return [*handles, collapsed_handle()] if (trained["n_collapsed"] > 0).any() else handles


def phase_handles(phases: pd.DataFrame, *, stippled: bool = True) -> list[Patch | Line2D]:
    """Return the legend of the phases that occur, with their meanings. `stippled` adds cells
    without a phase, and marks.
    """
    found = set(phases["nearest"].dropna())
    handles: list[Patch | Line2D] = []
    unsure = phases["phase"] == UNDETERMINED
    for phase in (phase for phase in PHASES if phase in found):
        handles.append(_phase_swatch(phase, stippled, bool(phases["hessian_measured"].any())))
        if not stippled and unsure[phases["nearest"] == phase].all():
            handles[-1].set_label(f"{handles[-1].get_label()}; undetermined")
    if not stippled:
        return handles
    if (unsure & phases["nearest"].notna()).any():
        handles.append(_swatch("undetermined (nearest phase in colour)", UNSURE, "#8fa3a8"))
    if (unsure & phases["nearest"].isna()).any():
        reasons = phases.loc[unsure & phases["nearest"].isna(), "reason"]
        styles = {_why_empty(reason) for reason in reasons}
        handles += [_swatch(label, style) for style, label in EMPTY.items() if style in styles]
    return [*handles, collapsed_handle()] if (phases["n_collapsed"] > 0).any() else handles


def write_title(ax: Axes, title: str, caption: str) -> None:
    """Write the title above the axes, and the caption below it, small and grey."""
    size = 6.3
    width = ax.get_position().width * inches(ax)[0] * 72
    lines = textwrap.wrap(caption, max(20, int(width / (0.54 * size))))
    letter = 0.62 * FontProperties(size=rcParams["axes.titlesize"]).get_size_in_points()
    title = wrapped(title, width / letter)
    ax.set_title(title, loc="left", pad=4.5 + 8 * len(lines), fontweight="bold")
    note = ax.annotate(
        "\n".join(lines),
        (0, 1),
        (0, 3),
        "axes fraction",
        "offset points",
        fontsize=size,
        color="0.35",
        va="bottom",
    )
    note.set_in_layout(False)  # the title's padding makes room above it; wrapping limits its width


def wrapped(title: str, letters: float) -> str:
    """Break the lines of a title that are longer than so many letters, at spaces, preferably after
    commas.

    >>> wrapped("mode connectivity, epochs=150, lr=0.003", 24)
    'mode connectivity,\\nepochs=150, lr=0.003'
    """
    room = max(12, int(letters))
    lines = []
    for line in title.split("\n"):
        head, comma, rest = line.partition(", ")
        fits = len(line) <= room or not comma or len(head) > room
        lines += [line] if fits else [f"{head},", rest]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, room) or [""])


def _why_empty(reason: str) -> Hatch:
    if reason in NO_LOGARITHM:
        return ZERO if reason.endswith("zero") else NEGATIVE
    return DIVERGED if reason == EVERY_DIVERGED else MISSING


def _write_odd_counts(ax: Axes, table: pd.DataFrame, frame: Frame) -> None:
    done = table[table["status"] == "done"]
    if done.empty:
        return
    usual = done["n"].mode().iloc[-1]
    for row in done[done["n"] != usual].to_dict("records"):
        i, j = (
            frame.load.index(str(row["load_label"])),
            frame.temperature.index(str(row["temperature_label"])),
        )
        ax.annotate(
            str(row["n"]),
            (frame.load.centres[i], frame.temperature.centres[j]),
            ha="center",
            va="center",
            fontsize=5.5,
            path_effects=[patheffects.withStroke(linewidth=1.2, foreground="white")],
            gid="odd-count",
        )


def _ends(axis: GridAxis) -> tuple[float, float]:
    low, high = axis.edges[0], axis.edges[-1]
    return (high, low) if axis.inverted else (low, high)


def _cell(frame: Frame, load: object, temperature: object, style: Hatch) -> Rectangle:
    i, j = frame.load.index(str(load)), frame.temperature.index(str(temperature))
    x0, x1 = frame.load.edges[i : i + 2]
    y0, y1 = frame.temperature.edges[j : j + 2]
    return Rectangle(
        (x0, y0),
        x1 - x0,
        y1 - y0,
        linewidth=0,
        hatch=style.hatch,
        facecolor=style.facecolor,
        edgecolor=style.edgecolor,
    )


def _phase_swatch(phase: str, hatched: bool, by_hessian: bool) -> Patch:
    meaning = PHASE_MEANINGS[phase]
    if not by_hessian:
        meaning = meaning.replace("sharp", "high training loss").replace(
            "flat", "low training loss"
        )
    text = f"{phase}  {meaning}"
    if phase == "not trained":  # in the words of the panels, so that a figure has one name for it
        return _swatch(EMPTY[NOT_TRAINED], NOT_TRAINED)
    if phase in HATCHED_PHASES and hatched:
        return _swatch(text, HATCHED_PHASES[phase], PHASE_COLOURS[phase])
    return Patch(facecolor=PHASE_COLOURS[phase], label=text)


def _swatch(label: str, style: Hatch, facecolor: str | None = None) -> Patch:
    return Patch(
        label=label,
        linewidth=0.4,
        hatch=style.hatch,
        facecolor=facecolor or style.facecolor,
        edgecolor=style.edgecolor,
    )


def rows_of(table: pd.DataFrame, quantity: str, facet: str) -> pd.DataFrame:
    """Return the rows of one quantity and one facet."""
    return table[(table["quantity"] == quantity) & (table["facet"] == facet)]
