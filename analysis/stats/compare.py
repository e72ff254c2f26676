"""Compare two sweeps cell by cell: what differs, by how much, and how certain that is. Pure: grids
in, tables out.
"""

import numpy as np
import pandas as pd
from scipy import stats

from phasegrid.analysis.stats.aggregate import aggregate, measured
from phasegrid.analysis.stats.intervals import CONFIDENCE, UNKNOWN, Spread, of_difference, per_seed
from phasegrid.analysis.tables.grid import Floats, SweepTables
from phasegrid.analysis.tables.quantities import difference_unit
from phasegrid.errors import SweepError
from phasegrid.texts import counted

KEYS = ["facet", "load_label", "temperature_label"]
TRIALS = "t over seeds, paired (Scheffé)"
PAIRS = "jackknife over seeds of pairs, t paired (Scheffé)"
OWN = "standard error of the measurement, normal"
ROUNDING = 1e-12

COMPARISON_COLUMNS = (
    "quantity",
    "unit",
    "facet",
    "load",
    "load_label",
    "temperature",
    "temperature_label",
    "value_a",
    "value_b",
    "difference",
    "stderr",
    "low",
    "high",
    "n_a",
    "n_b",
    "differs",
    "interval",
)


def compare_grids(a: SweepTables, b: SweepTables) -> pd.DataFrame:
    """Join two sweeps by facet and labels of load and temperature; return a row per shared quantity
    and shared cell.

    ``difference`` is b - a (of logarithms if the quantity is one), ``stderr`` its standard error,
    ``low`` and ``high`` its 95% interval, and ``interval`` names the method:

    - quantities of trials: Scheffé's t over seeds (`phasegrid.analysis.stats.intervals`), exact for
      normal seeds from two seeds on;
    - quantities of pairs: the same over jackknife pseudo-values of seeds, because pairs share
      seeds; from three seeds on. If pairs vary independently of their seeds, it is too wide, not
      too narrow;
    - quantities of whole cells: the measurements' own standard errors, normal.

    ``differs``: zero lies outside the interval, by more than rounding; null if a sweep has one seed
    or one pair and so no spread. Every cell is judged separately: of twenty equal cells, about one
    differs by chance.

    The table is empty if a sweep has no numbers, because every training diverged or none is stored
    yet.

    Raises:
        SweepError: if the axes are not the same fields, or no cell or no quantity is in both
            sweeps.
    """
    _check_axes(a, b)
    if not measured(a) or not measured(b):
        return pd.DataFrame(columns=list(COMPARISON_COLUMNS))
    shared = [name for name in measured(a) if name in set(measured(b))]
    if not shared:
        raise SweepError(f"comparing {a.sweep!r} and {b.sweep!r}: no quantity is measured in both")
    tables = [aggregate(grid, shared) for grid in (a, b)]
    joined = tables[0].merge(tables[1], on=["quantity", *KEYS], suffixes=("_a", "_b"))
    if joined.empty:
        raise SweepError(
            f"comparing {a.sweep!r} and {b.sweep!r}: they share no cell; cells are joined by facet,"
            f" load and temperature, which are {_example(a)} in the one and {_example(b)} in the"
            " other"
        )
    joined = joined[joined["value_a"].notna() & joined["value_b"].notna()]
    interval = joined["quantity"].map({name: _kind(a, name) for name in shared})
    difference = (joined["value_b"] - joined["value_a"]).to_numpy(dtype=float)
    spreads = _spreads(a, b, joined)
    stderr = np.array([spread.stderr for spread in spreads])
    reach = np.array([spread.reach for spread in spreads])
    beyond = np.abs(difference) > np.maximum(reach, _rounding(a, joined))  # NaN if reach is
    differs = pd.Series(beyond, index=joined.index, dtype=object)
    table = joined.assign(
        unit=joined["quantity"].map({name: difference_unit(a.quantity(name)) for name in shared}),
        load=joined["load_a"],
        temperature=joined["temperature_a"],
        difference=difference,
        stderr=stderr,
        low=difference - reach,
        high=difference + reach,
        differs=differs.where(~np.isnan(reach), None),
        interval=interval,
    )
    return table[list(COMPARISON_COLUMNS)].reset_index(drop=True)


