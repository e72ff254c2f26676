"""Draw distributions of what is stored (`phasegrid.figures.distributions`)."""

import numpy as np

from phasegrid.analysis.draw.distributions import (
    density_panels,
    histogram_panels,
)
from phasegrid.analysis.report.one_network import rows_of_networks
from phasegrid.analysis.report.overlays import known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.figures.distributions import DensitiesArgs, HistogramsArgs


def histograms(tables: Tables, args: HistogramsArgs) -> Drawing:
    """Draw a panel for each cell and way of measuring, and tabulate the samples."""
    rows, shared, notes = rows_of_networks(tables, args.metric, args.cell, args.seed, args.variants)
    known = known_columns(tables.found.grid, args.metric)
    axis = next((name for name, column in known.items() if column.role == "axis"), None)
    rows = rows.assign(label="" if axis is None else [_text(axis, one) for one in rows[axis]])
    if args.labels is not None:
        rows = rows[rows["label"].isin(args.labels)]
    rows = rows[rows[args.column].notna()]
    if rows.empty:
        raise NotYetError(f"{args.column} of such rows of {args.metric} is not measured yet")
    if args.apart:
        heads = [
            ", ".join(filter(None, pair)) for pair in zip(rows["head"], rows["label"], strict=True)
        ]
        rows = rows.assign(head=heads, label="")
    mean, deviation = args.theory or (np.nan, np.nan)
    rows = rows.assign(
        samples=rows[args.column],
        mean=rows[mean] if isinstance(mean, str) else mean,
        deviation=rows[deviation] if isinstance(deviation, str) else deviation,
    )
    figure = histogram_panels(
        rows,
        known[args.column].title(),
        bins=args.bins,
        most=args.most,
        columns=args.columns,
        title=tables.title(args.title, rows, shared),
    )
    table = rows[["cell", "line", "key", "head", "label", "mean", "deviation", "samples"]]
    return Drawing(figure, table.explode("samples", ignore_index=True), notes)


def _text(axis: str, label: object) -> str:
    return f"{axis}={label:g}" if isinstance(label, float) else str(label)


def densities(tables: Tables, args: DensitiesArgs) -> Drawing:
    """Draw a panel for each cell, and tabulate the nodes of the densities."""
    rows, _, notes = rows_of_networks(tables, "hessian", args.cell, args.seed, args.variants)
    figure = density_panels(
        rows,
        smoothing=args.smoothing,
        most=args.most,
        columns=args.columns,
        title=tables.title(args.title, rows),
    )
    points = ["density_nodes", "density_weights"]
    table = rows[["cell", "line", "key", "lambda_min", "num_parameters", *points]]
    return Drawing(figure, table.explode(points, ignore_index=True), notes)
