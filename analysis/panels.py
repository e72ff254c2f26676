"""Figures of several diagrams on the same axes: the seven panels of Yang et al. 2021 and their phases."""

import json
import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.colours import colour_scale
from analysis.diagrams import phase_diagram, phase_handles, phase_map, rows_of, status_handles
from analysis.phases import PhaseMap
from analysis.quantities import SEVEN, quantity
from analysis.scales import Frame, axis_name

COLUMNS = 4
PANEL = (3.35, 2.75)  # inches


def seven_panels(
    table: pd.DataFrame,
    phases: PhaseMap,
    frame: Frame,
    names: Sequence[str] = SEVEN,
    *,
    title: str = "",
) -> Figure:
    """Draw the quantities `names` that were measured and, last, the phase map, two rows of four.

    With facets each becomes a column and each quantity a row, colours shared along the row (Yang et al. 2021, Fig.
    6). `table` is the table of `aggregate`.
    """
    drawn = [name for name in names if rows_of_quantity(table, name)["value"].notna().any()]
    facets = [str(facet) for facet in phases.table["facet"].unique()]
    rows, columns = _shape(len(drawn) + 1, len(facets))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, name in enumerate([*drawn, None]):
        for column, facet in enumerate(facets):
            head = f"{facet_title(facet)}\n" if len(facets) > 1 and place == 0 else ""
            labels = phases.table[phases.table["facet"] == facet]
            ax = axes.flat[place * len(facets) + column]
            _panel(ax, table, name, labels, frame, head)
    used = (len(drawn) + 1) * len(facets)
    for ax in axes.flat[used:]:
        ax.remove()
    _trim_labels(list(axes.flat[:used]), columns, used)
    handles = phase_handles(phases.table)
    named = {str(handle.get_label()) for handle in handles}
    handles += [
        h
        for h in status_handles(table[table["quantity"].isin(drawn)])
        if h.get_label() not in named
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _panel(
    ax: Axes, table: pd.DataFrame, name: str | None, labels: pd.DataFrame, frame: Frame, head: str
) -> None:
    """Draw one quantity, or the phases where `name` is None, of the facet that `labels` are of."""
    if name is None:
        phase_map(ax, labels, frame, title=f"{head}phases", legend=False)
        return
    what = quantity(name)
    phase_diagram(
        ax,
        rows_of(table, name, str(labels["facet"].iloc[0])),
        what,
        frame,
        phases=labels,
        colours=colour_scale(rows_of_quantity(table, name), what),
        title=f"{head}{what.label}",
        legend=False,
    )


def rows_of_quantity(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of one quantity, all facets."""
    return table[table["quantity"] == name]


def facet_title(facet: str) -> str:
    """Return a facet as a title.

    >>> facet_title('[["dataset.fraction",0.5],["model.depth",3]]')
    'fraction of the training set = 0.5, depth = 3'
    """
    return ", ".join(f"{axis_name(path)} = {value}" for path, value in json.loads(facet))


def _shape(panels: int, facets: int) -> tuple[int, int]:
    if facets > 1:
        return panels, facets
    columns = min(COLUMNS, panels)
    return math.ceil(panels / columns), columns


def _trim_labels(axes: Sequence[Axes], columns: int, used: int) -> None:
    """Keep the names of the axes at the outer panels only; ticks stay everywhere."""
    for place, ax in enumerate(axes):
        if place % columns:
            ax.set_ylabel("")
        if place + columns < used:
            ax.set_xlabel("")
