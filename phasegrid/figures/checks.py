"""What the arguments of several kinds of figures share, and the checks of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from phasegrid.declare import Finding, Grid
from phasegrid.texts import listed, suggest

Stem = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Quantities = Annotated[tuple[str, ...], Field(min_length=1)]

Variants: TypeAlias = Annotated[Mapping[str, str], Field(min_length=1)] | None
"""Ways of measuring by the names that a figure gives them, in its order; null: all, as they are
called.
"""

Levels: TypeAlias = Mapping[str, Mapping[str, float]] | None
"""Numbers of horizontal lines, by panel and label."""

ACROSS = "across"
"""The `cell` of what was measured across cells."""

CellOrAcross: TypeAlias = Annotated[int, Field(ge=0)] | Literal["across"] | None
"""One cell by its number, what was measured across cells, or every cell."""

ALONG = ("at", "epoch")
"""The columns of rows that say at which epoch along a training they were measured."""

PLACES = ("cell", "load", "temperature", "seed_a", "seed_b", *ALONG)
"""The columns that the rows of every metric have beside those that it declares."""


ALL_COLUMNS = "phasegrid schema describes the columns of metrics"

NUMBERS = ("float64", "int64", "bool")
"""The types of columns that hold one number for each row."""


def unknown_column(
    argument: str, column: str, metric: str, columns: Mapping[str, str] | None
) -> Iterator[Finding]:
    """Report a column that the rows of a metric do not have. `columns` are types by name."""
    if columns is not None and column not in (*columns, *PLACES):
        known = [*columns, *PLACES]
        names = listed(known, column, ALL_COLUMNS)
        message = f"found {column!r}; allowed: a column of {metric}: {names}"
        yield argument, message + suggest(column, known)


def no_number(
    argument: str, column: str, metric: str, columns: Mapping[str, str] | None
) -> Iterator[Finding]:
    """Report a column that the rows of a metric do not have, or that holds no single numbers."""
    yield from unknown_column(argument, column, metric, columns)
    if columns and columns.get(column, NUMBERS[0]) not in NUMBERS:
        numbers = [name for name, kind in columns.items() if kind in NUMBERS]
        known = listed(numbers, column, ALL_COLUMNS)
        message = f"found {column!r}, which holds {_held(columns, column)}; allowed: single numbers"
        yield argument, f"{message}: {known}"


def no_points(
    x: str | None, ys: Sequence[str], metric: str, columns: Mapping[str, str] | None
) -> Iterator[Finding]:
    """Report columns that make no points: unknown ones, text as y, and lists against single values.
    `x` is None for the numbers of the items of lists. Over a list, grids may have one row each.
    """
    named = [] if x is None else [("x", x)]
    for argument, column in (*named, *items("y", ys)):
        yield from unknown_column(argument, column, metric, columns)
    held = {name: _held(columns or {}, name) for name in (*(columns or ()), *PLACES)}
    over = "lists" if x is None else held.get(x, "")
    kinds = (over, "grids")[: 1 if x is None else 2] if over == "lists" else ("single numbers",)
    for argument, y in items("y", ys):
        if y in held and over and held[y] not in kinds:
            known = listed([n for n, kind in held.items() if kind in kinds], y, ALL_COLUMNS)
            message = f"found {y!r}, which holds {held[y]}, over {x or 'members'}, {over}"
            yield argument, f"{message}; allowed: {kinds[0]}: {known}"


def _held(columns: Mapping[str, str], column: str) -> str:
    """Say in words what a column holds."""
    kind = columns.get(column, NUMBERS[0])
    if kind.startswith("list<"):
        return "grids" if kind.startswith("list<list<") else "lists"
    return "single numbers" if kind in NUMBERS else "text"


def items(argument: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each value of a list with its place in it."""
    for index, value in enumerate(values):
        yield f"{argument}.{index}", value


def cell_fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    cell = args["cell"]
    if isinstance(cell, int) and cell >= grid.num_cells:
        yield "cell", f"found {cell}; allowed: 0 to {grid.num_cells - 1}, the cells of the sweep"


def unknown_panels(
    argument: str, levels: Mapping[str, object] | None, panels: Sequence[str]
) -> Iterator[Finding]:
    """Report levels of what no panel shows."""
    for name in levels or {}:
        if name not in panels:
            message = f"found {name!r}, which no panel shows; allowed: {', '.join(panels)}"
            yield f"{argument}.{name}", message + suggest(name, panels)
