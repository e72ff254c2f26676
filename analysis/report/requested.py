"""Draw the figures that a sweep requests in its ``figures:`` section, from its findings and the
rows of its metrics.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.report.findings import Findings
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.along import measured_along, wanted_along
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.measured_from import named_rows
from phasegrid.analysis.tables.variants import resolve, ways
from phasegrid.declare import FigureKind, FigureRequest, Needs, import_function
from phasegrid.errors import SweepError
from phasegrid.figures import FIGURES
from phasegrid.keys import canonical_json
from phasegrid.registry import identity, resolve_figure

OtherSweep = Callable[[str], SweepTables | None]
"""Returns another sweep of the same store by its name; None if the store has no such sweep."""

RowsOf = Callable[[str], pd.DataFrame]
"""Returns the rows of a metric in the sweep, by its identity; an empty table if there are none."""


class NotYetError(Exception):
    """Raised if a figure needs results that are not stored yet; the text says which."""


@dataclass(frozen=True)
class Tables:
    """The input of a kind of figure.

    `found` has the grid (`cells`; `values`, one row per number), the numbers of its cells with
    their standard errors (`table`), the phases and the axes. `quantities` are the needed quantities
    that are measured, by their names in these tables, and `labels` are their labels. `rows` gives
    the stored rows of the needed metrics, with the place of their cell and `variant`, the way of
    measuring as written in names ("" for the plain one). `other` gives another sweep of the store.
    `across` has what was measured across cells, by metric (`phasegrid.analysis.tables.across`).
    """

    found: Findings
    quantities: Sequence[str] = ()
    labels: Sequence[str] = ()
    rows: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    other: OtherSweep = lambda _name: None
    across: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def title(self, asked: str | None, shown: pd.DataFrame | None = None, shared: str = "") -> str:
        """Return the head of the figure: the requested text, otherwise the name of the sweep; the
        stage of the `shown` rows of a metric, if there is one; and what all panels have `shared`.
        """
        text = self.found.grid.sweep if asked is None else asked
        stages = set() if shown is None or "stage" not in shown else set(shown["stage"].dropna())
        named = f"{text}, stage={stages.pop()}" if len(stages) == 1 else text
        return "; ".join(filter(None, [self.found.heading(named), shared]))

    def across_cells(self) -> "Tables":
        """Return the rows that were measured across cells, in the place of a cell without axes."""
        rows = {name: _in_one_cell(own[own["across"]]) for name, own in self.rows.items()}
        rows = {name: own for name, own in rows.items() if len(own)}
        if not rows:
            raise NotYetError(f"{', '.join(self.rows) or 'it'} is not measured across cells yet")
        grid = self.found.grid
        alone = _in_one_cell(grid.cells.iloc[:1])
        plain = {**grid.plain, **dict.fromkeys(map(identity, rows), "")}
        values = grid.values.iloc[:0]
        grid = replace(
            grid, cells=alone, values=values, failures=grid.failures.iloc[:0], plain=plain
        )
        found = replace(self.found, grid=grid, table=self.found.table.iloc[:0])
        return replace(self, found=found, rows=rows)


@dataclass(frozen=True)
class Drawing:
    """A figure with the table that it shows, unless another file has it, notes on what it lacks,
    `texts` to be written beside it, by the ending of their file (``md``), and the `frames` of an
    animation beside it. The ``draw`` of a kind may return this in place of a figure.
    """

    figure: Figure
    table: pd.DataFrame
    notes: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    frames: Sequence[Figure] = ()


@dataclass(frozen=True)
class Requested:
    """Figures by name, the tables that some of them show, what cannot be drawn, (figure, reason),
    the names of the figures that `failed`: they can never be drawn as requested; the `texts` beside
    figures, by the names of their files; and the frames of `films`, by the names of their figures.
    """

    figures: Mapping[str, Figure]
    tables: Mapping[str, pd.DataFrame]
    notes: Sequence[tuple[str, str]]
    failed: Sequence[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    films: Mapping[str, Sequence[Figure]] = field(default_factory=dict)


def requested_figures(
    found: Findings,
    requests: Sequence[FigureRequest],
    other: OtherSweep,
    rows_of: RowsOf = lambda _metric: pd.DataFrame(),
    across: Mapping[str, pd.DataFrame] | None = None,
) -> Requested:
    """Draw the figures of all requests. A figure that is not measured yet, or whose drawing fails,
    is left out with a note; it does not stop the others.
    """
    figures: dict[str, Figure] = {}
    tables: dict[str, pd.DataFrame] = {}
    texts: dict[str, str] = {}
    films: dict[str, Sequence[Figure]] = {}
    notes: list[tuple[str, str]] = []
    failed: list[str] = []
    for request in requests:
        name = request.name
        try:
            kind = resolve_figure(request.kind)
            given, missing = _tables(found, kind.needs(request.args), other, rows_of)
            drawn = _drawn(kind, request, replace(given, across=across or {}), missing)
        except NotYetError as error:
            notes.append((name, str(error)))
            continue
        except Exception as error:  # a plug-in may raise anything; the reason is a value
            what = "" if isinstance(error, SweepError) else f"{type(error).__name__}: "
            notes.append((name, f"failed: {what}{error}"))
            failed.append(name)
            continue
        notes += [(name, reason) for reason in missing]
        if isinstance(drawn, Drawing):
            tables[name] = drawn.table
            texts |= {f"{name}.{ending}": text for ending, text in drawn.texts.items()}
            films |= {name: drawn.frames} if drawn.frames else {}
            notes += [(name, note) for note in drawn.notes]
            drawn = drawn.figure
        if drawn is not None:
            figures[name] = drawn
    return Requested(figures, tables, notes, failed, texts, films)


def _drawn(
    kind: FigureKind, request: FigureRequest, given: Tables, missing: Sequence[str]
) -> Figure | Drawing | None:
    """Draw one figure; None if nothing that it needs is measured."""
    if missing and not given.quantities and not given.rows:
        return None
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in request.args.items()}
    drawn = import_function(kind.draw)(given, kind.args(**args))
    if not isinstance(drawn, (Figure, Drawing)):
        raise SweepError(
            f"{request.kind} returned {type(drawn).__name__}; allowed: a matplotlib Figure, or a"
            " Drawing"
        )
    return drawn


def unasked_figures(
    found: Findings, requests: Sequence[FigureRequest], rows_of: RowsOf
) -> Requested:
    """Draw the figures that need no request (`FigureKind.unasked`) and whose data are measured,
    unless a request has their kind or name. Only drawn and failed ones have notes.
    """
    kinds, names = {one.kind for one in requests}, {one.name for one in requests}
    unasked = [
        FigureRequest(name, asdict(kind.args(**kind.unasked)))
        for name, kind in FIGURES.items()
        if kind.unasked is not None and name not in kinds and kind.unasked["name"] not in names
    ]
    drawn = requested_figures(found, unasked, lambda _name: None, rows_of)
    told = {*drawn.figures, *drawn.failed}
    return replace(drawn, notes=[note for note in drawn.notes if note[0] in told])


def of_variant(
    grid: SweepTables, rows: pd.DataFrame, metric: str, asked: str | None
) -> pd.DataFrame:
    """Return the rows that were measured in one way: the way that is `asked` for, as written in
    names (`resolve`), or the only one.

    Raises:
        SweepError: if there is no such way, or if there are several and none is asked for.
    """
    there = list(dict.fromkeys(rows["variant"]))
    plain = grid.plain.get(identity(metric), "")
    named = ", ".join(repr(one) if one else f"'' ({plain or 'the plain one'})" for one in there)
    if asked is None:
        if len(there) > 1:
            raise SweepError(
                f"{metric} was measured with several settings; choose one with variant: one of"
                f" {named}"
            )
        return rows
    by_name = {f"way[{one}]" if one else "way": one for one in there}
    found = resolve(f"way[{asked}]", grid.shown(identity(metric)), plain, by_name)
    if found is None:
        raise SweepError(f"variant: found {asked!r}; there are: {named}")
    chosen: pd.DataFrame = rows[rows["variant"] == by_name[found]]
    return chosen


def along_trainings(grid: SweepTables, metric: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows measured at one epoch along a training, with ``at`` as a number. The rows of
    a training count as one measurement (``key``), and its epochs as one way of measuring.

    Raises:
        NotYetError: if there is none.
    """
    alone = rows["epoch"].notna() if "epoch" in rows else pd.Series(False, index=rows.index)
    if not alone.any():
        raise NotYetError(f"{metric} is not measured at epochs along a training yet")
    own = rows[alone]
    args = own["args"].map(_without_epoch)
    suffixes = ways(grid.declared.get(identity(metric)), own.assign(args=args)).suffixes
    return own.assign(
        at=own["epoch"], key=own["trial_a"] + args, variant=args.map(suffixes)
    ).sort_values(["cell", "key", "at"])


