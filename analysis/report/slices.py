"""Draw the loss on planes and lines through trained weights (`phasegrid.figures.slices`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.panels import cell_heads, headed
from phasegrid.analysis.draw.plane_points import listed
from phasegrid.analysis.draw.profiles import direction_name
from phasegrid.analysis.draw.slice_grids import large_slice, slice_grid
from phasegrid.analysis.draw.slice_panels import slice_panels
from phasegrid.analysis.draw.slices import slice_label, slice_points
from phasegrid.analysis.report.overlays import in_ways
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables, of_variant
from phasegrid.analysis.tables.networks import Named, courses, named_networks
from phasegrid.figures.slices import SlicesArgs

TOLD = (
    "cell",
    "line",
    "key",
    "first",
    "second",
    "direction_cosine",
    "curvature",
    "curvature_stderr",
    "curvature_2",
    "curvature_2_stderr",
    "shape",
    "measured_share",
)
"""What the table of a figure has of each plane, beside the networks on it."""


def slices(tables: Tables, args: SlicesArgs) -> Figure | Drawing:
    """Draw the loss on planes or lines through trained weights."""
    measured = tables.rows["slice"]
    dimensions = measured["axis_2"].map(lambda b: 2 if isinstance(b, (list, np.ndarray)) else 1)
    measured = measured[dimensions == args.dimensions]
    if args.seed is not None:
        measured = measured[measured["seed_a"] == args.seed]
    if args.cell is not None:
        measured = measured[measured["cell"] == args.cell]
    there = [column for column in args.drawn if measured[column].notna().any()]
    if not there:
        raise NotYetError(
            f"{args.drawn[0]} of slices of {args.dimensions} dimension(s) is not measured yet"
        )
    read = "direction_names" in measured and measured["direction_names"].notna().any()
    by_panels = read or args.view == "surface" or args.variants or len(args.drawn) > 1
    if by_panels and args.dimensions == 2:
        return _panels(tables, args, measured)
    return _grid(tables, args, measured)


def _grid(tables: Tables, args: SlicesArgs, measured: pd.DataFrame) -> Figure:
    """Draw the cells of a diagram, or one of them."""
    found = tables.found
    measured = of_variant(found.grid, measured, "slice", args.variant)
    points, (column,) = slice_points(measured), args.drawn
    title = tables.title(args.title, measured)
    label = slice_label(column, found.grid.declared["slice"])
    draw = slice_grid if args.cell is None else large_slice
    return draw(points, found.grid.cells, found.frame, column, title=title, label=label)


def _panels(tables: Tables, args: SlicesArgs, measured: pd.DataFrame) -> Drawing:
    """Draw a panel for each cell and way of measuring."""
    found, grid = tables.found, tables.found.grid
    asked = args.variants if args.variant is None else {args.variant: args.variant}
    chosen, ways, notes = in_ways(grid, "slice", measured, asked)
    chosen = chosen.assign(order=chosen["line"].map(ways.index))
    chosen = chosen.sort_values(["cell", "order", "seed_a", "key"], kind="stable")
    chosen = chosen.drop_duplicates(["cell", "line"])
    heads = cell_heads(grid.cells, found.frame)
    named = args.variants is not None
    rows, shared = headed(chosen, heads, {way: way * named for way in ways})
    read = tables.rows.get("directions", pd.DataFrame(columns=["key", "inputs"]))
    inputs = dict(zip(read["key"], read["inputs"], strict=True))
    told = [
        {**row, **_of_networks(row, named_networks(_read(row, inputs), grid.stages, heads))}
        for row in rows
    ]
    figure = slice_panels(
        told,
        {column: slice_label(column, grid.declared["slice"]) for column in args.drawn},
        view=args.view,
        most=args.most,
        columns_across=args.columns,
        title=tables.title(args.title, chosen, shared),
    )
    return Drawing(figure, _table(told), notes)


def _read(row: Mapping[Any, Any], inputs: Mapping[str, str]) -> Mapping[Any, Any]:
    """Return a row with the networks of the directions that were read as its ``inputs``, by the key
    of these.
    """
    text = row["inputs"]
    first = json.loads(text)[0][0] if isinstance(text, str) else ""
    return {**row, "inputs": inputs.get(first, text)}


def _of_networks(row: Mapping[Any, Any], networks: Sequence[Named]) -> dict[str, object]:
    """Return the names of the directions of a plane, of the networks on it, and which of them are
    of one training; what is no list is none.
    """
    names = [network.name for network in networks]
    directions = [_direction(name, names) for name in listed(row, "direction_names")]
    first, second = directions or ("direction 1", "direction 2")
    unit = row["direction_norms"][0]
    return {
        "names": names,
        "first": first,
        "second": second,
        "courses": courses(networks) if directions else [],
        "num_bends": 0,
        "points_u": listed(row, "points_u"),
        "points_v": listed(row, "points_v"),
        "points_distance": [distance / unit for distance in listed(row, "points_distance")],
    }


def _direction(direction: str, networks: Sequence[str]) -> str:
    """Name a direction; one to another network by that network.

    >>> _direction("to_1", ["epoch 2", "epoch 20"]), _direction("positive_1", [])
    ('to epoch 20', 'P.E. 1')
    """
    kind, _, number = direction.rpartition("_")
    if kind == "to" and int(number) < len(networks) and networks[int(number)]:
        return f"to {networks[int(number)]}"
    return direction_name(direction)


def _table(rows: Sequence[Mapping[Any, Any]]) -> pd.DataFrame:
    """Return each plane, with every network on it."""
    found = []
    for row in rows:
        own = {name: row.get(name) for name in TOLD}
        points = [listed(row, f"points_{axis}") for axis in ("u", "v", "distance")]
        for name, u, v, distance in zip(row["names"], *points, strict=False):
            found.append({**own, "network": name, "a": u, "b": v, "distance": distance})
        if not points[0]:
            found.append(own)
    return pd.DataFrame(found)
