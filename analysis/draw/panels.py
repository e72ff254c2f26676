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
from phasegrid.config.template import METRICS

COLUMNS = 4
PANEL = (3.35, 2.75)  # inches
FACET_PANEL = (2.5, 2.5)  # inches, if facets are side by side and share a colour bar
SHORT = {"dataset.fraction": "data fraction", "dataset.image_noise": "image noise"}
"""Names of facets that are shorter than those of axes."""
FLAT = 0.2
"""A panel with a smaller share of the colours is nearly of one."""
COLOURS_OF_ITS_OWN = "; colours of its own"
ALIKE = "; the same in every facet"


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
    share_colours: bool | None = None,
    only: Sequence[str] = (),
) -> Figure:
    """Draw those of the quantities `names` that were measured or failed, and, last, the phase map,
    in two rows of four (or in rows of `columns`).

    Each facet becomes a column and each quantity a row, and a row shares its colours (Yang et al.
    2021, Fig. 6), or as `share_colours` says (`colours_of`). What facets do not change has one
    panel (`facets_of`). `table` is the table of `aggregate`; `labels` replace the names of
    quantities; `known` are the declared quantities. Without `with_phases` there are neither borders
    nor the map. Variants of one quantity share their colours, with those of other figures too
    (`beside`). `stage` is the stage that the phases are of. Facets that are not among `only`,
    if it has any, have no panels, but count for the colours and the legend.
    """
    called = dict(
        zip(names, labels or [quantity(name, known).label for name in names], strict=True)
    )
    drawn = [
        name
        for name in names
        if rows_of_quantity(table, name)["status"].isin(["done", "failed"]).any()
    ]
    every = list(only) or [str(facet) for facet in phases.table["facet"].unique()]
    panels: list[str | None] = [*drawn, *([None] if with_phases else [])]
    places = {name: every if name is None else facets_of(table, name, every) for name in panels}
    facets = every if any(len(one) > 1 for one in places.values()) else every[:1]
    rows, across = grid_shape(len(panels), len(facets), columns)
    figure = panel_figure(rows, across, len(facets))
    axes = figure.subplots(rows, across, squeeze=False)
    together = [quantity(one, known) for one in dict.fromkeys([*drawn, *beside])]
    called_phases = f"phases, stage={stage}" if stage else "phases"
    first = next((name for name in panels if len(places[name]) > 1), None)
    for place, name in enumerate(panels):
        what = None if name is None else quantity(name, known)
        heads = [
            f"{facet_title(facet, frame.names)}\n" if name == first and facets[1:] else ""
            for facet in facets
        ]
        _row_of_panels(
            list(axes.flat[place * len(facets) : (place + 1) * len(facets)]),
            table,
            what,
            {facet: phases.table[phases.table["facet"] == facet] for facet in places[name]},
            frame,
            colours={} if what is None else colours_of(table, what, together, every, share_colours),
            titles=[f"{head}{called[name] if name else called_phases}" for head in heads],
            borders=with_phases,
        )
    trim_panels(list(axes.flat), across, len(panels) * len(facets))
    _add_legend(figure, table[table["quantity"].isin(drawn)], phases.table if with_phases else None)
    write_heading(figure, title)
    return figure


def facets_of(table: pd.DataFrame, name: str, facets: Sequence[str]) -> list[str]:
    """Return the facets that have a panel of a quantity: the first alone if facets are arguments of
    metrics and the quantity has the same numbers in all, those of the trials that they share.
    """
    paths = [path for facet in facets for path, _ in json.loads(facet)]
    if not all(path.startswith(f"{METRICS}.") for path in paths):
        return list(facets)
    columns = ["load_label", "temperature_label", "status", "value", "stderr"]
    first, *others = (rows_of(table, name, facet)[columns] for facet in facets)
    alike = all(one.reset_index(drop=True).equals(first.reset_index(drop=True)) for one in others)
    return list(facets[:1]) if alike else list(facets)


def colours_of(
    table: pd.DataFrame,
    what: Quantity,
    drawn: Sequence[Quantity],
    facets: Sequence[str],
    shared: bool | None = None,
) -> dict[str, ColourScale]:
    """Return the colours of a quantity in each facet, which its variants in the figure share. The
    facets share them too, unless `shared` is false or, if it is null, the numbers of no two facets
    overlap and those of one would take less than `FLAT` of the colours.
    """
    base = base_of(what)
    variants = [one.name for one in drawn if base_of(one) == base]
    rows = table[table["quantity"].isin(variants)]
    scale = colour_scale(rows, base)
    own = {facet: colour_scale(rows[rows["facet"] == facet], base) for facet in facets}
    if shared is None:
        shared = base.limits is not None or base.centre is not None or not _lie_apart(rows, scale)
    return dict.fromkeys(facets, scale) if shared else own


