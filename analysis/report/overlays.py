"""Draw ways of measuring against each other (`phasegrid.figures.overlay`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from phasegrid.analysis.draw.line_panels import Layout, Scale, line_panels, points_of
from phasegrid.analysis.draw.panels import cell_heads
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.analysis.draw.slices import direction_label
from phasegrid.analysis.draw.vertices import vertex_text
from phasegrid.analysis.report.requested import (
    Drawing,
    NotYetError,
    Tables,
    along_trainings,
    of_variant,
    resolved,
)
from phasegrid.analysis.stats.aggregate import by_number
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.declare import Column
from phasegrid.errors import SweepError
from phasegrid.figures.checks import ACROSS, ALONG
from phasegrid.figures.overlay import MEMBER, OverlayArgs
from phasegrid.registry import identity

AXES = ("load", "temperature")
"""The x along which the cells of a grid lie."""

AS_DECLARED = "as declared"
"""The name of the way of measuring that has the defaults of its metric."""


def overlay(tables: Tables, args: OverlayArgs) -> Drawing:
    """Draw a line for each way of measuring, and tabulate its points."""
    if args.metric not in tables.rows:
        raise NotYetError(f"{args.metric} is not measured yet")
    if args.cell == ACROSS:
        tables, args = tables.across_cells(), replace(args, cell=None)
    grid, measured = tables.found.grid, tables.rows[args.metric]
    along, axis = args.x in ALONG, args.x if args.x in AXES else None
    if along:
        measured = along_trainings(grid, args.metric, measured)
    if axis is not None:
        measured = _along_axis(measured, axis)
    if args.x == MEMBER:
        measured = measured.assign(member=measured[args.y[0]].map(_numbered))
    check_columns(measured, args.metric, (args.x, *args.y))
    chosen, names, notes = in_ways(grid, args.metric, measured, args.variants)
    heads = cell_heads(grid.cells, tables.found.frame, axis)
    cells = _cells(chosen, args if axis is None else replace(args, most=len(grid.cells)))
    shown = chosen[chosen["cell"].isin(cells)].assign(panel=lambda rows: rows["cell"].map(heads))
    levels, missing = _levels(tables, args, cells)
    columns = known_columns(grid, args.metric, shown) | _named_axis(tables, axis)
    layout = Layout(
        args.x,
        args.y,
        list(dict.fromkeys(heads[cell] for cell in cells)),
        names,
        (args.x_scale, "linear" if args.y_scale == "declared" else args.y_scale),
        _declared_scales(args, columns),
        each="training" if along else "measurement",
        levels=levels.assign(panel=levels["cell"].map(heads)),
        marks=args.marks or {},
        diagonal=args.diagonal,
        ticks=_ticks(shown, columns.get(args.x)),
        dots=_dots(shown, columns.get(args.x)),
        across=args.across,
        share_y=args.share_y,
    )
    drawn = _together(shown, layout, columns) if args.together else (shown, layout, columns)
    figure = line_panels(*drawn, title=tables.title(args.title, shown))
    return Drawing(figure, _points(shown, args), [*notes, *missing])


def _together(
    rows: pd.DataFrame, layout: Layout, columns: Mapping[str, Column]
) -> tuple[pd.DataFrame, Layout, Mapping[str, Column]]:
    """Put the columns of all panels into one, ``value``: a line for each column and way."""
    known = [columns.get(y, Column(y, "float64", "", "")) for y in layout.y]
    named = {one.name: one.title().removesuffix(f" ({one.unit})") for one in known}
    ends = [named[y].split()[::-1] for y in layout.y]
    shared = [words[0] for words in zip(*ends, strict=False) if len(set(words)) == 1]
    units = {one.unit for one in known}
    label = " ".join(shared[::-1]) or "value"
    short = {y: named[y].removesuffix(label).rstrip(": ") or named[y] for y in layout.y}
    parts = [rows.assign(value=rows[y], line=rows["line"] + f": {short[y]}") for y in layout.y]
    lines = [f"{line}: {short[y]}" for line in layout.lines for y in layout.y]
    value = Column("value", "float64", units.pop() if len(units) == 1 else "", "", label=label)
    levels = None if layout.levels is None else layout.levels.assign(y="value")
    one = replace(layout, y=["value"], lines=lines, levels=levels)
    return pd.concat(parts), one, {**columns, "value": value}


def _along_axis(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return rows in which measurements of the same seeds along an axis count as one (``key``)."""
    labels = rows[f"{axis}_label"]
    return rows.assign(
        key=rows["seeds"].map(lambda seeds: ", ".join(map(str, seeds))),
        **{axis: rows[axis].where(rows[axis].notna(), labels)},
    )


def _named_axis(tables: Tables, axis: str | None) -> dict[str, Column]:
    """Return an axis of the grid as a column, by its name."""
    if axis is None:
        return {}
    frame = tables.found.frame
    label = (frame.load if axis == "load" else frame.temperature).name
    return {axis: Column(axis, "float64", "", "", label=label)}


