"""Two sweeps cell by cell: what differs, by how much, and how sure that is. Pure: grids in, tables out."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.aggregation import aggregate, measured
from analysis.grid import Floats, Grid
from analysis.quantities import difference_unit, quantity
from phasegrid.errors import SweepError

KEYS = ["facet", "load_label", "temperature_label"]
WELCH = "Welch t over seeds"
JACKKNIFE = "jackknife over seeds of pairs, Welch t"
OWN = "standard error of the measurement, normal"
CONFIDENCE = 0.95
ROUNDING = 1e-12

COMPARISON_COLUMNS = (
    "quantity", "unit", "facet", "load", "load_label", "temperature", "temperature_label",
    "value_a", "value_b", "difference", "stderr", "low", "high", "n_a", "n_b", "differs", "interval",
)  # fmt: skip


def compare_grids(a: Grid, b: Grid) -> pd.DataFrame:
    """Join two sweeps by facet and labels of load and temperature; return a row per shared quantity and shared cell.

    ``difference`` is b - a (of logarithms where the quantity is one), ``stderr`` the root of the sum of the squares of both
    standard errors, ``low`` and ``high`` its 95% interval, and ``interval`` says how that is made:

    - quantities of trials: Welch's t over the seeds of both cells, degrees of freedom by Welch and Satterthwaite;
      for the logarithm of a mean the standard errors are by the delta method;
    - quantities of pairs: the same t with jackknife standard errors over seeds, because pairs share seeds;
    - quantities of whole cells: the measurements' own standard errors, normal.

    ``differs``: zero lies outside the interval, by more than rounding; null where a sweep has one seed or one pair and so no
    spread. Every cell is judged by itself: of cells that are equal, one in twenty differs by chance. Seeds are treated as
    independent between the sweeps.

    Raises:
        SweepError: if the axes are not the same fields, or no cell or no quantity is in both.
    """
    _check_axes(a, b)
    shared = [name for name in measured(a) if name in set(measured(b))]
    if not shared:
        raise SweepError(f"comparing {a.sweep!r} and {b.sweep!r}: no quantity is measured in both")
    tables = [aggregate(grid, shared) for grid in (a, b)]
    joined = tables[0].merge(tables[1], on=["quantity", *KEYS], suffixes=("_a", "_b"))
    if joined.empty:
        raise SweepError(
            f"comparing {a.sweep!r} and {b.sweep!r}: they share no cell; cells are joined by facet, load and "
            f"temperature, which are {_example(a)} in the one and {_example(b)} in the other"
        )
    joined = joined[joined["value_a"].notna() & joined["value_b"].notna()]
    interval = joined["quantity"].map({name: _kind(a, name) for name in shared})
    stderr_a, stderr_b = (joined[f"stderr_{x}"].to_numpy(dtype=float) for x in "ab")
    n_a, n_b = (joined[f"n_{x}"].to_numpy(dtype=int) for x in "ab")
    difference = (joined["value_b"] - joined["value_a"]).to_numpy(dtype=float)
    stderr = np.hypot(stderr_a, stderr_b)
    reach = stderr * _factor(stderr_a, stderr_b, n_a, n_b, (interval == OWN).to_numpy())
    beyond = np.abs(difference) > np.maximum(reach, _rounding(joined))  # NaN where reach is
    differs = pd.Series(beyond, index=joined.index, dtype=object)
    table = joined.assign(
        unit=joined["quantity"].map({name: difference_unit(quantity(name)) for name in shared}),
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


def one_sided_cells(a: Grid, b: Grid) -> pd.DataFrame:
    """Return the cells that only one of two sweeps plans: sweep and the cell's place."""
    place = ["facet", "load", "load_label", "temperature", "temperature_label"]
    parts = []
    for grid, other in ((a, b), (b, a)):
        theirs = set(other.cells[KEYS].itertuples(index=False, name=None))
        alone = [key not in theirs for key in grid.cells[KEYS].itertuples(index=False, name=None)]
        parts.append(grid.cells.loc[alone, place].assign(sweep=grid.sweep))
    return pd.concat(parts, ignore_index=True)[["sweep", *place]]


def summary_lines(comparison: pd.DataFrame) -> list[str]:
    """Return a line per quantity: cells joined, mean difference, and in how many cells the sweeps differ."""
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
        cells = f"{len(rows)} cell{'s' * (len(rows) != 1)} joined"
        lines.append(
            f"{name}: {cells}, mean difference {rows['difference'].mean():+.4g}{unit}, {verdict}"
        )
    return lines


def _check_axes(a: Grid, b: Grid) -> None:
    for axis, one, other in (
        ("load", a.load_path, b.load_path),
        ("temperature", a.temperature_path, b.temperature_path),
    ):
        if one != other:
            raise SweepError(
                f"comparing {a.sweep!r} and {b.sweep!r}: the {axis} is {one or 'nothing'} in the one and "
                f"{other or 'nothing'} in the other; only sweeps over the same fields have cells in common"
            )


def _kind(grid: Grid, name: str) -> str:
    rows = grid.values[grid.values["quantity"] == name]
    if rows["seed_a"].isna().all():
        return OWN
    return WELCH if rows["seed_b"].isna().all() else JACKKNIFE


def _rounding(joined: pd.DataFrame) -> Floats:
    """Return what two equal numbers may differ by after their means were taken; a logarithm by as much as 1 would."""
    logarithms = [quantity(name).transform == "log_mean" for name in joined["quantity"]]
    largest = joined[["value_a", "value_b"]].abs().max(axis=1).to_numpy(dtype=float)
    return np.asarray(ROUNDING * np.maximum(largest, logarithms))


def _factor(
    stderr_a: Floats,
    stderr_b: Floats,
    n_a: npt.NDArray[np.int_],
    n_b: npt.NDArray[np.int_],
    normal: npt.NDArray[np.bool_],
) -> Floats:
    """Return how many standard errors the interval reaches: the quantile of t with Welch-Satterthwaite degrees of
    freedom, (v_a + v_b)^2 / (v_a^2/(n_a - 1) + v_b^2/(n_b - 1)), v the squared standard errors; of the normal where said.
    """
    v_a, v_b = stderr_a**2, stderr_b**2
    below = v_a**2 / np.maximum(n_a - 1, 1) + v_b**2 / np.maximum(n_b - 1, 1)
    freedom = np.where(below > 0, (v_a + v_b) ** 2 / np.where(below > 0, below, 1.0), np.inf)
    freedom = np.where(normal, np.inf, np.maximum(freedom, 1.0))
    return np.asarray(stats.t.ppf((1 + CONFIDENCE) / 2, freedom), dtype=float)


def _example(grid: Grid) -> str:
    facet, load, temperature = grid.cells[KEYS].iloc[0]
    return f"{facet}, {load!r}, {temperature!r}"
