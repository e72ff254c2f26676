"""The figures a sweep asks for by itself (its ``figures:`` section), from its findings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.gain import gain_figure
from phasegrid.analysis.draw.lines import curve_panels, cut_panels
from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.draw.scales import axis_name
from phasegrid.analysis.report.findings import Findings
from phasegrid.analysis.stats.gain import best_per_load, gain_table
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.variants import resolve
from phasegrid.config.figure_types import (
    FIGURE_KINDS,
    CurvesArgs,
    GainArgs,
    LinesArgs,
    PanelsArgs,
)
from phasegrid.declare import FigureRequest
from phasegrid.errors import SweepError
from phasegrid.tasks import TASKS

OtherSweep = Callable[[str], SweepTables | None]
"""Gives another sweep of the same store by its name; None if the store has none of that name."""


@dataclass(frozen=True)
class Drawing:
    """A figure to be made, and the table it shows where that is not among the others."""

    figure: Callable[[], Figure]
    table: pd.DataFrame | None = None


@dataclass(frozen=True)
class Requested:
    """Figures by name, and what of the requests cannot be drawn yet: (figure, reason)."""

    drawings: Mapping[str, Drawing]
    notes: Sequence[tuple[str, str]]


def requested_figures(
    found: Findings, requests: Sequence[FigureRequest], other: OtherSweep
) -> Requested:
    """Return the figures of all requests; what is not measured yet is left out with a note, not
    refused.

    Raises:
        SweepError: for a request that can never be drawn: an unknown quantity or label, a gain in
            what has no better. The message names the figure.
    """
    drawings: dict[str, Drawing] = {}
    notes: list[tuple[str, str]] = []
    for request in requests:
        try:
            drawing, why = _drawing(found, request, other)
        except SweepError as error:
            raise SweepError(
                f"drawing {found.grid.sweep!r}, figure {request.name!r}: {error}"
            ) from error
        notes += [(request.name, reason) for reason in why]
        if drawing is not None:
            drawings[request.name] = drawing
    return Requested(drawings, notes)


def _drawing(
    found: Findings, request: FigureRequest, other: OtherSweep
) -> tuple[Drawing | None, list[str]]:
    args = FIGURE_KINDS[request.kind](**request.args)
    if isinstance(args, PanelsArgs):
        return _panels(found, args)
    if isinstance(args, LinesArgs):
        return _lines(found, args)
    if isinstance(args, CurvesArgs):
        return _curves(found, args)
    assert isinstance(args, GainArgs)
    return _gain(found, args, other)


def _panels(found: Findings, args: PanelsArgs) -> tuple[Drawing | None, list[str]]:
    names, labels, notes = _measured(found, args.quantities)
    if not names:
        return None, notes

    def make() -> Figure:
        return seven_panels(
            found.table,
            found.phases,
            found.frame,
            names,
            title=_title(found, args.title),
            labels=labels,
            with_phases=args.phases,
            columns=args.columns,
            known=found.grid.quantities,
        )

    return Drawing(make), notes


def _lines(found: Findings, args: LinesArgs) -> tuple[Drawing | None, list[str]]:
    names, labels, notes = _measured(found, args.quantities)
    path = found.grid.load_path if args.along == "load" else found.grid.temperature_path
    if path is None:
        return None, [*notes, f"the sweep has no {args.along}"]
    others = found.frame.temperature if args.along == "load" else found.frame.load
    unknown = [label for label in args.at or () if label not in others.labels]
    if unknown:
        raise SweepError(
            f"at: no {others.name or 'value'} {unknown[0]!r}; there are: {', '.join(others.labels)}"
        )
    if not names:
        return None, notes

    def make() -> Figure:
        return cut_panels(
            found.table,
            found.frame,
            names,
            args.along,
            args.at,
            labels=labels,
            title=_title(found, args.title),
            known=found.grid.quantities,
        )

    return Drawing(make), notes


def _curves(found: Findings, args: CurvesArgs) -> tuple[Drawing | None, list[str]]:
    column = curve_column(found.grid)
    if found.grid.curves[column].notna().sum() == 0:
        return None, ["no connecting curve is measured yet"]

    def make() -> Figure:
        title = _title(found, args.title)
        return curve_panels(found.grid.curves, found.phases.table, found.frame, column, title=title)

    return Drawing(make), []


def _gain(found: Findings, args: GainArgs, other: OtherSweep) -> tuple[Drawing | None, list[str]]:
    what = found.grid.quantity(args.quantity)
    against = other(args.against)
    if against is None:
        return None, [f"the store has no sweep {args.against!r} yet"]
    ours, theirs = (_resolved(grid, args.quantity) for grid in (found.grid, against))
    this_label, other_label = args.labels or (found.grid.sweep, args.against)
    if ours is None or theirs is None:
        lacking = found.grid.sweep if ours is None else args.against
        return None, [f"{args.quantity} is not measured yet in {lacking}"]
    table = gain_table(
        best_per_load(found.grid, ours),
        best_per_load(against, theirs),
        lower_is_better=what.better == "lower",
    )

    def make() -> Figure:
        return gain_figure(
            table,
            what,
            (this_label, other_label),
            found.grid.load_path,
            axis_name(found.grid.temperature_path, found.grid.axis_names),
            names=found.grid.axis_names,
            title=_title(found, args.title),
        )

    notes = (
        [] if table["gain"].notna().any() else [f"no load is in both sweeps yet ({args.against})"]
    )
    return Drawing(make, table), notes


def curve_column(grid: SweepTables) -> Literal["train_error_percent", "train_loss"]:
    """Return what the curves of a sweep show: the loss where the task is judged by it, as its mode
    connectivity, else the error.
    """
    return "train_loss" if TASKS[grid.task].judged_by == "loss" else "train_error_percent"


def _measured(found: Findings, quantities: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the quantities that have a number here, what the request calls them, and a note on
    each that has none.
    """
    names, labels, notes = [], [], []
    for asked in quantities:
        label = found.grid.quantity(asked).label
        name = _resolved(found.grid, asked)
        if name is None:
            notes.append(f"{asked} is not measured yet")
        elif name not in names:
            names.append(name)
            labels.append(label)
    return names, labels, notes


def _resolved(grid: SweepTables, asked: str) -> str | None:
    table = grid.quantity(asked).table
    present = grid.values.loc[grid.values["value"].notna(), "quantity"].unique()
    return resolve(
        asked, grid.declared.get(table), grid.plain.get(table, ""), [str(name) for name in present]
    )


def _title(found: Findings, asked: str | None) -> str:
    return found.grid.heading(found.grid.sweep if asked is None else asked)
