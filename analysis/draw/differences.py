"""Draw diagrams of the differences between two sweeps, from a table."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from phasegrid.analysis.draw.colours import ColourScale, linear_scale
from phasegrid.analysis.draw.diagrams import draw_axes, hatch_cells, value_mesh, write_title
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.marks import dot_handle, mark_cells
from phasegrid.analysis.draw.panels import facet_title, grid_shape, panel_figure, trim_panels
from phasegrid.analysis.draw.scales import Frame
from phasegrid.analysis.draw.style import MISSING
from phasegrid.analysis.draw.ticks import write_bar_ticks
from phasegrid.analysis.tables.quantities import QUANTITIES, Quantity, difference_unit, quantity

COLOURS = "RdBu_r"
DIFFERS = "differs: 95% interval without 0"


def difference_panels(
    comparison: pd.DataFrame,
    frame: Frame,
    labels: Sequence[str],
    known: Mapping[str, Quantity] = QUANTITIES,
) -> Figure:
    """Draw the differences of every quantity of `compare_grids`, in rows of four; with facets, a
    column each.

    `labels` name the two sweeps, a and b; `known` are the declared quantities. One colour scale per
    quantity, symmetric about zero.
    """
    names = [str(name) for name in comparison["quantity"].unique()]
    facets = [str(facet) for facet in comparison["facet"].unique()]
    rows, across = grid_shape(len(names), len(facets))
    figure = panel_figure(rows, across, len(facets))
    axes = figure.subplots(rows, across, squeeze=False)
    for place, name in enumerate(names):
        table = comparison[comparison["quantity"] == name]
        colours = linear_scale(table["difference"].to_numpy(dtype=float), centre=0.0)
        for column, facet in enumerate(facets):
            difference_diagram(
                axes.flat[place * len(facets) + column],
                table[table["facet"] == facet],
                quantity(name, known),
                frame,
                colours,
                head=f"{facet_title(facet, frame.names)}\n"
                if len(facets) > 1 and place == 0
                else "",
                colour_bar=column == len(facets) - 1,
            )
    trim_panels(list(axes.flat), across, len(names) * len(facets))
    missing = Patch(
        label="not measured in both",
        hatch=MISSING.hatch,
        facecolor=MISSING.facecolor,
        edgecolor=MISSING.edgecolor,
        linewidth=0.4,
    )
    figure.legend(handles=[dot_handle(DIFFERS), missing], loc="outside lower center", ncols=2)
    write_heading(figure, f"{labels[1]} − {labels[0]}")
    return figure


def difference_diagram(
    ax: Axes,
    table: pd.DataFrame,
    what: Quantity,
    frame: Frame,
    colours: ColourScale,
    *,
    head: str = "",
    colour_bar: bool = True,
) -> Axes:
    """Draw the differences of one quantity and facet: diverging colours, a dot in each cell that
    differs, hatched where one of the sweeps has no number.
    """
    mesh = value_mesh(ax, table, "difference", frame, COLOURS, colours.norm())
    draw_axes(ax, frame)
    here = set(table[["load_label", "temperature_label"]].itertuples(index=False, name=None))
    empty = [
        (load, temperature)
        for load in frame.load.labels
        for temperature in frame.temperature.labels
        if (load, temperature) not in here
    ]
    absent = pd.DataFrame(empty, columns=["load_label", "temperature_label"])
    hatch_cells(ax, absent.assign(status="missing", not_trained=False), frame)
    differ = table[table["differs"] == True]  # noqa: E712  # null is neither
    mark_cells(ax, differ, frame)
    write_title(ax, f"{head}{what.label}", _caption(table, len(differ)))
    if colour_bar and len(table):
        bar = ax.figure.colorbar(mesh, ax=ax, extend=colours.extend, pad=0.02, aspect=22)
        bar.outline.set_linewidth(0.4)
        write_bar_ticks(bar, colours.ticks)
        unit = difference_unit(what)
        bar.set_label(f"difference ({unit})" if unit else "difference")
    return ax


def _caption(table: pd.DataFrame, differ: int) -> str:
    if table.empty:
        return "no cell measured in both"
    seeds = np.minimum(table["n_a"], table["n_b"])
    span = f"{seeds.min()}–{seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.min()}"
    judged = int(table["differs"].notna().sum())
    words = f"{differ} of {judged} differ" if judged else "no spread to judge by"
    return f"{len(table)} cells, at least {span} seeds; {words}"
