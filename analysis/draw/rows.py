"""Draw columns of a metric's rows against each other, cell by cell: profiles, spectra, layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.line_panels import Layout, Scale, line_panels
from phasegrid.analysis.draw.lines import spread
from phasegrid.analysis.draw.panels import facet_title
from phasegrid.analysis.draw.scales import Frame
from phasegrid.declare import Column
from phasegrid.errors import SweepError


@dataclass(frozen=True, slots=True)
class Line:
    """What lines show: `y` over `x`, with a line for each value of the axis `lines` and a panel for
    each value of the other axis, or only for those in `at`; the scales of x and y; and the name of
    `each` measurement.
    """

    x: str
    y: Sequence[str]
    lines: Literal["load", "temperature"]
    at: Sequence[str] | None
    scales: tuple[Scale, Scale]
    each: str = "measurement"


def row_panels(
    rows: pd.DataFrame,
    frame: Frame,
    line: Line,
    columns: Mapping[str, Column],
    *,
    title: str = "",
) -> Figure:
    """Draw columns of a metric (`rows`, with the place of their cell) as lines: a row of panels for
    each y, a column of panels for each facet and value of the axis that has no lines.

    Raises:
        SweepError: for labels that no cell has, or as `line_panels`.
    """
    lined, other = frame.load, frame.temperature
    if line.lines == "temperature":
        lined, other = other, lined
    label = "temperature_label" if line.lines == "load" else "load_label"
    at = list(line.at) if line.at is not None else spread(other)
    unknown = [one for one in at if one not in other.labels]
    if unknown:
        raise SweepError(f"at: found {unknown[0]!r}; there are: {', '.join(other.labels)}")
    heads = {
        (facet, one): ", ".join(
            filter(None, (facet_title(facet, frame.names), f"{other.name} {one}".strip()))
        )
        for facet in map(str, dict.fromkeys(rows["facet"]))
        for one in at
    }
    places = zip(rows["facet"], rows[label], strict=True)
    placed = rows.assign(panel=[heads.get(place, "") for place in places])
    layout = Layout(
        line.x,
        line.y,
        list(heads.values()),
        lined.labels,
        line.scales,
        legend=lined.name,
        each=line.each,
    )
    return line_panels(
        placed.assign(line=rows[f"{line.lines}_label"]), layout, columns, title=title
    )
