"""The kinds of figures that a sweep can request in its ``figures:`` section, beside the default
ones.

``phasegrid plot`` draws a figure under its `name`. Figures are not part of any key: they can be
added and changed after everything is measured. No matplotlib and no torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.along import ALONG_TRAININGS, EVOLUTION
from phasegrid.figures.bars import BARS
from phasegrid.figures.checks import Quantities, Stem, no_points
from phasegrid.figures.complexes import COMPLEX
from phasegrid.figures.distributions import DENSITIES, HISTOGRAMS
from phasegrid.figures.fields import FIELDS
from phasegrid.figures.matrix import MATRIX
from phasegrid.figures.overlay import OVERLAY
from phasegrid.figures.planes import PLANES
from phasegrid.figures.profiles import PROFILES
from phasegrid.figures.ranking import RANKING
from phasegrid.figures.schematic import SCHEMATIC
from phasegrid.figures.slices import SLICES
from phasegrid.figures.table import TABLE
from phasegrid.registry import identity


@dataclass(frozen=True, slots=True)
class PanelsArgs:
    """Diagrams of several quantities: one row each, with the facets as columns (side by side
    without facets).

    `quantities` are names as in ``phasegrid.analysis``, variants included: ``cka[mixup_alpha=4]``.
    `phases` adds phase borders and a final map of phases. `columns` is the number of panels side by
    side without facets (null: automatic). `share_colours` gives the panels of a row the same
    colours, or each its own; null: the same, unless the numbers of no two facets overlap and a
    panel would be nearly of one colour.
    """

    name: Stem
    quantities: Quantities
    title: str | None = None
    phases: bool = True
    columns: Annotated[int, Field(ge=1, le=12)] | None = None
    share_colours: bool | None = None


@dataclass(frozen=True, slots=True)
class LinesArgs:
    """Cuts through the diagrams: each quantity against one axis, with a line and standard errors
    for each value of the other axis.

    `along` is the horizontal axis; `at` lists the labels of the other axis to draw (null: all).
    Facets are columns.
    """

    name: Stem
    quantities: Quantities
    along: Literal["load", "temperature"] = "load"
    at: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class CurvesArgs:
    """The connecting curve of every cell, in a grid of small plots (Yang et al. 2021, Fig. 12)."""

    name: Stem
    title: str | None = None


@dataclass(frozen=True, slots=True)
class GainArgs:
    """The best value of each load over all temperatures, for this sweep and for the sweep `against`
    of the same store, and the gain (Yang et al. 2021, Fig. 13). `labels` are their names in the
    legend: this sweep, then the other.
    """

    name: Stem
    against: str
    quantity: str = "test_accuracy"
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class RowsArgs:
    """Any columns of a metric against each other: one panel for each value of one axis, one line
    for each value of the other (`lines`), and one row of panels for each of `y`.

    `metric` is written as in ``metrics``. `x` and `y` are columns of its table: lists (points of a
    curve) or one value per row (layers). If the measurements of a cell share their x, the line is
    their mean with its standard error; otherwise each has its own thin line. With `x: at`
    a line joins the epochs at which each training was measured. `at`: labels of the panel axis
    (null: up to five). `variant` selects the settings of the measurement, as in
    ``cka[mixup_alpha=4]``, if there are several.
    """

    name: Stem
    metric: str
    x: str
    y: Quantities
    lines: Literal["load", "temperature"] = "load"
    at: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    variant: str | None = None
    title: str | None = None


def _other(axis: object) -> str:
    return "temperature" if axis == "load" else "load"


def _cuts_fit(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    """Check that the axis lines run along is there, and so are the values of the other that get a
    line.
    """
    if args["along"] not in grid.labels:
        there = ", ".join(grid.labels) or "none"
        yield "along", f"found {args['along']}, but the sweep has no such axis; allowed: {there}"
        return
    yield from grid.unknown_labels("at", args["at"], _other(args["along"]))


def _rows_fit(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    """Check that the metric has these columns, and that the values of the axis are there."""
    columns = grid.columns.get(identity(args["metric"]))
    yield from no_points(args["x"], args["y"], args["metric"], columns)
    yield from grid.unknown_labels("at", args["at"], _other(args["lines"]))


def _curves_fit(_args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    if "connectivity" not in grid.columns:
        yield "", "found no request for connectivity, whose curves it draws; add it to metrics"


_KINDS = "phasegrid.analysis.report.kinds"

FIGURES: Mapping[str, FigureKind] = {
    "panels": FigureKind(
        PanelsArgs, f"{_KINDS}:panels", needs=lambda args: Needs(quantities=args["quantities"])
    ),
    "lines": FigureKind(
        LinesArgs,
        f"{_KINDS}:lines",
        needs=lambda args: Needs(quantities=args["quantities"]),
        fits=_cuts_fit,
    ),
    "curves": FigureKind(CurvesArgs, f"{_KINDS}:curves", fits=_curves_fit),
    "gain": FigureKind(GainArgs, f"{_KINDS}:gain"),
    "rows": FigureKind(
        RowsArgs,
        f"{_KINDS}:rows",
        needs=lambda args: Needs(rows=(args["metric"],)),
        fits=_rows_fit,
    ),
    "overlay": OVERLAY,
    "along": ALONG_TRAININGS,
    "evolution": EVOLUTION,
    "table": TABLE,
    "matrix": MATRIX,
    "slices": SLICES,
    "planes": PLANES,
    "complex": COMPLEX,
    "fields": FIELDS,
    "profiles": PROFILES,
    "histograms": HISTOGRAMS,
    "densities": DENSITIES,
    "bars": BARS,
    "ranking": RANKING,
    "schematic": SCHEMATIC,
}
