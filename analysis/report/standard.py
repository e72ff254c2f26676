"""The figures that every sweep gets: the diagram, what else was measured, curves and cuts."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from phasegrid.analysis.draw.lines import curve_panels, cut_panels, spread
from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.phases.phase_map import shows_something
from phasegrid.analysis.report.findings import Findings
from phasegrid.analysis.report.kinds import curve_column
from phasegrid.analysis.tables.quantities import base_of, seven
from phasegrid.analysis.tables.variants import way_of

MOST_PANELS = 12
FEW_PANELS = 5
"""How many panels show a quantity with more than `MOST_PANELS` rows a job."""


def diagram_figure(found: Findings) -> Figure:
    """Return the figure of the seven panels and the phases."""
    return _panels_figure(found, seven(found.grid.task))


def further_figure(found: Findings) -> Figure:
    """Return a figure of the quantities beyond the seven. Of a quantity with more than
    `MOST_PANELS` rows a job, it shows the first, the last and some between.
    """
    names = _further(found)
    few = [name for family in _families(found, names) for name in _spread(family)]
    left_out = len(names) - len(few)
    note = f" ({left_out} panels left out; tables/ has their numbers)" if left_out else ""
    return _panels_figure(found, few, note)


def _panels_figure(found: Findings, names: Sequence[str], note: str = "") -> Figure:
    title = found.grid.heading(f"{found.grid.sweep}{note}")
    return seven_panels(
        found.table,
        found.phases,
        found.frame,
        names,
        title=title,
        labels=found.labels(names),
        with_phases=shows_something(found.phases),
        known=found.grid.quantities,
    )


def curves_figure(found: Findings) -> Figure:
    """Return the figure of the connecting curves, facets side by side."""
    column = curve_column(found.grid)
    grid = found.grid
    return curve_panels(
        grid.curves, found.phases.table, found.frame, column, loss_unit=grid.loss_unit
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
    """Return what makes each standard figure of a sweep, by the name of its file."""
    makers: dict[str, Callable[[], Figure]] = {}
    main = _in_cuts(found)
    if found.grid.load_path and found.grid.temperature_path:
        makers["diagram"] = lambda: diagram_figure(found)
        if _further(found):
            makers["further"] = lambda: further_figure(found)
    if found.grid.curves[curve_column(found.grid)].notna().any():
        makers["curves"] = lambda: curves_figure(found)
    if found.grid.load_path and main:
        makers["cuts_load"] = lambda: cuts_figure(found, "load")
    if found.grid.temperature_path and main:
        makers["cuts_temperature"] = lambda: cuts_figure(found, "temperature")
    return makers


def not_standard(found: Findings) -> list[tuple[str, str]]:
    """Return the standard figures that the axes of a sweep leave no room for, each with the
    reason.
    """
    paths = {"load": found.grid.load_path, "temperature": found.grid.temperature_path}
    absent = [axis for axis, path in paths.items() if path is None]
    if not absent:
        return []
    lacks = f"the sweep has no {' and no '.join(absent)}"
    notes = [("diagram", f"{lacks}; its numbers are in tables/")]
    if (further := _further(found)) and len(absent) == 1:
        notes.append(("further", f"{lacks}; tables/ has {', '.join(map(found.called, further))}"))
    return notes


def _in_cuts(found: Findings) -> list[str]:
    """Return the quantities of the main figure that have a number."""
    done = set(found.table.loc[found.table["status"] == "done", "quantity"])
    return [name for name in seven(found.grid.task) if name in done]


def _families(found: Findings, names: Sequence[str]) -> list[list[str]]:
    """Group the quantities that differ only in the row of the job."""
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
    names = [str(name) for name in found.table["quantity"].unique()]
    return [name for name in names if name not in seven(found.grid.task)]
