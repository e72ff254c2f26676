"""The kind of figure that draws ways of measuring against each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import (
    ACROSS,
    CellOrAcross,
    Levels,
    Quantities,
    Stem,
    Variants,
    cell_fits,
    no_points,
    unknown_panels,
)
from phasegrid.registry import identity

MEMBER = "member"
"""The x of lists without a column that says where their items are."""


@dataclass(frozen=True, slots=True)
class OverlayArgs:
    """Ways of measuring against each other: a line for each way in which `metric` was measured, a
    panel for each of `y` and each cell, with the mean of the measurements that share their x and a
    band of its standard error.

    `variants` names the lines: ``{Bezier: curve=bezier, chain: curve=polychain}``, each a way of
    measuring as in ``connectivity[curve=polychain]`` (``''`` is the plain one); null draws all.
    `x`, `y` and the scales are as in `RowsArgs`, and a y scale may be the one that its column has
    ``declared``; with ``x: member`` lists are drawn against the numbers of their items, from 1;
    with ``x: load`` or ``x: temperature`` the cells along that axis share a panel, and the
    measurements of the same seeds are one line. `together` draws the columns of `y` in one panel, a
    line for each column and way. `cell` shows one cell, ``across`` what was measured across cells
    (a way of these is named by the id of its request: ``id=mixed``); null: all, or, of more than
    `most`, some that are evenly spread.

    `dashed` are horizontal lines at the mean of a quantity, for some of `y`:
    ``{test_error_percent: {ensemble: "ensemble_test_error_percent[of=curve]"}}``; one whose label
    begins with the name of a line has its colour. `levels` are such lines at numbers:
    ``{lambda_max_lr: {edge of stability: 2}}``. `marks` are circles on the lines at some x, by the
    label of the circles: ``{collected: [2, 4, 6]}``. `diagonal` draws the line y = x: with ``x:
    test_bin_confidence, y: [test_bin_accuracy]`` a reliability diagram of ensembles. `across` is
    the number of panels side by side if there is one cell; with `share_y` these have one scale.
    """

    name: Stem
    metric: str
    x: str
    y: Quantities
    variants: Variants = None
    cell: CellOrAcross = None
    most: Annotated[int, Field(ge=1, le=12)] = 6
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["declared", "linear", "log"] = "linear"
    dashed: Mapping[str, Mapping[str, str]] | None = None
    levels: Levels = None
    marks: Mapping[str, Annotated[tuple[float, ...], Field(min_length=1)]] | None = None
    together: bool = False
    diagonal: bool = False
    share_y: bool = False
    across: Annotated[int, Field(ge=1, le=6)] = 2
    title: str | None = None


def _overlay_fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    """Check the columns of the metric, the cell, and that levels belong to a panel."""
    columns = grid.columns.get(identity(args["metric"]))
    x = None if args["x"] == MEMBER else args["x"]
    yield from no_points(x, args["y"], args["metric"], columns)
    yield from cell_fits(args, grid)
    if args["diagonal"] and args["x_scale"] != args["y_scale"]:
        yield "diagonal", "found true, with two scales; allowed: with the same x_scale and y_scale"
    for argument in ("dashed", "levels"):
        yield from unknown_panels(argument, args[argument], args["y"])


def _overlay_needs(args: Mapping[str, Any]) -> Needs:
    """Return the levels of an overlay and the metric whose rows it reads."""
    levels = [name for ones in (args["dashed"] or {}).values() for name in ones.values()]
    return Needs(quantities=levels, rows=(args["metric"],), across=args["cell"] == ACROSS)


OVERLAY = FigureKind(
    OverlayArgs,
    "phasegrid.analysis.report.overlays:overlay",
    needs=_overlay_needs,
    fits=_overlay_fits,
)