def _dots(rows: pd.DataFrame, x: Column | None) -> str | None:
    """Return the column of the places on x that have a name, if it is there."""
    place = x.ticks[0] if x is not None and x.ticks is not None else None
    return place if place in rows else None


def _declared_scales(args: OverlayArgs, columns: Mapping[str, Column]) -> dict[str, Scale]:
    """Return the y scale of each column, if it is to be as declared."""
    if args.y_scale != "declared":
        return {}
    return {y: columns[y].scale for y in args.y if y in columns}


def _ticks(rows: pd.DataFrame, x: Column | None) -> list[tuple[float, str]]:
    """Return the places on x that have a name, with the names of vertices as readers know them;
    none where lines differ in them.
    """
    if x is None or x.ticks is None or not set(x.ticks) <= set(rows):
        return []
    places, names = (rows[name].dropna().map(tuple) for name in x.ticks)
    if len(set(places)) != 1 or len(set(names)) != 1:
        return []
    return [(at, vertex_text(name)) for at, name in zip(places.iloc[0], names.iloc[0], strict=True)]


def _numbered(items: object) -> object:
    """Return the numbers of the items of a list, from 1; a single number is the first."""
    return list(range(1, len(items) + 1)) if isinstance(items, (list, np.ndarray)) else 1


def check_columns(rows: pd.DataFrame, metric: str, columns: Sequence[str]) -> None:
    """Raise `SweepError` for a column that rows lack, as those of older versions may."""
    for column in columns:
        if column not in rows:
            raise SweepError(
                f"{metric} has no column {column!r}; there are: {', '.join(rows.columns)}"
            )


def known_columns(
    grid: SweepTables, metric: str, rows: pd.DataFrame | None = None
) -> dict[str, Column]:
    """Return what is declared about the columns of a metric, by their names; the first axis of
    slices has the name of the direction in which `rows` were measured.
    """
    declared = grid.declared.get(identity(metric))
    known = {column.name: column for column in (declared.columns if declared else ())}
    if identity(metric) == "slice" and rows is not None:
        known["axis"] = replace(known["axis"], label=direction_label(rows["args"].unique()))
    return known | {name: Column(name, "float64", "", "", label="epoch") for name in ALONG}


def in_ways(
    grid: SweepTables, metric: str, rows: pd.DataFrame, asked: Mapping[str, str] | None
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the rows of the ways of measuring that are asked for (None: all), with the name of
    each as ``line``; these names; and a note on each way that is not measured.

    Raises:
        NotYetError: if none of them is measured.
    """
    if asked is None:
        plain = grid.plain.get(identity(metric), "") or AS_DECLARED
        lines = rows["variant"].map(lambda way: way or plain)
        return rows.assign(line=lines), sorted(lines.unique(), key=by_number), []
    parts: dict[str, pd.DataFrame] = {}
    notes = []
    for name, way in asked.items():
        try:
            parts[name] = of_variant(grid, rows, metric, way).assign(line=name)
        except SweepError as error:
            notes.append(f"{name} is not measured: {error}")
    if not parts:
        raise NotYetError("; ".join(notes))
    return pd.concat(parts.values()), list(parts), notes


def _cells(rows: pd.DataFrame, args: OverlayArgs) -> list[int]:
    """Return the cells that have panels, in the order of the plan."""
    there = sorted(int(cell) for cell in rows["cell"].unique())
    if args.cell is None:
        return [there[place] for place in spread_out(len(there), args.most)]
    if args.cell not in there:
        raise NotYetError(f"{args.metric} is not measured in cell {args.cell} yet")
    return [args.cell]


def _levels(
    tables: Tables, args: OverlayArgs, cells: Sequence[int]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the dashed levels of each cell, and a note on each quantity without a number."""
    found = [
        pd.DataFrame({"cell": cells, "value": value, "y": y, "label": label})
        for y, named in (args.levels or {}).items()
        for label, value in named.items()
    ]
    notes = []
    numbers = tables.found.table[tables.found.table["cell"].isin(cells)]
    for y, named in (args.dashed or {}).items():
        for label, asked in named.items():
            name = resolved(tables.found.grid, asked)
            own = numbers[(numbers["quantity"] == name) & numbers["value"].notna()]
            found.append(own[["cell", "value"]].assign(y=y, label=label))
            if name is not None and own.empty:
                notes.append(f"{asked} has no number in the cells that are drawn")
    table = pd.DataFrame(columns=["cell", "value", "y", "label"])
    return pd.concat([table, *found]) if found else table, notes


def _points(rows: pd.DataFrame, args: OverlayArgs) -> pd.DataFrame:
    """Return every drawn point: its cell, line, column, measurement, x and y."""
    parts = [points_of(rows, args.x, y).assign(column=y) for y in args.y]
    table = pd.concat(parts, ignore_index=True)
    return table[["cell", "line", "column", "key", "x", "y"]]
