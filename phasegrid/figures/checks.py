"""What the arguments of several kinds of figures share, and the checks of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from phasegrid.declare import Finding, Grid
from phasegrid.texts import suggest

Stem = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Quantities = Annotated[tuple[str, ...], Field(min_length=1)]

ALONG = ("at", "epoch")
"""The columns of rows that say at which epoch along a training they were measured."""

PLACES = ("cell", "load", "temperature", "seed_a", "seed_b", *ALONG)
"""The columns that the rows of every metric have beside those that it declares."""


def unknown_column(
    argument: str, column: str, metric: str, columns: Sequence[str] | None
) -> Iterator[Finding]:
    """Report a column that the rows of a metric do not have."""
    if columns is not None and column not in (*columns, *PLACES):
        known = [*columns, *PLACES]
        message = f"found {column!r}; allowed: a column of {metric}: {', '.join(known)}"
        yield argument, message + suggest(column, known)


def items(argument: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each value of a list with its place in it."""
    for index, value in enumerate(values):
        yield f"{argument}.{index}", value


def cell_fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    cell = args["cell"]
    if cell is not None and cell >= grid.num_cells:
        yield "cell", f"found {cell}; allowed: 0 to {grid.num_cells - 1}, the cells of the sweep"
