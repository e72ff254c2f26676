"""Draw figures of lines: cuts through the diagrams, and the connecting curves of every cell."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.curves import curve_grid, cuts
from phasegrid.analysis.draw.diagrams import phase_handles, rows_of
from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.panels import facet_title, facets_of, grid_shape
from phasegrid.analysis.draw.scales import Frame, GridAxis
from phasegrid.analysis.tables.quantities import NATS, QUANTITIES, Quantity, quantity

FEW_LINES = 5
CURVE_COLUMNS = 3
PANEL = (3.1, 2.5)  # inches


def cut_panels(
    table: pd.DataFrame,
    frame: Frame,
    names: Sequence[str],
    along: Literal["load", "temperature"],
    at: Sequence[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    title: str = "",
    known: Mapping[str, Quantity] = QUANTITIES,
) -> Figure:
    """Draw each quantity against one axis, with a line with standard errors for each value of the
    other (`at`: only these values).

    Each facet becomes a column and each quantity a row, with one vertical scale along the row.
    `labels` replace the names of quantities; `known` are the declared quantities.
    """
    called = labels or [quantity(name, known).label for name in names]
    every = [str(facet) for facet in table["facet"].unique()]
    places = {name: facets_of(table, name, every) for name in names}
    facets = every if any(len(one) > 1 for one in places.values()) else every[:1]
    first = next((name for name in names if len(places[name]) > 1), "")
    panels = [
        (name, label, facet) for name, label in zip(names, called, strict=True) for facet in facets
    ]
    rows, across = grid_shape(len(names), len(facets))
    figure = Figure(
        figsize=(PANEL[0] * across, PANEL[1] * rows + 0.3 + 0.3 * bool(title)), layout="constrained"
    )
    axes = figure.subplots(rows, across, squeeze=False, sharey="row" if len(facets) > 1 else False)
    for ax, (name, label, facet) in zip(axes.flat, panels, strict=False):
        if facet not in places[name]:
            ax.remove()
            continue
        cuts(
            ax,
            rows_of(table, name, facet),
            quantity(name, known),
            frame,
            along=along,
            at=at,
            legend=False,
            head=facet_title(facet, frame.names) if name == first else "",
            label=label,
        )
        if len(facets) > 1 and facet != facets[0]:
            ax.set_ylabel("")
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    _add_legend(figure, axes.flat[0])
    write_heading(figure, title)
    return figure


def curve_panels(
    curves: pd.DataFrame,
    phases: pd.DataFrame,
    frame: Frame,
    column: Literal["train_error_percent", "train_loss"] = "train_error_percent",
    *,
    title: str = "",
    loss_unit: str = NATS,
) -> Figure:
    """Draw the connecting curve of every cell (`curve_grid`), facets up to three side by side, on
    one scale.
    """
    facets = [str(facet) for facet in phases["facet"].unique()]
    wide = 0.62 * len(frame.load.labels) + 1.2
    tall = 0.42 * len(frame.temperature.labels) + 1.2
    across = min(len(facets), CURVE_COLUMNS)
    rows = -(-len(facets) // across)
    high = rows * max(tall, 2.8) + 0.7 + 0.3 * bool(title)
    figure = Figure(figsize=(max(wide, 5.4) * across, high), layout="constrained")
    highest = float(curves[column].max())
    step = 1.0 if column == "train_error_percent" or highest > 1 else 0.1
    top = max(step, float(np.ceil(highest / step)) * step)
    what = "error" if column == "train_error_percent" else "loss"
    stage = curves["stage"].iloc[0] if "stage" in curves else ""
    way = curves["way"].iloc[0] if "way" in curves else ""
    axes = figure.subplots(rows, across, squeeze=False)
    for ax in axes.flat[len(facets) :]:
        ax.remove()
    for ax, facet in zip(axes.flat, facets, strict=False):
        spots = phases[phases["facet"] == facet]
        head = facet_title(facet, frame.names) or f"training {what} along the connecting curve"
        named = [way, f"stage={stage}" if stage and "stage=" not in way else ""]
        head = ", ".join(filter(None, [head, *named]))
        curve_grid(
            ax, curves, spots, frame, top=top, title=head, column=column, loss_unit=loss_unit
        )
    if handles := phase_handles(phases.assign(n_collapsed=0), stippled=False):
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    write_heading(figure, title)
    return figure


def spread(axis: GridAxis) -> list[str]:
    """Return at most five labels of an axis, evenly spread from end to end."""
    places = np.linspace(0, len(axis.labels) - 1, min(FEW_LINES, len(axis.labels)))
    return [axis.labels[round(float(place))] for place in places]


def _add_legend(figure: Figure, ax: Axes) -> None:
    """Add a legend for the lines of one panel (all panels have the same), in as many columns as
    fit.
    """
    handles, texts = ax.get_legend_handles_labels()
    if texts:
        letters = max(len(text) for text in texts) + 6
        columns = max(1, min(len(texts), int(figure.get_figwidth() * 72 / (4.4 * letters))))
        figure.legend(handles, texts, loc="outside lower center", ncols=columns)