def one_sided_cells(a: SweepTables, b: SweepTables) -> pd.DataFrame:
    """Return the cells that only one of two sweeps plans: sweep and the cell's place."""
    place = ["facet", "load", "load_label", "temperature", "temperature_label"]
    parts = []
    for grid, other in ((a, b), (b, a)):
        theirs = set(other.cells[KEYS].itertuples(index=False, name=None))
        alone = [key not in theirs for key in grid.cells[KEYS].itertuples(index=False, name=None)]
        parts.append(grid.cells.loc[alone, place].assign(sweep=grid.sweep))
    return pd.concat(parts, ignore_index=True)[["sweep", *place]]


def summary_lines(comparison: pd.DataFrame) -> list[str]:
    """Return a line per quantity: the number of joined cells, the mean difference, and in how many
    cells the sweeps differ.
    """
    if comparison.empty:
        return ["no cell has a number in both sweeps: nothing to compare"]
    lines = []
    for name, rows in comparison.groupby("quantity", sort=False):
        unit = f" {rows['unit'].iloc[0]}" if rows["unit"].iloc[0] else ""
        differ = rows[rows["differs"] == True]  # noqa: E712  # null is neither
        judged = int(rows["differs"].notna().sum())
        up = int((differ["difference"] > 0).sum())
        verdict = (
            f"{len(differ)} of {judged} differ ({up} up, {len(differ) - up} down)"
            if judged
            else "no spread over seeds to judge by"
        )
        cells = f"{counted(len(rows), 'cell')} joined"
        lines.append(
            f"{name}: {cells}, mean difference {rows['difference'].mean():+.4g}{unit}, {verdict}"
        )
    return lines


def _check_axes(a: SweepTables, b: SweepTables) -> None:
    for axis, one, other in (
        ("load", a.load_path, b.load_path),
        ("temperature", a.temperature_path, b.temperature_path),
    ):
        if one != other:
            raise SweepError(
                f"comparing {a.sweep!r} and {b.sweep!r}: the {axis} is {one or 'nothing'} in the"
                f" one and {other or 'nothing'} in the other; only sweeps over the same fields have"
                " cells in common"
            )


def _kind(grid: SweepTables, name: str) -> str:
    rows = grid.values[grid.values["quantity"] == name]
    if rows["seed_a"].isna().all():
        return OWN
    return TRIALS if rows["seed_b"].isna().all() else PAIRS


def _rounding(grid: SweepTables, joined: pd.DataFrame) -> Floats:
    """Return the rounding by which two equal means may differ; for logarithms, that of the number
    1.
    """
    logarithms = [grid.quantity(name).transform == "log_mean" for name in joined["quantity"]]
    largest = joined[["value_a", "value_b"]].abs().max(axis=1).to_numpy(dtype=float)
    return np.asarray(ROUNDING * np.maximum(largest, logarithms))


def _spreads(a: SweepTables, b: SweepTables, joined: pd.DataFrame) -> list[Spread]:
    """Return the spread of the difference of every row of the joined table."""
    names = [str(name) for name in joined["quantity"].unique()]
    of = [
        {
            (name, int(cell)): found
            for name in names
            for cell, found in zip(grid.cells["cell"], per_seed(grid, name) or (), strict=False)
        }
        for grid in (a, b)
    ]
    spreads = []
    for row in joined.to_dict("records"):
        name = str(row["quantity"])
        one, other = (
            found.get((name, int(row[cell])))
            for found, cell in zip(of, ("cell_a", "cell_b"), strict=True)
        )
        if one is None or other is None:
            spreads.append(_own(float(row["stderr_a"]), float(row["stderr_b"])))
        else:
            spreads.append(of_difference(one, other))
    return spreads


def _own(stderr_a: float, stderr_b: float) -> Spread:
    """Return the spread of a difference of measurements that have their own standard errors."""
    stderr = float(np.hypot(stderr_a, stderr_b))
    if np.isnan(stderr):
        return UNKNOWN
    return Spread(stderr, stderr * float(stats.norm.ppf((1 + CONFIDENCE) / 2)))


def _example(grid: SweepTables) -> str:
    facet, load, temperature = grid.cells[KEYS].iloc[0]
    return f"{facet}, {load!r}, {temperature!r}"
