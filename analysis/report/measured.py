"""Put measured numbers into a table (`phasegrid.figures.table`)."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from phasegrid.analysis.draw.panels import cell_heads
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.analysis.draw.scales import Frame
from phasegrid.analysis.draw.written import Block, written_tables
from phasegrid.analysis.report.overlays import in_ways, known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables, resolved
from phasegrid.analysis.report.tables import DASH, format_cell, latex, markdown
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import Quantity, column_quantity
from phasegrid.analysis.tables.values import metric_values
from phasegrid.analysis.tables.variants import Ways, resolve
from phasegrid.errors import SweepError
from phasegrid.figures.checks import ACROSS
from phasegrid.figures.table import TableArgs, row_column
from phasegrid.registry import identity
from phasegrid.texts import counted

LEGEND = "mean ± standard error (number of seeds, or of runs)"
COLUMNS = (
    "cell",
    "facet",
    "load_label",
    "temperature_label",
    "row",
    "column",
    "number",
    "unit",
    "value",
    "stderr",
    "n",
    "n_pairs",
    "status",
)

Asked = Mapping[str, Sequence[str | None]]


def table(tables: Tables, args: TableArgs) -> Drawing:
    """Tabulate numbers, a block for each cell, and draw the blocks below each other."""
    if args.cell == ACROSS:
        tables, args = tables.across_cells(), replace(args, cell=None)
    asked, absent = _rows(tables, args)
    names = [name for numbers in asked.values() for name in numbers if name is not None]
    grid = with_columns(tables, names)
    known = {name: number_named(grid, name) for name in dict.fromkeys(names)}
    numbers = aggregate(grid, [name for name in dict.fromkeys(known.values()) if name])
    if args.cell is not None:
        numbers = numbers[numbers["cell"] == args.cell]
    said = {name for row in absent for name in asked[row]}
    lacking = [name for name, found in known.items() if found is None and name not in said]
    notes = [*absent.values(), *(f"{name} is not measured yet" for name in lacking)]
    if numbers.empty:
        raise NotYetError("; ".join(notes) or "nothing of it is measured yet")
    long = _long(asked, args.columns, known, numbers, grid)
    blocks = _blocks(long, asked, grid, tables.found.frame, args)
    title = tables.title(args.title)
    texts = {
        "md": "\n".join(markdown(one.texts, _title(title, one)) for one in blocks),
        "tex": "\n".join(latex(one.texts, _title(title, one)) for one in blocks),
    }
    shown = [blocks[place] for place in spread_out(len(blocks), args.most)]
    if left_out := len(blocks) - len(shown):
        notes.append(f"{counted(left_out, 'block')} left out of the figure; the files have all")
    figure = written_tables(shown, title=title, note=LEGEND)
    return Drawing(figure, long, notes, texts)


def _rows(tables: Tables, args: TableArgs) -> tuple[Asked, dict[str, str]]:
    """Return the numbers of each row by their names, and a note on each row whose way of measuring
    is asked for and not there.
    """
    rows: dict[str, Sequence[str | None]] = dict(args.rows or {})
    if args.metric is None or args.metric not in tables.rows:
        return rows, {}
    grid, metric = tables.found.grid, identity(args.metric)
    chosen, _, notes = in_ways(grid, metric, tables.rows[args.metric], args.variants)
    ways = dict(chosen.groupby("line")["variant"].first())
    asked = args.variants or ways
    for name, asked_way in asked.items():
        way = ways.get(name, asked_way)
        suffix = f"[{way}]" if way else ""
        rows[name] = [one and f"{metric}.{one}{suffix}" for one in args.statistics or ()]
    lacking = [name for name in asked if name not in ways]
    return rows, dict(zip(lacking, notes, strict=True))


def with_columns(tables: Tables, names: Sequence[str]) -> SweepTables:
    """Return the grid with the columns of metrics that are asked for as further quantities."""
    grid, found = tables.found.grid, {}
    values = [grid.values]
    for name in names:
        metric, column = row_column(name)
        if metric not in tables.rows:
            continue
        known = known_columns(grid, metric)
        if column not in known or column not in tables.rows[metric]:
            raise SweepError(f"{metric} has no column {column!r}; there are: {', '.join(known)}")
        declared = grid.declared.get(identity(metric))
        what = column_quantity(identity(metric), known[column], declared.axes if declared else {})
        if what.name not in found:
            values.append(_values(grid, what, tables.rows[metric]))
        found[what.name] = what
    return replace(
        grid, values=pd.concat(values, ignore_index=True), quantities={**grid.quantities, **found}
    )


def _values(grid: SweepTables, what: Quantity, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of one column, as `SweepTables.values`."""
    ways = Ways(dict(zip(rows["args"], rows["variant"], strict=True)), grid.plain[what.table])
    place = ["cell", "facet", "load", "load_label", "temperature", "temperature_label"]
    values: pd.DataFrame = metric_values([what], rows, ways).merge(grid.cells[place], on="cell")
    return values


