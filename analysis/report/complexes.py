"""Draw complexes in three dimensions (`phasegrid.figures.complexes`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from phasegrid.analysis.draw.complexes import Shade, complex_panels
from phasegrid.analysis.draw.panels import cell_heads, headed
from phasegrid.analysis.draw.plane_points import listed
from phasegrid.analysis.report.overlays import in_ways, known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.figures.complexes import PLACED, ComplexArgs


def complexes(tables: Tables, args: ComplexArgs) -> Drawing:
    """Draw complexes side by side, with a row for each loss."""
    grid, measured = tables.found.grid, tables.rows[args.metric]
    if PLACED not in measured or measured[PLACED].isna().all():
        raise NotYetError(f"{args.metric} has no places of vertices: it is not measured yet")
    measured = measured[measured[PLACED].notna()]
    if args.cell is not None:
        measured = measured[measured["cell"] == args.cell]
    chosen, lines, notes = in_ways(grid, args.metric, measured, args.variants)
    chosen = chosen.assign(order=chosen["line"].map(lines.index))
    chosen = chosen.sort_values(["cell", "order", "seed_a"])
    heads = cell_heads(grid.cells, tables.found.frame)
    rows, shared = headed(chosen, heads, {line: line * (len(lines) > 1) for line in lines})
    known = known_columns(grid, args.metric)
    shades = [
        Shade(column, known[f"vertex_{column}"].title(), args.scale) for column in args.columns
    ]
    title = tables.title(args.title, chosen, shared)
    figure = complex_panels(
        pd.DataFrame(rows), shades, most=args.most, points=args.points, title=title
    )
    return Drawing(figure, _vertices(rows, args.columns), notes)


def _vertices(rows: Sequence[Mapping[Any, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return every vertex of every complex: its place and its losses."""
    found = []
    for row in rows:
        named = {"cell": row["cell"], "line": row["line"], "key": row["key"]}
        lists = {axis: listed(row, f"vertex_{axis}") for axis in "xyz"}
        lists |= {column: listed(row, f"vertex_{column}") for column in columns}
        for place, name in enumerate(row["vertex_name"]):
            numbers = {key: values[place] for key, values in lists.items() if values}
            found.append({**named, "name": name, **numbers})
    return pd.DataFrame(found)
