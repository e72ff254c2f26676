"""Draw what was measured along trainings (`phasegrid.figures.along`)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from phasegrid.analysis.draw.diagrams import wrapped
from phasegrid.analysis.draw.line_panels import Layout, Scale, line_panels
from phasegrid.analysis.draw.panels import cell_heads, seven_panels, told_apart
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.phase_map import PhaseMap, shows_something
from phasegrid.analysis.report.findings import Findings
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.analysis.report.standard import same_everywhere
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.along import (
    Along,
    Place,
    Unit,
    along_table,
    grid_at,
    measured_along,
    values_along_trainings,
    wanted_along,
)
from phasegrid.analysis.tables.quantities import Quantity
from phasegrid.declare import Column
from phasegrid.errors import SweepError
from phasegrid.figures.along import AlongArgs, EvolutionArgs

MOST_LINES, MOST_ROWS = 12, 6
"""So many quantities are drawn, in panels of lines or rows of diagrams, where none are named."""
MOST_NAMED = 5
"""A note names at most so many quantities."""
LETTERS = 30
"""The length of a line of a label beside a panel."""


def along(tables: Tables, args: AlongArgs) -> Drawing:
    """Draw quantities as lines over the places along trainings, and tabulate their points."""
    grid = tables.found.grid
    chosen, notes = _chosen(tables, args.quantities, MOST_LINES)
    values = values_along_trainings(grid, chosen)
    unit, *others = values["unit"].unique()
    if others:
        values, note = _of_one_unit(values)
        unit, notes = values["unit"].iloc[0], [*notes, note]
    heads = cell_heads(grid.cells, tables.found.frame)
    there = sorted(values["cell"].unique())
    cells = [int(there[place]) for place in spread_out(len(there), args.most)]
    if len(cells) < len(there):
        notes = [*notes, f"lines of {len(cells)} of {len(there)} cells are drawn"]
    named = {cell: heads[cell] or grid.sweep for cell in cells}
    rows = values[values["cell"].isin(cells)].assign(panel="")
    rows = rows.assign(line=rows["cell"].map(named))
    names = [one.name for one in chosen if rows[one.name].notna().any()]
    labels, shared = told_apart(tables.found.labels(names))
    columns = {
        name: _column(tables.found, name, label) for name, label in zip(names, labels, strict=True)
    }
    layout = Layout(
        "at",
        names,
        [""],
        list(dict.fromkeys(named.values())),
        (args.x_scale, "linear"),
        y_scales={name: _scale(args, columns[name], rows[name]) for name in names},
        levels=_levels(tables, args, chosen),
        across=args.columns,
    )
    columns["at"] = Column("at", "float64", "", "", label=unit)
    figure = line_panels(rows, layout, columns, title=tables.title(args.title, shared=shared))
    return Drawing(figure, values, notes)


def evolution(tables: Tables, args: EvolutionArgs) -> Drawing:
    """Draw quantities as diagrams at each of the places along trainings."""
    found = tables.found
    paths = {"load": found.grid.load_path, "temperature": found.grid.temperature_path}
    if absent := [axis for axis, path in paths.items() if path is None]:
        raise NotYetError(f"the sweep has no {absent[0]}; draw lines instead: along")
    chosen, notes = _chosen(tables, args.quantities, MOST_ROWS)
    every = sorted({place for one in chosen for place in one.names})
    places = every if args.places is None else _asked_places(args.places, every)
    facets = len(found.grid.facets())
    shown = spread_out(len(places), max(2, args.most // facets)) if args.places is None else None
    columns = places if shown is None else [places[place] for place in shown]
    story = _story(found, chosen, every, with_phases=args.phases)
    title = tables.title(args.title, shared=story.shared)
    figure = _diagrams(found, story, columns, title)
    if len(columns) < len(every):
        notes = [*notes, f"{len(columns)} of {len(every)} places are drawn; tables/ has all"]
    frames = (
        [
            _diagrams(found, story, [place], f"{_in_words(place)}: {title}")
            for place in (every if args.places is None else places)
        ]
        if args.film
        else []
    )
    return Drawing(figure, story.table, notes, frames=frames)


@dataclass(frozen=True)
class _Story:
    """Quantities along trainings as the facets of a diagram: a facet for each place."""

    names: Sequence[str]
    labels: Sequence[str]
    shared: str
    table: pd.DataFrame
    phases: PhaseMap
    with_phases: bool


def _story(
    found: Findings, chosen: Sequence[Along], places: Sequence[Place], *, with_phases: bool
) -> _Story:
    members = [name for one in chosen for name in one.names.values()]
    there = set(found.table["quantity"])
    lazy = [name for name in members if name not in there]
    table = pd.concat([found.table, aggregate(found.grid, lazy)]) if lazy else found.table
    table = pd.concat([along_table(table, one) for one in chosen], ignore_index=True)
    where = zip(table["unit_of_at"], table["at"], table["facet"], strict=True)
    table = table.assign(facet=[_facet(facet, (unit, at)) for unit, at, facet in where])
    maps = _phases_at(found, places)
    phases = pd.concat(
        [
            one.table.assign(facet=[_facet(facet, place) for facet in one.table["facet"]])
            for place, one in zip(places, maps, strict=True)
        ],
        ignore_index=True,
    )
    told = with_phases and any(shows_something(one) for one in maps)
    names = [one.name for one in chosen]
    labels, shared = told_apart(found.labels(names))
    return _Story(
        names,
        labels,
        shared,
        table,
        replace(maps[-1], table=phases),
        told,
    )


def _phases_at(found: Findings, places: Sequence[Place]) -> list[PhaseMap]:
    """Return the phases at each place, from what was measured there. A threshold of the Hessian
    that is found from the data is that of the last place, the same for all.
    """
    rules = found.phases.rules
    last = label_phases(grid_at(found.grid, places[-1]), rules)
    hessian = last.threshold("hessian")
    fixed = replace(rules, hessian=rules.hessian if np.isnan(hessian) else hessian)
    return [*(label_phases(grid_at(found.grid, place), fixed) for place in places[:-1]), last]


def _diagrams(found: Findings, story: _Story, places: Sequence[Place], title: str) -> Figure:
    facets = [_facet(facet, place) for place in places for facet in found.grid.facets()]
    return seven_panels(
        story.table,
        story.phases,
        found.frame,
        story.names,
        title=title,
        labels=story.labels,
        with_phases=story.with_phases,
        share_colours=True,
        known=found.grid.quantities,
        only=facets,
    )


def _facet(facet: str, place: Place) -> str:
    return json.dumps([list(place), *json.loads(facet)])


def _in_words(place: Place) -> str:
    return f"{place[0]} {place[1]}"


def _chosen(
    tables: Tables, asked: Sequence[str] | None, most: int
) -> tuple[list[Along], list[str]]:
    """Return the quantities along trainings that a figure shows, and a note on those that it leaves
    out.
    """
    found = tables.found
    numbers = found.grid.values.loc[found.grid.values["value"].notna(), "quantity"]
    if asked is not None:
        every = {one.name: one for one in measured_along(map(str, numbers.unique()))}
        return [every[name] for name in tables.quantities], []
    same, there = same_everywhere(found), set(numbers)
    shown = measured_along(name for name in found.table["quantity"].unique() if name in there)
    several = [one for one in shown if not set(one.names.values()) <= set(same)]
    if not several:
        raise NotYetError("nothing is measured at several places along trainings")
    left = [found.called(one.name) for one in several[most:]]
    more = f" and {len(left) - MOST_NAMED} more" * (len(left) > MOST_NAMED)
    note = f"left out, name them in quantities: {', '.join(left[:MOST_NAMED])}{more}"
    return several[:most], [note] if left else []


def _of_one_unit(values: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    counts = values.groupby("unit")["at"].nunique()
    unit: Unit = "epoch" if counts["epoch"] >= counts["update"] else "update"
    other = "update" if unit == "epoch" else "epoch"
    return values[values["unit"] == unit], f"lines are over {unit}s; tables/ has {other}s too"


def _asked_places(asked: Sequence[int | str], there: Sequence[Place]) -> list[Place]:
    wanted: list[Place] = [
        ("epoch", one) if isinstance(one, int) else ("update", int(one.removeprefix("update-")))
        for one in asked
    ]
    for place in wanted:
        if place not in there:
            known = ", ".join(map(_in_words, there))
            raise SweepError(
                f"places: nothing is measured at {_in_words(place)}; there are: {known}"
            )
    return wanted


def _column(found: Findings, name: str, label: str) -> Column:
    """Return a quantity as a column of what was measured: logarithms are those of the axis."""
    what: Quantity = found.grid.quantity(name)
    logarithm = what.transform == "log_mean"
    label = wrapped(label.removeprefix("ln ") if logarithm else label, LETTERS)
    scale: Scale = "log" if logarithm else what.scale
    return Column(name, "float64", what.unit, "", label=label, scale=scale)


def _scale(args: AlongArgs, column: Column, numbers: "pd.Series[float]") -> Scale:
    if args.y_scale != "declared":
        return args.y_scale
    return column.scale if (numbers.dropna() > 0).all() else "linear"


def _levels(tables: Tables, args: AlongArgs, chosen: Sequence[Along]) -> pd.DataFrame:
    """Return the horizontal lines of each panel."""
    rows = [
        {"y": one.name, "panel": "", "label": label, "value": value}
        for asked, named in (args.levels or {}).items()
        for one in wanted_along(tables.found.grid, asked, chosen)
        for label, value in named.items()
    ]
    return pd.DataFrame(rows, columns=["y", "panel", "label", "value"])
