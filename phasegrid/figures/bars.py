"""The kind of figure that draws a number of each row of a measurement as a bar."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, Variants, cell_fits, no_number
from phasegrid.registry import identity


@dataclass(frozen=True, slots=True)
class BarsArgs:
    """A bar for each row of a measurement of one network, such as the cosine of a mined direction
    with each eigenvector (Xu et al. 2024, figure 9): ``metric: directions, column: overlap``. A
    panel for each cell and way of measuring.

    `without` are rows that are left out, by their label (direction, layer, size). `scale`,
    `variants`, `cell`, `seed`, `share_y`, `columns` and `most` are as in `ProfilesArgs`.
    """

    name: Stem
    metric: str
    column: str
    without: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    scale: Literal["linear", "log"] = "linear"
    variants: Variants = None
    cell: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    share_y: bool = False
    columns: Annotated[int, Field(ge=1, le=12)] | None = None
    most: Annotated[int, Field(ge=1, le=240)] = 24
    title: str | None = None


def _fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    columns = grid.columns.get(identity(args["metric"]))
    yield from no_number("column", args["column"], args["metric"], columns)
    yield from cell_fits(args, grid)


BARS = FigureKind(
    BarsArgs,
    "phasegrid.analysis.report.bars:bars",
    needs=lambda args: Needs(rows=(args["metric"],)),
    fits=_fits,
)