def _lie_apart(rows: pd.DataFrame, scale: ColourScale) -> bool:
    """Say whether no two facets overlap, and one of several numbers is `FLAT`."""
    done = rows[(rows["status"] == "done") & ((rows["value"] > 0) | (not scale.log))]
    ends = done.groupby("facet")["value"].agg(["min", "max"]).sort_values("min")
    low, high = (scale.norm()(ends[end].to_numpy()) for end in ("min", "max"))
    several = high > low
    apart = bool((low[1:] > high[:-1]).all())
    return apart and bool(several.all()) and bool((high - low < FLAT).any())


def rows_of_quantity(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of one quantity, all facets."""
    return table[table["quantity"] == name]


def facet_title(facet: str, names: Mapping[str, str]) -> str:
    """Return a facet as a title; `names` are the sweep's, by path.

    >>> facet_title('[["dataset.fraction",0.5],["model.depth",3]]', {"model.depth": "layers"})
    'data fraction = 0.5, layers = 3'
    """
    usual = {**SHORT, **names}
    parts = [
        (usual.get(path, axis_name(path)), short_label(path, value))
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
        heads[int(row["cell"])] = ", ".join(
            filter(None, [facet_title(str(row["facet"]), frame.names), *named])
        )
    return heads


def headed(
    rows: pd.DataFrame, heads: Mapping[int, str], ways: Mapping[str, str]
) -> tuple[list[dict[Any, Any]], str]:
    """Return measurements with the ``head`` of their panel: their cell, by `heads`, if they have
    one, and their way of measuring (``line``), by `ways`; and what all heads would share, which
    they do not repeat.
    """
    found = rows.to_dict("records")
    texts = []
    for row in found:
        cell = "" if pd.isna(row["cell"]) else heads[int(row["cell"])]
        number = f"cell {int(row['cell'])}" if not pd.isna(row["cell"]) and len(heads) > 1 else ""
        texts.append(", ".join(filter(None, [cell or number, ways[row["line"]]])))
    apart, shared = told_apart(texts)
    return [{**row, "head": head} for row, head in zip(found, apart, strict=True)], shared


def told_apart(heads: Sequence[str]) -> tuple[list[str], str]:
    """Return the names of panels without the parts that all of them have, and these parts.

    >>> told_apart(["width 4, of=bend, at=0", "width 4, of=bend, at=2"])
    (['at=0', 'at=2'], 'width 4, of=bend')
    >>> told_apart(["width 4"])
    (['width 4'], '')
    """
    parts = [head.split(", ") for head in heads]
    if len(set(heads)) < 2:
        return list(heads), ""
    shared = [part for part in parts[0] if all(part in other for other in parts)]
    left = [", ".join(part for part in own if part not in shared) for own in parts]
    return left, ", ".join(shared)


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


def _row_of_panels(
    axes: Sequence[Axes],
    table: pd.DataFrame,
    what: Quantity | None,
    cells: Mapping[str, pd.DataFrame],
    frame: Frame,
    *,
    colours: Mapping[str, ColourScale],
    titles: Sequence[str],
    borders: bool,
) -> None:
    """Draw one quantity, or the phases if `what` is None, for the facets of `cells` (rows of the
    phase table); remove the other axes.
    """
    own = len(set(colours.values())) > 1
    for ax, facet, title in zip(axes, cells, titles, strict=False):
        if what is None:
            phase_map(ax, cells[facet], frame, title=title, legend=False)
            continue
        phase_diagram(
            ax,
            rows_of(table, what.name, facet),
            what,
            frame,
            phases=cells[facet] if borders else None,
            colours=colours[facet],
            title=title,
            colour_bar=own or facet == list(cells)[-1],
            legend=False,
            note=COLOURS_OF_ITS_OWN * own + ALIKE * (len(cells) < len(colours)),
        )
    for ax in axes[len(cells) :]:
        ax.remove()


def _add_legend(figure: Figure, drawn: pd.DataFrame, phases: pd.DataFrame | None) -> None:
    handles = [] if phases is None else phase_handles(phases)
    named = {str(handle.get_label()) for handle in handles}
    handles += [h for h in status_handles(drawn) if h.get_label() not in named]
    if handles:
        columns = min(len(handles), max(2, int(figure.get_figwidth() / 3.3)), 5)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
