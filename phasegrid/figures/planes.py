"""The kind of figure that draws planes through points in weight space."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, Variants
from phasegrid.texts import counted

SurfaceColumn = Literal[
    "train_loss",
    "train_error_percent",
    "test_loss",
    "test_error_percent",
    "train_regularised_loss",
    "test_regularised_loss",
]
Cap = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class PlanesArgs:
    """What was measured on planes in weight space (metric ``plane``), with what lies on them or is
    projected onto them: networks with their names, trainings in the order of time, and curves with
    their bends. Planes are side by side: one for each cell and way of measuring, that of its first
    seeds, and those across cells (``over=across``). Networks and bends that are far off a plane are
    grey, with their distance.

    `column` is what is drawn, or a list: then each has a row of panels. The panels of a column
    share their levels, which are close together near the lowest value and end at `cap` (a list: one
    for each column); null: at 5 for a loss, 40 for an error (both as the published code of Garipov
    et al. 2018), or at the largest value where that is less. Of more than `most` planes some are
    drawn, evenly spread.

    `variants` names the ways of measuring, ``{optima: "", Bezier curve: of=bezier}``, and chooses
    them and their order; `variant` chooses one. Null: all. `metric` may be ``swag_curves`` too,
    which measures such planes and projects sampled bends and their curves onto them.
    """

    name: Stem
    column: SurfaceColumn | Annotated[tuple[SurfaceColumn, ...], Field(min_length=1)] = "train_loss"
    cap: Cap | Annotated[tuple[Cap, ...], Field(min_length=1)] | None = None
    most: Annotated[int, Field(ge=1, le=48)] = 12
    variant: str | None = None
    title: str | None = None
    variants: Variants = None
    metric: Literal["plane", "swag_curves"] = "plane"

    @property
    def columns(self) -> tuple[SurfaceColumn, ...]:
        """What is drawn, one below the other."""
        return self.column if isinstance(self.column, tuple) else (self.column,)

    @property
    def caps(self) -> tuple[float | None, ...]:
        """The highest level of each column."""
        if isinstance(self.cap, tuple):
            return self.cap
        return (self.cap,) * len(self.columns)


def _planes_fit(args: Mapping[str, Any], _grid: Grid) -> Iterable[Finding]:
    """Check that there is a cap for each column, and that only one argument chooses the ways."""
    columns, caps = args["column"], args["cap"]
    num = 1 if isinstance(columns, str) else len(columns)
    if isinstance(caps, (list, tuple)) and len(caps) != num:
        yield "cap", f"found {counted(len(caps), 'number')} for {counted(num, 'column')}; one each"
    if args["variant"] is not None and args["variants"] is not None:
        yield "variant", "found beside variants, which chooses the ways too; leave one out"


PLANES = FigureKind(
    PlanesArgs,
    "phasegrid.analysis.report.planes:planes",
    needs=lambda args: Needs(rows=(args.get("metric", "plane"),), across=True),
    fits=_planes_fit,
    unasked={"name": "planes"},
)
