"""Draw the figures that every sweep gets: the diagram, what else was measured, curves and cuts."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from phasegrid.analysis.draw.lines import curve_panels, cut_panels, spread
from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.phases.phase_map import shows_something
from phasegrid.analysis.report.findings import Findings
from phasegrid.analysis.report.kinds import curve_column
from phasegrid.analysis.tables.along import measured_along
from phasegrid.analysis.tables.quantities import base_of, seven
from phasegrid.analysis.tables.variants import way_of
from phasegrid.texts import counted

MOST_PANELS = 12
MOST_ROWS = 5
"""A figure of what else was measured has at most so many panels, the map of phases included, or,
where facets stand side by side, so many rows of them.
"""
MOST_IN_FACETS = 16
"""The most panels of such a figure where facets stand side by side, if it has several rows."""
MOST_NAMED = 5
"""A note names at most so many quantities."""
FEW_PANELS = 5
"""The number of panels for a quantity with more than `MOST_PANELS` rows per job."""


def diagram_figure(found: Findings) -> Figure:
    """Return the figure of the seven panels and the phases."""
    same = same_everywhere(found)
    return _panels_figure(found, [name for name in seven(found.grid.task) if name not in same])


def further_figures(found: Findings) -> dict[str, Callable[[], Figure]]:
    """Return what makes the figures of the quantities beyond the seven: ``further``, or
    ``further_1``, ``further_2``, ... where one would hold more than `MOST_PANELS` panels. Of a
    quantity with more than `MOST_PANELS` rows a job, they show the first, the last and some
    between.
    """
    pages = further_pages(found)
    few = [name for page in pages for name in page]
    left_out = len(_further(found)) - len(few)
    notes = [f"{left_out} panels left out; tables/ has their numbers"] if left_out else []
    makers: dict[str, Callable[[], Figure]] = {}
    for number, page in enumerate(pages, start=1):
        several = [f"{number} of {len(pages)}"] if len(pages) > 1 else []
        note = f" ({'; '.join(several + notes)})" if several + notes else ""
        name = f"further_{number}" if several else "further"
        makers[name] = partial(_panels_figure, found, page, note, few)
    return makers


def further_pages(found: Findings) -> list[list[str]]:
    """Return the quantities of each figure of `further_figures`; variants of one stand together."""
    few = [name for family in _families(found, _further(found)) for name in _spread(family)]
    facets = len(found.grid.facets())
    most = MOST_PANELS if facets == 1 else min(MOST_ROWS, max(2, MOST_IN_FACETS // facets))
    variants = groupby(few, key=lambda name: base_of(found.grid.quantity(name)).name)
    groups = [list(group) for _, group in variants]
    return fill_pages(groups, most - shows_something(found.phases))


def fill_pages(groups: Sequence[Sequence[str]], most: int) -> list[list[str]]:
    """Share groups of panels out over as few pages as hold them, at most `most` panels a page and
    about as many on each. Only a group that is larger than a page is split.

    >>> fill_pages([["a"], ["b", "c"], ["d"], ["e"]], 3)
    [['a', 'b', 'c'], ['d', 'e']]
    """
    parts = [group[i : i + most] for group in groups for i in range(0, len(group), most)]
    total = sum(map(len, parts))
    even = math.ceil(total / math.ceil(total / most)) if parts else most
    pages: list[list[str]] = []
    for part in parts:
        if not pages or len(pages[-1]) >= even or len(pages[-1]) + len(part) > most:
            pages.append([])
        pages[-1] += part
    return pages


def _panels_figure(
    found: Findings, names: Sequence[str], note: str = "", beside: Sequence[str] = ()
) -> Figure:
    title = found.heading(f"{found.grid.sweep}{note}")
    return seven_panels(
        found.table,
        found.phases,
        found.frame,
        names,
        title=title,
        labels=found.labels(names),
        with_phases=shows_something(found.phases),
        known=found.grid.quantities,
        beside=beside,
        stage=found.grid.last_stage,
    )


def curves_figure(found: Findings) -> Figure:
    """Return the figure of the connecting curves, facets side by side."""
    column = curve_column(found.grid)
    grid = found.grid
    title = found.heading(grid.sweep)
    return curve_panels(
        grid.curves, found.phases.table, found.frame, column, title=title, loss_unit=grid.loss_unit
    )


def cuts_figure(found: Findings, along: Literal["load", "temperature"]) -> Figure:
    """Return the quantities of the seven panels as lines against one axis, for up to five values of
    the other.
    """
    names = _in_cuts(found)
    others = spread(found.frame.temperature if along == "load" else found.frame.load)
    labels = found.labels(names)
    return cut_panels(
        found.table, found.frame, names, along, others, labels=labels, known=found.grid.quantities
    )


def standard_figures(found: Findings) -> dict[str, Callable[[], Figure]]:
    """Return the functions that make the standard figures of a sweep, by the name of the file."""
    makers: dict[str, Callable[[], Figure]] = {}
    main = _in_cuts(found)
    if found.grid.load_path and found.grid.temperature_path:
        if main or not same_everywhere(found):
            makers["diagram"] = lambda: diagram_figure(found)
        makers |= further_figures(found)
    if found.grid.curves[curve_column(found.grid)].notna().any():
        makers["curves"] = lambda: curves_figure(found)
    if found.grid.load_path and main:
        makers["cuts_load"] = lambda: cuts_figure(found, "load")
    if found.grid.temperature_path and main:
        makers["cuts_temperature"] = lambda: cuts_figure(found, "temperature")
    return makers


def not_standard(found: Findings) -> list[tuple[str, str]]:
    """Return what is in no standard figure, each with the reason: quantities with nothing to show
    (`idle` in their declaration) or the same number in every cell, and figures that the axes of the
    sweep do not allow.
    """
    idle = _idle(found)
    told = [("further", f"{name}: {idle[own[0]]}") for name, own in _together(found, idle).items()]
    return [*told, *_alike(found), *_without_axes(found)]


def _together(found: Findings, names: Collection[str]) -> dict[str, list[str]]:
    """Group names of quantities by what readers call them, those along trainings as one."""
    alone = {place: one for one in measured_along(names) for place in one.names.values()}
    groups: dict[str, list[str]] = {}
    for name in names:
        one = alone.get(name)
        called = found.called(name)
        if one is not None:
            called = (
                f"{found.called(one.name)} at {counted(len(one.names), 'place')} along trainings"
            )
        groups.setdefault(called, []).append(name)
    return groups


def _without_axes(found: Findings) -> list[tuple[str, str]]:
    paths = {"load": found.grid.load_path, "temperature": found.grid.temperature_path}
    absent = [axis for axis, path in paths.items() if path is None]
    if not absent:
        return []
    lacks = f"the sweep has no {' and no '.join(absent)}"
    notes = [("diagram", f"{lacks}; its numbers are in tables/")]
    if (further := _further(found)) and len(absent) == 1:
        few = ", ".join(map(found.called, further[:MOST_NAMED]))
        more = len(further) - MOST_NAMED
        notes.append(("further", f"{lacks}; tables/ has {few}" + f" and {more} more" * (more > 0)))
    return notes


def _in_cuts(found: Findings) -> list[str]:
    """Return the quantities of the main figure that have a number and can vary."""
    done = (
        set(found.table.loc[found.table["status"] == "done", "quantity"])
        - same_everywhere(found).keys()
    )
    return [name for name in seven(found.grid.task) if name in done]


def _families(found: Findings, names: Sequence[str]) -> list[list[str]]:
    """Group the quantities that differ only in the row of their job."""
    families: dict[tuple[str, str], list[str]] = {}
    for name in names:
        what = found.grid.quantity(name)
        families.setdefault((base_of(what).name, way_of(name, what.axes)), []).append(name)
    return list(families.values())


def _spread(family: Sequence[str]) -> list[str]:
    if len(family) <= MOST_PANELS:
        return list(family)
    places = np.linspace(0, len(family) - 1, FEW_PANELS)
    return [family[round(float(place))] for place in places]


def _further(found: Findings) -> list[str]:
    """Return the quantities beyond those of the main figure that have panels of their own; those
    along trainings have figures of theirs (`phasegrid.figures.along`).
    """
    names = [str(name) for name in found.table["quantity"].unique()]
    left_out = {*seven(found.grid.task), *_idle(found), *same_everywhere(found)}
    left_out |= {name for one in measured_along(names) for name in one.names.values()}
    return [name for name in names if name not in left_out]


def _idle(found: Findings) -> dict[str, str]:
    """Return the quantities of which every number is 0 where their declaration says when that is
    so, with the reason.
    """
    values = found.grid.values
    shown = {
        *values.loc[values["value"].fillna(0.0) != 0, "quantity"],
        *found.grid.failures["quantity"],
    }
    reasons = {}
    for name in (str(name) for name in values["quantity"].unique()):
        when = found.grid.quantity(name).idle
        if when and name not in shown:
            reasons[name] = f"every number is 0 or missing, as it is {when}"
    return reasons


def _alike(found: Findings) -> list[tuple[str, str]]:
    """Return the one note on the quantities that have the same number in every cell."""
    parts, same = [], same_everywhere(found)
    for called, names in _together(found, same).items():
        unit = found.grid.quantity(names[0]).unit
        values = sorted({value for name in names for value in same[name]})
        few = values if len(values) <= MOST_NAMED else [values[0], values[-1]]
        numbers = (" or " if few is values else " to ").join(f"{value:.6g}" for value in few)
        parts.append(f"{called} {numbers}{unit and f' {unit}'}")
    return [("diagram", f"the same in every cell: {', '.join(parts)}")] if parts else []


def same_everywhere(found: Findings) -> dict[str, list[float]]:
    """Return the quantities that have the same number in every cell, or, if they count, in every
    cell of a facet, and their numbers. A panel would be of one colour, with a bar of made-up range.
    """
    same = {}
    table = found.table[~found.table["quantity"].isin(_idle(found))]
    for name, rows in table.groupby("quantity", sort=False):
        known = rows[rows["status"] != "missing"]
        count = found.grid.quantity(str(name)).count
        parts = [own for _, own in known.groupby("facet")] if count else [known]
        numbers = [part["value"].to_numpy(dtype=float) for part in parts]
        if len(known) > 1 and not any(np.ptp(values) for values in numbers):
            same[str(name)] = sorted({float(values[0]) for values in numbers})
    return same
