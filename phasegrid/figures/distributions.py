"""The kinds of figures that draw distributions: of stored samples, and of eigenvalues."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, Variants, cell_fits, no_number, no_points


@dataclass(frozen=True, slots=True)
class HistogramsArgs:
    """Histograms of a list that a metric stores, such as ``angles`` of the metric ``angles`` or
    ``changes`` of ``loss_change`` (Xu et al. 2024, figures 5 and 13): a panel for each cell and way
    of measuring of one network, with a histogram for each row (direction, size) in it.

    `apart`: a panel for each row instead. `theory` are the columns of the mean and the deviation of
    a Gaussian, drawn as a line; the mean may be a number. `variants`, `cell`, `seed`, `columns` and
    `most` are as in `ProfilesArgs`. `labels` are the rows that are drawn; null: all.
    """

    name: Stem
    metric: str
    column: str
    theory: tuple[float | str, str] | None = None
    apart: bool = False
    bins: Annotated[int, Field(ge=2, le=1000)] = 20
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    variants: Variants = None
    cell: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    columns: Annotated[int, Field(ge=1, le=12)] | None = None
    most: Annotated[int, Field(ge=1, le=240)] = 24
    title: str | None = None


@dataclass(frozen=True, slots=True)
class DensitiesArgs:
    """The spectral density of the Hessian (metric ``hessian``) of one network, on a log scale: a
    panel for each cell, with a line for each way of measuring (each checkpoint), which the legend
    names with the smallest eigenvalue in brackets, as in Xu et al. 2024, figure 13.

    Each node of the density is a Gaussian whose deviation is the share `smoothing` of the range of
    all eigenvalues in a panel. `variants`, `cell`, `seed`, `columns` and `most` are as in
    `ProfilesArgs`.
    """

    name: Stem
    smoothing: Annotated[float, Field(gt=0, lt=1)] = 0.005
    variants: Variants = None
    cell: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    columns: Annotated[int, Field(ge=1, le=12)] | None = None
    most: Annotated[int, Field(ge=1, le=240)] = 24
    title: str | None = None


def _histograms_fit(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    metric, columns = args["metric"], grid.columns.get(args["metric"])
    for argument, message in no_points(None, [args["column"]], metric, columns):
        yield argument.replace("y.0", "column"), message
    for place, column in enumerate(args["theory"] or ()):
        if isinstance(column, str):
            yield from no_number(f"theory.{place}", column, metric, columns)
    yield from cell_fits(args, grid)


HISTOGRAMS = FigureKind(
    HistogramsArgs,
    "phasegrid.analysis.report.distributions:histograms",
    needs=lambda args: Needs(rows=(args["metric"],)),
    fits=_histograms_fit,
)

DENSITIES = FigureKind(
    DensitiesArgs,
    "phasegrid.analysis.report.distributions:densities",
    needs=lambda _args: Needs(rows=("hessian",)),
    fits=cell_fits,
)
