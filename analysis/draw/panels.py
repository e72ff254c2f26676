"""Draw figures of several diagrams on the same axes: the seven panels of Yang et al. 2021 and their
phases.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.colours import ColourScale, colour_scale
from phasegrid.analysis.draw.diagrams import (
    phase_diagram,
    phase_handles,
    phase_map,
    rows_of,
    status_handles,
)
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.scales import Frame, axis_name
from phasegrid.analysis.phases.phase_map import PhaseMap
from phasegrid.analysis.tables.quantities import QUANTITIES, SEVEN, Quantity, base_of, quantity
from phasegrid.config.labels import short_label

COLUMNS = 4
PANEL = (3.35, 2.75)  # inches
FACET_PANEL = (2.5, 2.5)  # inches, if facets are side by side and share a colour bar
SHORT = {"dataset.fraction": "data fraction", "dataset.image_noise": "image noise"}
"""Names of facets that are shorter than those of axes."""


def seven_panels(
    table: pd.DataFrame,
    phases: PhaseMap,
    frame: Frame,
    names: Sequence[str] = SEVEN,
    *,
    title: str = "",
    labels: Sequence[str] | None = None,
    with_phases: bool = True,
    columns: int | None = None,
    known: Mapping[str, Quantity] = QUANTITIES,
    beside: Sequence[str] = (),
    stage: str = "",
) -> Figure:
    """Draw those of the quantities `names` that were measured or failed, and, last, the phase map,
    in two rows of four (or in rows of `columns`).

    Each facet becomes a column and each quantity a row, and a row shares its colours (Yang et al.
    2021, Fig. 6). `table` is the table of `aggregate`; `labels` replace the names of quantities;
    `known` are the declared quantities. Without `with_phases` there are neither borders nor the
    map. Variants of one quantity share their colours, with those of other figures too (`beside`).
    `stage` is the stage that the phases are of.
    """
    called = dict(
        zip(names, labels or [quantity(name, known).label for name in names], strict=True)
    )
    drawn = [
        name
        for name in names
        if rows_of_quantity(table, name)["status"].isin(["done", "failed"]).any()
    ]
    facets = [str(facet) for facet in phases.table["facet"].unique()]
    panels: list[str | None] = [*drawn, *([None] if with_phases else [])]
    rows, across = grid_shape(len(panels), len(facets), columns)
    figure = panel_figure(rows, across, len(facets))
    axes = figure.subplots(rows, across, squeeze=False)
    together = [quantity(one, known) for one in dict.fromkeys([*drawn, *beside])]
    phases_title = f"phases, stage={stage}" if stage else "phases"
    for place, name in enumerate(panels):
        what = None if name is None else quantity(name, known)
        colours = None if what is None else _shared(table, what, together)
        for column, facet in enumerate(facets):
            head = f"{facet_title(facet)}\n" if len(facets) > 1 and place == 0 else ""
            ax = axes.flat[place * len(facets) + column]
            cells = phases.table[phases.table["facet"] == facet]
            _panel(
                ax,
                table,
                what,
                cells,
                frame,
                colours=colours,
                title=f"{head}{called[name] if name else phases_title}",
                borders=with_phases,
                colour_bar=column == len(facets) - 1,
            )
    trim_panels(list(axes.flat), across, len(panels) * len(facets))
    _add_legend(figure, table[table["quantity"].isin(drawn)], phases.table if with_phases else None)
    write_heading(figure, title)
    return figure


def rows_of_quantity(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of one quantity, all facets."""
    return table[table["quantity"] == name]


def facet_title(facet: str) -> str:
    """Return a facet as a title.

    >>> facet_title('[["dataset.fraction",0.5],["model.depth",3]]')
    'data fraction = 0.5, depth = 3'
    """
    parts = [
        (SHORT.get(path, axis_name(path)), short_label(path, value))
        for path, value in json.loads(facet)
    ]
    return ", ".join(f"{name} = {value}" for name, value in parts)