def _without_epoch(args: str) -> str:
    return canonical_json({k: v for k, v in json.loads(args).items() if k != "at"})


def resolved(grid: SweepTables, asked: str) -> str | None:
    """Return the name that a requested quantity has in a grid's tables; None if it has no number
    yet.
    """
    table = grid.quantity(asked).table
    return resolve(asked, grid.shown(table), grid.plain.get(table, ""), _present(grid))


def _present(grid: SweepTables) -> list[str]:
    names = grid.values.loc[grid.values["value"].notna(), "quantity"].unique()
    return [str(name) for name in names]


def _tables(
    found: Findings, needs: Needs, other: OtherSweep, rows_of: RowsOf
) -> tuple[Tables, list[str]]:
    """Return the part of a figure's needs that is measured, and a note on each part that is not."""
    names, labels, missing = [], [], []
    places = measured_along(_present(found.grid)) if needs.along else []
    for asked in needs.quantities:
        if needs.along:
            own = [(one.name, one.name) for one in wanted_along(found.grid, asked, places)]
        else:
            name = resolved(found.grid, asked)
            own = [] if name is None else [(name, asked)]
        if not own:
            where = " at several places along trainings" if needs.along else ""
            missing.append(f"{asked} is not measured{where} yet")
        own = [(name, called) for name, called in own if name not in names]
        names += [name for name, _ in own]
        labels += [found.label(name, called) for name, called in own]
    if lazy := [name for name in names if found.grid.quantity(name).asked]:
        table = pd.concat([found.table, aggregate(found.grid, lazy)], ignore_index=True)
        found = replace(found, table=table)
    rows: dict[str, pd.DataFrame] = {}
    for asked in (*needs.rows, *needs.beside):
        table = _placed(found.grid, identity(asked), rows_of(identity(asked)), needs.across)
        if not table.empty:
            rows[asked] = table
        elif asked in needs.rows:
            missing.append(f"{asked} is not measured yet")
    return Tables(found, names, labels, rows, other), missing


