"""Draw the built-in kinds of figures (`phasegrid.figures`) from tables."""

from typing import Literal

from matplotlib.figure import Figure

from phasegrid.analysis.draw.gain import gain_figure
from phasegrid.analysis.draw.lines import curve_panels, cut_panels
from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.draw.rows import Line, row_panels
from phasegrid.analysis.draw.scales import axis_name
from phasegrid.analysis.draw.schematics import phase_schematic, shape_schematic
from phasegrid.analysis.report.overlays import check_columns, known_columns
from phasegrid.analysis.report.requested import (
    Drawing,
    NotYetError,
    Tables,
    along_trainings,
    of_variant,
    resolved,
)
from phasegrid.analysis.stats.gain import best_per_load, gain_table
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.errors import SweepError
from phasegrid.figures import (
    CurvesArgs,
    GainArgs,
    LinesArgs,
    PanelsArgs,
    RowsArgs,
)
from phasegrid.figures.checks import ALONG
from phasegrid.figures.schematic import SchematicArgs
from phasegrid.tasks import TASKS


def panels(tables: Tables, args: PanelsArgs) -> Figure:
    """Draw diagrams of quantities."""
    found = tables.found
    return seven_panels(
        found.table,
        found.phases,
        found.frame,
        tables.quantities,
        title=tables.title(args.title),
        labels=tables.labels,
        with_phases=args.phases,
        columns=args.columns,
        share_colours=args.share_colours,
        known=found.grid.quantities,
        stage=found.grid.last_stage,
    )


def lines(tables: Tables, args: LinesArgs) -> Figure:
    """Draw cuts through diagrams."""
    found = tables.found
    path = found.grid.load_path if args.along == "load" else found.grid.temperature_path
    if path is None:
        raise NotYetError(f"the sweep has no {args.along}")
    others = found.frame.temperature if args.along == "load" else found.frame.load
    unknown = [label for label in args.at or () if label not in others.labels]
    if unknown:
        raise SweepError(
            f"at: no {others.name or 'value'} {unknown[0]!r}; there are: {', '.join(others.labels)}"
        )
    return cut_panels(
        found.table,
        found.frame,
        tables.quantities,
        args.along,
        args.at,
        labels=tables.labels,
        title=tables.title(args.title),
        known=found.grid.quantities,
    )


def curves(tables: Tables, args: CurvesArgs) -> Figure:
    """Draw the connecting curve of every cell."""
    grid = tables.found.grid
    column = curve_column(grid)
    if grid.curves[column].notna().sum() == 0:
        raise NotYetError("no connecting curve is measured yet")
    phases, frame = tables.found.phases.table, tables.found.frame
    return curve_panels(
        grid.curves, phases, frame, column, title=tables.title(args.title), loss_unit=grid.loss_unit
    )


def gain(tables: Tables, args: GainArgs) -> Drawing:
    """Draw the best of each load in two sweeps, and the gain."""
    grid = tables.found.grid
    what = grid.quantity(args.quantity)
    against = tables.other(args.against)
    if against is None:
        raise NotYetError(f"the store has no sweep {args.against!r} yet")
    ours, theirs = (resolved(one, args.quantity) for one in (grid, against))
    if ours is None or theirs is None:
        lacking = grid.sweep if ours is None else args.against
        raise NotYetError(f"{args.quantity} is not measured yet in {lacking}")
    table = gain_table(
        best_per_load(grid, ours),
        best_per_load(against, theirs),
        lower_is_better=what.better == "lower",
    )
    this_label, other_label = args.labels or (
        grid.with_stage(grid.sweep),
        against.with_stage(args.against),
    )
    figure = gain_figure(
        table,
        what,
        (this_label, other_label),
        grid.load_path,
        axis_name(grid.temperature_path, grid.axis_names),
        names=grid.axis_names,
        title=tables.title(args.title),
    )
    shared = table["gain"].notna().any()
    notes = () if shared else (f"no load is in both sweeps yet ({args.against})",)
    return Drawing(figure, table, notes)


def curve_column(grid: SweepTables) -> Literal["train_error_percent", "train_loss"]:
    """Return the column that the curves of a sweep show: the loss if this judges its mode
    connectivity, otherwise the error.
    """
    return "train_loss" if TASKS[grid.task].judged_by == "loss" else "train_error_percent"


def rows(tables: Tables, args: RowsArgs) -> Figure:
    """Draw columns of a metric against each other."""
    measured, grid = tables.rows[args.metric], tables.found.grid
    along = args.x in ALONG
    if along:
        measured = along_trainings(grid, args.metric, measured)
    measured = of_variant(grid, measured, args.metric, args.variant)
    check_columns(measured, args.metric, (args.x, *args.y))
    known = known_columns(grid, args.metric, measured)
    each = "training" if along else "measurement"
    line = Line(args.x, args.y, args.lines, args.at, (args.x_scale, args.y_scale), each)
    title = tables.title(args.title, measured)
    return row_panels(measured, tables.found.frame, line, known, title=title)


def schematic(_tables: Tables, args: SchematicArgs) -> Figure:
    """Draw what words mean, from formulas."""
    draw = {"phases": phase_schematic, "shapes": shape_schematic}[args.of]
    return draw(title=args.title or "")
