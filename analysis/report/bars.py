"""Draw a number of each row of a measurement as a bar (`phasegrid.figures.bars`)."""

from phasegrid.analysis.draw.bars import bar_panels
from phasegrid.analysis.report.one_network import rows_of_networks
from phasegrid.analysis.report.overlays import check_columns, known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.errors import SweepError
from phasegrid.figures.bars import BarsArgs


def bars(tables: Tables, args: BarsArgs) -> Drawing:
    """Draw a panel for each cell and way of measuring, and tabulate the bars."""
    rows, shared, notes = rows_of_networks(tables, args.metric, args.cell, args.seed, args.variants)
    check_columns(rows, args.metric, (args.column,))
    known = known_columns(tables.found.grid, args.metric)
    axis = next((name for name, column in known.items() if column.role == "axis"), None)
    if axis is None:
        raise SweepError(f"{args.metric} has one row for each measurement; bars draw several")
    rows = rows.assign(label=rows[axis].astype(str))
    rows = rows[~rows["label"].isin(args.without or ()) & rows[args.column].notna()]
    if rows.empty:
        raise NotYetError(f"{args.column} of such rows of {args.metric} is not measured yet")
    figure = bar_panels(
        rows,
        args.column,
        known[args.column].title(),
        scale=args.scale,
        share_y=args.share_y,
        most=args.most,
        columns=args.columns,
        title=tables.title(args.title, rows, shared),
    )
    return Drawing(figure, rows[["cell", "line", "key", "head", "label", args.column]], notes)
