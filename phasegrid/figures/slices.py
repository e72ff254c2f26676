"""The kind of figure that draws the loss on planes and lines through trained weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, Variants, cell_fits

SliceColumn = Literal["train_loss", "train_error_percent", "test_loss", "test_error_percent"]


@dataclass(frozen=True, slots=True)
class SlicesArgs:
    """The loss around trained weights (metric ``slice``): planes as contours or lines as profiles,
    for all cells in a grid of small plots, or large for one `cell`.

    `column` is the drawn column; each cell shows its first seed, or `seed`. Small planes share one
    colour scale. `variant` selects the settings of the measurement, as in
    ``slice[batch_norm=refreshed]``, if there are several with these `dimensions`.

    Planes along directions that were read (``of``) have a panel for each cell and way of measuring
    instead, with a colour scale of its own, and with the networks of the job projected onto the
    plane: those of one training joined in the order of time, those far off it grey. So do planes
    with ``view: surface``, which draws the loss as a height, with several columns (a list: a row of
    panels each), and with `variants`, which names the ways of measuring and chooses them. A panel
    is headed by its directions, named as in Xu et al. 2024, and by the shape of the surface at the
    network. `columns` is the number of panels side by side (null: automatic). Of more than `most`
    planes some are drawn, evenly spread.
    """

    name: Stem
    column: SliceColumn | Annotated[tuple[SliceColumn, ...], Field(min_length=1)] = "train_loss"
    dimensions: Literal[1, 2] = 2
    cell: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    variant: str | None = None
    title: str | None = None
    view: Literal["contour", "surface"] = "contour"
    variants: Variants = None
    columns: Annotated[int, Field(ge=1, le=12)] | None = None
    most: Annotated[int, Field(ge=1, le=48)] = 12

    @property
    def drawn(self) -> tuple[SliceColumn, ...]:
        """The columns that are drawn."""
        return self.column if isinstance(self.column, tuple) else (self.column,)


def _fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    if args["dimensions"] == 1:
        asked = {
            "view": args["view"] != "contour",
            "variants": args["variants"] is not None,
            "column": not isinstance(args["column"], str),
        }
        for name in [name for name, there in asked.items() if there]:
            yield name, "found with dimensions: 1; it is for planes: leave it out, or draw profiles"
    if args["variant"] is not None and args["variants"] is not None:
        yield "variant", "found beside variants, which chooses the ways too; leave one out"
    yield from cell_fits(args, grid)


SLICES = FigureKind(
    SlicesArgs,
    "phasegrid.analysis.report.slices:slices",
    needs=lambda _args: Needs(rows=("slice",), beside=("directions",)),
    fits=_fits,
)