def number_named(grid: SweepTables, asked: str) -> str | None:
    """Return the name of a number in the tables; None if it is not measured."""
    metric, column = row_column(asked)
    if not metric:
        return resolved(grid, asked)
    table = identity(metric)
    name = f"{table}.{column}{asked.removeprefix(f'{metric}.{column}')}"
    present = grid.values.loc[grid.values["value"].notna(), "quantity"].unique()
    return resolve(name, grid.shown(table), grid.plain.get(table, ""), map(str, present))


def _long(
    asked: Asked,
    columns: Sequence[str],
    known: Mapping[str, str | None],
    numbers: pd.DataFrame,
    grid: SweepTables,
) -> pd.DataFrame:
    """Return one row for each cell, row and column of the table (`COLUMNS`)."""
    places = grid.cells[["cell", "facet", "load_label", "temperature_label"]]
    places = places[places["cell"].isin(numbers["cell"])]
    found: dict[tuple[object, object], dict[Any, Any]] = {
        (row["quantity"], row["cell"]): row for row in numbers.to_dict("records")
    }
    rows: list[dict[Any, Any]] = []
    for place in places.to_dict("records"):
        for label, names in asked.items():
            for column, name in zip(columns, names, strict=True):
                if name is None:
                    continue
                called = known[name]
                unit = grid.quantity(called or name).unit
                number = found.get((called, place["cell"]), {"status": "missing"})
                told = {"row": label, "column": column, "number": name, "unit": unit}
                rows.append({**number, **place, **told})
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _blocks(
    long: pd.DataFrame, asked: Asked, grid: SweepTables, frame: Frame, args: TableArgs
) -> list[Block]:
    """Return a block for each cell, or for the cells along an axis, whose values then begin the
    names of rows.
    """
    heads = cell_heads(grid.cells, frame, without=args.along)
    values = pd.Series("", index=long.index)
    if args.along is not None:
        axis = frame.load if args.along == "load" else frame.temperature
        values = f"{axis.name} " + long[f"{args.along}_label"].astype(str)
    rows = long["row"] if args.along is None or len(asked) > 1 else pd.Series("", index=long.index)
    both = [", ".join(filter(None, pair)) for pair in zip(values, rows, strict=True)]
    named = long.assign(row=both, head=long["cell"].map(heads))
    blocks = []
    for head, own in named.groupby("head", sort=False):
        names = list(asked) if args.along is None else list(dict.fromkeys(own["row"]))
        blocks.append(_block(str(head), own, names, args.columns))
    return blocks


def _block(head: str, long: pd.DataFrame, rows: Sequence[str], heads: Sequence[str]) -> Block:
    """Return one block as text. A unit that all numbers of a column share stands in its head, one
    that those of a row share beside its name, another beside its number.
    """
    by_column, by_row = (_common_units(long, name) for name in ("column", "row"))
    texts = pd.DataFrame(DASH, index=list(rows), columns=list(heads), dtype=object)
    for number in long.to_dict("records"):
        row, column = str(number["row"]), str(number["column"])
        alone = by_column[column] is None and by_row[row] is None
        texts.loc[row, column] = _written(number, str(number["unit"]) if alone else "")
    columns = {name: _with_unit(name, unit) for name, unit in by_column.items()}
    names = {
        name: _with_unit(name, unit if None in by_column.values() else None)
        for name, unit in by_row.items()
    }
    return Block(head, texts.rename(columns=columns, index=names))


def _common_units(long: pd.DataFrame, by: str) -> dict[str, str | None]:
    units = long.groupby(by, sort=False)["unit"].unique()
    return {str(name): str(found[0]) if len(found) == 1 else None for name, found in units.items()}


def _with_unit(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit and f"({unit})" not in name else name


def _written(number: Mapping[Hashable, object], unit: str) -> str:
    if number["status"] != "done":
        missing = number["status"] == "missing"
        return "not measured" if missing else str(number["status"])
    value, stderr, n = (float(str(number[name])) for name in ("value", "stderr", "n"))
    return format_cell(value, stderr, int(n)) + (f" {unit}" if unit else "")


def _title(title: str, block: Block) -> str:
    named = filter(None, [title.partition("\n")[0], block.head])
    return f"{', '.join(named)}: {LEGEND}"
