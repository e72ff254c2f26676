"""The kind of figure that is a matrix over pairs of networks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, cell_fits, no_number
from phasegrid.figures.table import row_column
from phasegrid.registry import identity


@dataclass(frozen=True, slots=True)
class MatrixArgs:
    """A number of pairs as a symmetric matrix over the networks of a cell, by seed: a panel for
    each cell, or, of more than `most`, for some that are evenly spread. All share their colours.

    `number` is a quantity of pairs, or a column of a metric's rows (``barrier.end_distance``),
    variants included, as in `TableArgs`. `across` takes the measurements across cells instead
    (``over: across``): one matrix of a column over networks of any cells, in the order of the plan.
    `cell` shows one cell.
    """

    name: Stem
    number: str
    across: bool = False
    cell: Annotated[int, Field(ge=0)] | None = None
    most: Annotated[int, Field(ge=1, le=24)] = 12
    title: str | None = None


def _needs(args: Mapping[str, Any]) -> Needs:
    metric, _ = row_column(args["number"])
    if args["across"]:
        return Needs()
    return Needs(rows=(metric,)) if metric else Needs(quantities=(args["number"],))


def _fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    """Check the column and the cell."""
    metric, column = row_column(args["number"])
    if args["across"] and not metric:
        yield (
            "number",
            f"found {column!r}; allowed: a column, as in distance.l2_distance",
        )
    if metric:
        yield from no_number("number", column, metric, grid.columns.get(identity(metric)))
    yield from cell_fits(args, grid)


MATRIX = FigureKind(
    MatrixArgs, "phasegrid.analysis.report.matrices:matrix", needs=_needs, fits=_fits
)
