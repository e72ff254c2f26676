"""The kind of figure that draws complexes in three dimensions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, Variants, cell_fits, items
from phasegrid.registry import identity

LossColumn = Literal["train_loss", "test_loss"]
PLACED = "vertex_x"
"""The column by which a metric says where vertices are drawn."""


@dataclass(frozen=True, slots=True)
class ComplexArgs:
    """Simplicial complexes in weight space, projected onto the three principal axes of their
    vertices (of a flat one, two): modes and connectors with their loss as colour, edges,
    translucent faces, and the points at which the expected loss was measured. A panel for each cell
    and way of measuring, that of its first seeds.

    `metric` is ``simplex`` or ``espro``. `column` is the loss, or a list: then each has a row of
    panels. Panels of a row share their colours, on a linear or a log `scale`. `points` draws the
    measured points. `variants` names the ways of measuring, as in `PlanesArgs`; null: all. `cell`
    shows one cell. Of more than `most` complexes some are drawn, evenly spread.
    """

    name: Stem
    metric: str = "simplex"
    column: LossColumn | Annotated[tuple[LossColumn, ...], Field(min_length=1)] = "train_loss"
    scale: Literal["linear", "log"] = "linear"
    points: bool = True
    variants: Variants = None
    cell: Annotated[int, Field(ge=0)] | None = None
    most: Annotated[int, Field(ge=1, le=24)] = 6
    title: str | None = None

    @property
    def columns(self) -> tuple[LossColumn, ...]:
        """The losses that are drawn, one below the other."""
        return self.column if isinstance(self.column, tuple) else (self.column,)


def _fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    """Check that the metric is about complexes, and the cell."""
    columns = grid.columns.get(identity(args["metric"]))
    if columns is not None and PLACED not in columns:
        yield "metric", f"found {args['metric']}, which has no vertices; allowed: simplex, espro"
    column = args["column"]
    for place, one in items("column", [] if isinstance(column, str) else column):
        if column.index(one) != int(place.rpartition(".")[2]):
            yield place, f"found {one} twice; leave it out"
    yield from cell_fits(args, grid)


COMPLEX = FigureKind(
    ComplexArgs,
    "phasegrid.analysis.report.complexes:complexes",
    needs=lambda args: Needs(rows=(args["metric"],)),
    fits=_fits,
)
