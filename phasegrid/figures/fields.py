"""The kind of figure that draws what networks answer over the plane of two inputs."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from phasegrid.declare import FigureKind, Needs
from phasegrid.figures.checks import Stem, Variants


@dataclass(frozen=True, slots=True)
class FieldsArgs:
    """The probability of a class over the plane of two inputs (metric ``decision``): a row for each
    cell and way of measuring, that of its first job, with a panel for each of the few networks and
    one for the mean of all, and the training points on each.

    Of more than `most` rows some are drawn, evenly spread. `variants` names the ways of measuring
    and chooses them and their order; null: all.
    """

    name: Stem
    most: Annotated[int, Field(ge=1, le=24)] = 6
    title: str | None = None
    variants: Variants = None


FIELDS = FigureKind(
    FieldsArgs,
    "phasegrid.analysis.report.fields:fields",
    needs=lambda _args: Needs(rows=("decision",), across=True),
    unasked={"name": "fields"},
)