def _in_one_cell(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(cell=0, facet="[]", load_label="", temperature_label="")


def _placed(
    grid: SweepTables, metric: str, rows: pd.DataFrame, with_across: bool = False
) -> pd.DataFrame:
    """Return the rows of a metric with a result, with the place of their cell and their variant;
    `with_across`, those across cells come last, without a place, as a way of measuring.
    """
    if rows.empty:
        return rows
    rows = rows if with_across else rows[~rows["across"]]
    if not (rows["outcome"] == "done").any():
        return pd.DataFrame()
    named = named_rows(rows, grid.cells, grid.stages)
    if named["across"].any():
        named = named.assign(args=_across_args(named))
    suffixes = ways(grid.declared.get(metric), named).suffixes
    place = ["cell", "facet", "load", "load_label", "temperature", "temperature_label"]
    own = named.loc[named["outcome"] == "done"]
    own = own.drop(columns=[name for name in place[1:] if name in own])
    own = own.assign(variant=own["args"].map(suffixes))
    return own.merge(grid.cells[place], on="cell", how="left" if with_across else "inner")


def _across_args(rows: pd.DataFrame) -> list[str]:
    """Return the arguments of rows; of those across cells, with that they are, and with the id of
    their request if it has one.
    """
    told = [{"over": "across"} | ({} if pd.isna(one) else {"id": one}) for one in rows["request"]]
    return [
        canonical_json({**json.loads(text), **more}) if across else text
        for text, more, across in zip(rows["args"], told, rows["across"], strict=True)
    ]
