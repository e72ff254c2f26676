"""Draw planes through points in weight space (`phasegrid.figures.planes`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from phasegrid.analysis.draw.panels import cell_heads, headed
from phasegrid.analysis.draw.plane_points import listed, points_of
from phasegrid.analysis.draw.planes import Surface, plane_maps
from phasegrid.analysis.draw.vertices import vertex_text
from phasegrid.analysis.report.overlays import in_ways, known_columns
from phasegrid.analysis.report.requested import Drawing, Tables
from phasegrid.analysis.tables.networks import courses, named_networks
from phasegrid.figures.planes import PlanesArgs

CAPS = {"loss": 5.0, "percent": 40.0}
"""The highest level of a plane's loss and of its error in percent, from the published code of
Garipov et al. 2018.
"""


def planes(tables: Tables, args: PlanesArgs) -> Drawing:
    """Draw planes side by side, with a row for each column."""
    found, grid = tables.found, tables.found.grid
    asked = args.variants if args.variant is None else {args.variant: args.variant}
    measured, lines, notes = in_ways(grid, args.metric, tables.rows[args.metric], asked)
    ways = {line: str(line) * (len(lines) > 1) for line in lines}
    if asked is None:
        ways |= by_vertices(measured.to_dict("records"))
        lines.sort(key=lambda line: ways[line].count("θ"))  # those through more modes come first
    measured = measured.assign(order=measured["line"].map(lines.index))
    measured = measured.sort_values(["cell", "across", "order", "seed_a", "seed_b"])
    heads = cell_heads(grid.cells, found.frame)
    named, shared = headed(measured, heads, ways)
    rows = [{**row, **_networks(row, grid.stages, heads)} for row in named]
    declared = known_columns(grid, args.metric)
    surfaces = [
        Surface(column, declared[column].title(), cap or CAPS[column.rpartition("_")[2]])
        for column, cap in zip(args.columns, args.caps, strict=True)
    ]
    title = tables.title(args.title, measured, shared)
    figure = plane_maps(pd.DataFrame(rows), surfaces, most=args.most, title=title)
    return Drawing(figure, _points(rows, args.columns), notes)


def by_vertices(rows: Sequence[Mapping[Any, Any]]) -> dict[str, str]:
    """Name the ways of measuring planes of complexes by three vertices each, and by what not all of
    them share.
    """
    corners = {row["line"]: listed(row, "corners") for row in rows if listed(row, "corners")}
    others = {
        line: [part for part in str(line).split(", ") if not part.startswith("vertices=")]
        for line in corners
    }
    return {
        line: ", ".join(
            [
                " ".join(map(vertex_text, three)),
                *(p for p in others[line] if not all(p in parts for parts in others.values())),
            ]
        )
        for line, three in corners.items()
    }


def _networks(
    row: Mapping[Any, Any], stages: Mapping[str, str], heads: Mapping[int, str]
) -> dict[str, object]:
    """Return the names of the networks on a plane, and which of them are of one training."""
    networks = named_networks(row, stages, heads)
    of_left = row.get("num_bends") != 0 or bool(listed(row, "corners"))
    return {
        "names": [network.name for network in networks],
        "courses": [] if of_left else courses(networks),
    }


def _points(rows: Sequence[Mapping[Any, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return every point of every plane: where it is, how far off, and its own numbers."""
    found = []
    for row in rows:
        points = points_of(row)
        own = {c: listed(row, f"points_{c}") or [None] * len(points) for c in columns}
        for place, point in enumerate(points):
            numbers = {column: values[place] for column, values in own.items()}
            at = {"u": point.u, "v": point.v, "distance": point.distance, "is_bend": point.is_bend}
            named = {"cell": row["cell"], "line": row["line"], "key": row["key"]}
            found.append({**named, "name": point.name, **at, **numbers})
    return pd.DataFrame(found)
