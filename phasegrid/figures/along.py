"""The kinds of figures that show what was measured along trainings: lines, and diagrams."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Levels, Quantities, Stem, unknown_panels

Places = Annotated[
    tuple[Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^update-[0-9]+$")], ...],
    Field(min_length=1),
]


@dataclass(frozen=True, slots=True)
class AlongArgs:
    """Lines over epochs (or updates): a panel for each quantity that was measured at several places
    along trainings, a line for each cell.

    `quantities` are names without a place: ``lambda_max``, for every way in which it was measured,
    or one way, ``"lambda_max[examples=300]"``; null: all, or of many some. Of more than `most`
    cells, lines are drawn for some that are evenly spread. The y scale is as the quantity declares
    (a log scale for positive numbers alone), or the same for all. `levels` are dashed horizontal
    lines at numbers, by quantity and label: ``{lambda_max_lr: {edge of stability: 2}}``. `columns`
    is the number of panels side by side.
    """

    name: Stem
    quantities: Quantities | None = None
    levels: Levels = None
    most: Annotated[int, Field(ge=1, le=48)] = 8
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["declared", "linear", "log"] = "declared"
    columns: Annotated[int, Field(ge=1, le=6)] = 3
    title: str | None = None


@dataclass(frozen=True, slots=True)
class EvolutionArgs:
    """Phase diagrams along trainings: a row for each quantity that was measured at several places,
    a column for each of these, in colours that the row shares; then the phases, from what was
    measured there, if all that they need was.

    `quantities` are as in `AlongArgs`. `places` are the epochs, or updates as ``update-300``, that
    have a column; null: of more than `most` some that are evenly spread. With `film` all of them
    are also frames of an animation, ``NAME.gif`` (and ``NAME.mp4`` where ffmpeg is installed).
    """

    name: Stem
    quantities: Quantities | None = None
    places: Places | None = None
    most: Annotated[int, Field(ge=1, le=24)] = 6
    phases: bool = True
    film: bool = True
    title: str | None = None


def _needs(args: Mapping[str, Any]) -> Needs:
    return Needs(quantities=args["quantities"] or (), along=True)


def _levels_fit(args: Mapping[str, Any], _grid: Grid) -> Iterable[Finding]:
    """Check that levels belong to a panel."""
    if args["quantities"] is not None:
        yield from unknown_panels("levels", args["levels"], args["quantities"])


_DRAWN_IN = "phasegrid.analysis.report.along"

ALONG_TRAININGS = FigureKind(
    AlongArgs,
    f"{_DRAWN_IN}:along",
    needs=_needs,
    fits=_levels_fit,
    unasked={"name": "along"},
)
EVOLUTION = FigureKind(
    EvolutionArgs,
    f"{_DRAWN_IN}:evolution",
    needs=_needs,
    unasked={"name": "evolution", "film": False},
)
