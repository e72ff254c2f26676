"""The kind of figure that is a table of measured numbers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import (
    ACROSS,
    CellOrAcross,
    Stem,
    Variants,
    cell_fits,
    items,
    no_number,
)
from phasegrid.registry import identity


@dataclass(frozen=True, slots=True)
class TableArgs:
    """A table of measured numbers, mean ± standard error (n), a block for each cell; written as
    CSV, Markdown and LaTeX too.

    `columns` are the heads of the columns, and `rows` has a number for each of them by the name of
    the row: ``{FGE: ["ensemble_test_error_percent[of=fge]", null]}``, null for none. A number is a
    quantity, or any other column of single numbers of a metric: ``connectivity.min_train_loss``.

    With a `metric`, rows for ways of measuring follow: `variants` names them as in `OverlayArgs`,
    and `statistics` are the metric's columns of numbers, one for each of `columns`, null for none.
    `cell` shows one cell, ``across`` one block of what was measured across cells, where all numbers
    are columns and a way is named by the id of its request: ``id=mixed``. `along` makes one block
    of the cells along an axis, with rows for each of its values. The figure has at most `most`
    blocks, evenly spread; the files have all.
    """

    name: Stem
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: Mapping[str, tuple[str | None, ...]] | None = None
    metric: str | None = None
    variants: Variants = None
    statistics: tuple[str | None, ...] | None = None
    cell: CellOrAcross = None
    most: Annotated[int, Field(ge=1, le=48)] = 12
    along: Literal["load", "temperature"] | None = None
    title: str | None = None


def _table_fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    """Check that every row has a number for each column, and that metrics have the columns."""
    rows, heads = args["rows"] or {}, args["columns"]
    num = len(heads)
    statistics = args["statistics"]
    given = {f"rows.{label}": numbers for label, numbers in rows.items()}
    given |= {"statistics": statistics} if statistics is not None else {}
    for argument, numbers in given.items():
        if len(numbers) != num:
            message = f"found {len(numbers)} items; allowed: {num}, one for each of columns"
            yield argument, f"{message}, null for none"
    for index, head in enumerate(heads):
        if head in heads[:index]:
            yield f"columns.{index}", f"found {head!r} twice; allowed: a head of its own for each"
    if (args["metric"] is None) != (statistics is None):
        yield "", "found one of metric and statistics; allowed: both, or neither"
    if not rows and args["metric"] is None:
        yield "", "found no rows; allowed: rows, or metric and statistics"
    for argument, name in _numbers(args):
        metric, column = row_column(name)
        yield from no_number(argument, column, metric, grid.columns.get(identity(metric)))
    yield from cell_fits(args, grid)
    if args["cell"] == ACROSS:
        yield from _across_fits(args)
    if args["along"] is not None and args["along"] not in grid.labels:
        there = ", ".join(grid.labels) or "none"
        yield "along", f"found {args['along']}, but the sweep has no such axis; allowed: {there}"


def _across_fits(args: Mapping[str, Any]) -> Iterable[Finding]:
    """Find what only cells have: quantities and axes."""
    for label, numbers in (args["rows"] or {}).items():
        for argument, name in items(f"rows.{label}", numbers):
            if name is not None and not row_column(name)[0]:
                message = f"found {name!r} with cell: across; allowed: a column of a metric"
                yield argument, f"{message}, as in simplex.log_volume"
    if args["along"] is not None:
        yield "along", "found with cell: across, which has no axis; leave one of them out"


def _numbers(args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the numbers of a table that are columns of a metric, each with its place."""
    for label, numbers in (args["rows"] or {}).items():
        for argument, name in items(f"rows.{label}", numbers):
            if name is not None and row_column(name)[0]:
                yield argument, name
    for argument, name in items("statistics", args["statistics"] or ()):
        if name is not None:
            yield argument, f"{args['metric']}.{name}"


def row_column(name: str) -> tuple[str, str]:
    """Return the metric and the column of a number that is a column of a metric's rows; the metric
    is empty for a quantity.

    >>> row_column("connectivity.min_train_loss[curve=polychain]"), row_column("cka[layer=a.b]")
    (('connectivity', 'min_train_loss'), ('', 'cka'))
    """
    metric, _, column = name.partition("[")[0].rpartition(".")
    return metric, column


def _table_needs(args: Mapping[str, Any]) -> Needs:
    """Return the quantities of a table and the metrics whose rows it reads."""
    rows = args["rows"] or {}
    named = [name for numbers in rows.values() for name in numbers if name is not None]
    metrics = [row_column(name)[0] for _, name in _numbers(args)]
    metrics += [args["metric"]] if args["metric"] else []
    quantities = [name for name in named if not row_column(name)[0]]
    rows_of = list(dict.fromkeys(metrics))
    return Needs(quantities=quantities, rows=rows_of, across=args["cell"] == ACROSS)


TABLE = FigureKind(
    TableArgs,
    "phasegrid.analysis.report.measured:table",
    needs=_table_needs,
    fits=_table_fits,
)