def cell_heads(cells: pd.DataFrame, frame: Frame, without: str | None = None) -> dict[int, str]:
    """Name each cell by its facet and by the axes on which the cells differ, `without` one of them;
    a cell without any has an empty name.
    """
    axes = [
        (axis.name, name)
        for axis, name in ((frame.load, "load_label"), (frame.temperature, "temperature_label"))
        if cells[name].nunique() > 1 and name != f"{without}_label"
    ]
    heads = {}
    for row in cells.to_dict("records"):
        named = [f"{name} {row[label]}" for name, label in axes]
        heads[int(row["cell"])] = ", ".join(filter(None, [facet_title(str(row["facet"])), *named]))
    return heads


def head_of(row: Mapping[Any, Any], heads: Mapping[int, str], way: str) -> str:
    """Name the panel of a measurement by its cell, if it has one, and by its way of measuring."""
    cell = ""
    if not pd.isna(row["cell"]):
        number = int(row["cell"])
        cell = heads[number] or (f"cell {number}" if len(heads) > 1 else "")
    return ", ".join(filter(None, [cell, way]))


def grid_shape(panels: int, facets: int, columns: int | None = None) -> tuple[int, int]:
    """Return rows and columns of panels: a column per facet, or without facets `columns` (default:
    up to four).

    No panel is alone in the last row; to avoid this, rows become longer.

    >>> grid_shape(8, 1), grid_shape(6, 1, 5), grid_shape(3, 6)
    ((2, 4), (1, 6), (3, 6))
    """
    if facets > 1:
        return panels, facets
    across = min(columns or COLUMNS, panels)
    while across > 1 and panels % across == 1:
        across += 1
    return math.ceil(panels / across), across


def panel_figure(rows: int, columns: int, facets: int) -> Figure:
    """Return an empty figure for a number of panels; panels are smaller if facets are side by
    side.
    """
    wide, high = PANEL if facets == 1 else FACET_PANEL
    return Figure(figsize=(wide * columns + 0.5, high * rows + 0.45), layout="constrained")


def trim_panels(axes: Sequence[Axes], columns: int, used: int) -> None:
    """Remove unused panels, and keep the names of axes only on the outer ones; ticks stay."""
    for ax in axes[used:]:
        ax.remove()
    for place, ax in enumerate(axes[:used]):
        if place % columns:
            ax.set_ylabel("")
        if place + columns < used:
            ax.set_xlabel("")


def _panel(
    ax: Axes,
    table: pd.DataFrame,
    what: Quantity | None,
    cells: pd.DataFrame,
    frame: Frame,
    *,
    colours: ColourScale | None,
    title: str,
    borders: bool,
    colour_bar: bool,
) -> None:
    """Draw one quantity, or the phases if `what` is None, for the facet of `cells` (rows of the
    phase table).
    """
    if what is None:
        phase_map(ax, cells, frame, title=title, legend=False)
        return
    phase_diagram(
        ax,
        rows_of(table, what.name, str(cells["facet"].iloc[0])),
        what,
        frame,
        phases=cells if borders else None,
        colours=colours,
        title=title,
        colour_bar=colour_bar,
        legend=False,
    )


def _shared(table: pd.DataFrame, what: Quantity, drawn: Sequence[Quantity]) -> ColourScale:
    """Return the colour scale of a quantity, shared with its variants in the same figure."""
    base = base_of(what)
    variants = [one.name for one in drawn if base_of(one) == base]
    return colour_scale(table[table["quantity"].isin(variants)], base)


def _add_legend(figure: Figure, drawn: pd.DataFrame, phases: pd.DataFrame | None) -> None:
    handles = [] if phases is None else phase_handles(phases)
    named = {str(handle.get_label()) for handle in handles}
    handles += [h for h in status_handles(drawn) if h.get_label() not in named]
    if handles:
        columns = min(len(handles), max(2, int(figure.get_figwidth() / 3.3)), 5)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
