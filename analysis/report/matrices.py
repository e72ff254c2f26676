"""Draw numbers of pairs as matrices (`phasegrid.figures.matrix`)."""

import json
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from phasegrid.analysis.draw.matrices import Square, matrix_panels
from phasegrid.analysis.draw.panels import cell_heads
from phasegrid.analysis.draw.planes import spread_out
from phasegrid.analysis.report.measured import number_named, with_columns
from phasegrid.analysis.report.overlays import known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.analysis.tables.quantities import column_quantity
from phasegrid.analysis.tables.variants import parts, plainly
from phasegrid.errors import SweepError
from phasegrid.figures.matrix import MatrixArgs
from phasegrid.figures.table import row_column
from phasegrid.registry import identity


def matrix(tables: Tables, args: MatrixArgs) -> Drawing:
    """Draw a matrix of the pairs of each cell, or across cells, and tabulate them."""
    if args.across:
        return _across(tables, args)
    grid = with_columns(tables, [args.number])
    name = number_named(grid, args.number)
    if name is None:
        raise NotYetError(f"{args.number} is not measured yet")
    pairs = grid.values[(grid.values["quantity"] == name) & grid.values["value"].notna()]
    if pairs["seed_b"].isna().all():
        raise SweepError(f"number: {args.number} is not of pairs of networks")
    if args.cell is not None:
        pairs = pairs[pairs["cell"] == args.cell]
    if pairs.empty:
        raise NotYetError(f"{args.number} is not measured in cell {args.cell} yet")
    heads = cell_heads(grid.cells, tables.found.frame)
    cells = list(dict.fromkeys(pairs["cell"].sort_values()))
    shown = [cells[place] for place in spread_out(len(cells), args.most)]
    squares = [_square(heads[cell], pairs[pairs["cell"] == cell]) for cell in shown]
    what = grid.quantity(name)
    figure = matrix_panels(squares, what, title=tables.title(args.title))
    table = pairs[["cell", "load_label", "temperature_label", "seed_a", "seed_b", "value"]]
    return Drawing(figure, table.sort_values(["cell", "seed_a", "seed_b"]), _notes(shown, cells))


def _across(tables: Tables, args: MatrixArgs) -> Drawing:
    """Draw one matrix of the pairs that were measured across cells."""
    named, column = row_column(args.number)
    grid, metric = tables.found.grid, identity(named)
    if metric not in tables.across:
        raise NotYetError(f"{metric} is not measured across cells yet")
    pairs = _pairs(tables.across[metric], args.number)
    places = [_places(row) for row in pairs.to_dict("records")]
    networks = sorted({place for pair in places for place in pair})
    cells = grid.cells[grid.cells["cell"].isin([cell for cell, _ in networks])]
    heads = cell_heads(cells, tables.found.frame)
    values = np.full((len(networks), len(networks)), np.nan)
    for (a, b), value in zip(places, pairs[column], strict=True):
        i, j = networks.index(a), networks.index(b)
        values[i, j] = values[j, i] = value
    labels = [", ".join(filter(None, (heads[cell], f"seed {seed}"))) for cell, seed in networks]
    what = column_quantity(metric, known_columns(grid, metric)[column], {})
    title = tables.title(args.title)
    squares = [Square("", labels, values)]
    figure = matrix_panels(squares, what, networks="", title=title)
    return Drawing(figure, pairs)


def _pairs(rows: pd.DataFrame, number: str) -> pd.DataFrame:
    """Return the rows of pairs that were measured in the way of a number, which must be the only
    one.
    """
    named = parts(number).items()
    ways = rows.apply(_way, axis=1)
    fits = ways.map(lambda way: named <= parts(f"[{way}]").items())
    chosen = fits & (rows["outcome"] == "done") & (rows["seeds"].str.count(r"\+") == 1)
    if ways[chosen].nunique() != 1:
        there = "; ".join(sorted(ways.unique()))
        raise SweepError(f"number: found {number!r}; measured across cells: {there}")
    pairs: pd.DataFrame = rows[chosen]
    return pairs


def _way(row: "pd.Series[Any]") -> str:
    """Write all arguments of a measurement as in names."""
    said = {**json.loads(row["args"]), "of": row.get("of")}
    return ", ".join(f"{k}={plainly(v)}" for k, v in sorted(said.items()) if v is not None)


def _places(row: Mapping[Hashable, Any]) -> list[tuple[int, int]]:
    """Return the cell and the seed of both networks of a row."""
    cells = [int(cell.partition("/")[0]) for cell in str(row["cells"]).split("+")]
    return list(zip(cells, map(int, str(row["seeds"]).split("+")), strict=True))


def _notes(shown: list[int], cells: list[int]) -> list[str]:
    left_out = len(cells) - len(shown)
    return [f"{left_out} cells left out; the table has their pairs"] if left_out else []


def _square(head: str, pairs: pd.DataFrame) -> Square:
    """Return the matrix of one cell. Of a pair that was measured in one order, both entries have
    the number.
    """
    seeds = sorted(set(pairs["seed_a"]) | set(pairs["seed_b"]))
    values = np.full((len(seeds), len(seeds)), np.nan)
    a, b = (pairs[name].map(seeds.index).to_numpy() for name in ("seed_a", "seed_b"))
    for rows, columns in ((b, a), (a, b)):  # what was measured replaces its mirror image
        values[rows, columns] = pairs["value"]
    return Square(head, [f"{seed:.0f}" for seed in seeds], values)
