"""The best of every load over all temperatures, in two sweeps, and the gain of one over the other (Yang et al. 2021,
appendix C, Fig. 13). Pure: grids in, tables out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.aggregation import aggregate
from analysis.grid import Floats, Grid, by_pair, by_seed
from analysis.quantities import quantity
from analysis.resampling import draw_counts, pair_means, seed_means
from phasegrid.errors import SweepError

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles: 95%


@dataclass(frozen=True)
class Best:
    """The best of every load of one sweep.

    `table`: one row per facet and load with a number: facet, load, load_label, ``best``, ``low`` and ``high`` (95%
    interval, null without a spread over seeds), ``temperature_label`` where the best is attained, ``n`` seeds there. `draws` (B, rows) are
    the bests of B resamples.
    """

    table: pd.DataFrame
    draws: Floats

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Say which rows have an interval."""
        return self.table["low"].notna().to_numpy()


def best_per_load(
    grid: Grid, name: str, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Best:
    """Return the best cell mean of a quantity over the temperatures of every load: the largest, or the smallest where lower
    is better.

    The interval is the percentile bootstrap over seeds: every cell's seeds are drawn anew, and the best temperature is
    chosen anew. The best of several noisy means is biased towards better, the more so the fewer the seeds; two sweeps with the same
    temperatures and seeds share that bias, which their difference then loses.

    Raises:
        SweepError: for a quantity of which neither more nor less is better.
    """
    what = quantity(name)
    if what.better == "none":
        raise SweepError(f"the best {name}: neither more nor less of it is better")
    table = aggregate(grid, [name])
    means = table["value"].to_numpy(dtype=float)
    draws = _drawn_means(grid, name, rng, resamples)
    sign = 1.0 if what.better == "higher" else -1.0
    rows, columns = [], []
    for (facet, load), cells in _places(table):
        there = cells[~np.isnan(means[cells])]
        if not len(there):
            continue
        chosen = there[int(np.argmax(sign * means[there]))]
        best = sign * (sign * draws[:, there]).max(axis=1)
        cell = table.iloc[chosen]
        spread = bool(cell["n"] > 1 and np.ptp(best) > 0)
        low, high = np.percentile(best, INTERVAL) if spread else (np.nan, np.nan)
        rows.append(
            {
                "facet": facet,
                "load": cell["load"],
                "load_label": load,
                "best": means[chosen],
                "low": low,
                "high": high,
                "temperature_label": cell["temperature_label"],
                "n": int(cell["n"]),
            }
        )
        columns.append(best)
    names = ["facet", "load", "load_label", "best", "low", "high", "temperature_label", "n"]
    stacked = np.stack(columns, axis=1) if columns else np.empty((resamples, 0))
    return Best(pd.DataFrame(rows, columns=names), stacked)


def gain_table(this: Best, other: Best, *, lower_is_better: bool = False) -> pd.DataFrame:
    """Return the bests of two sweeps side by side, by facet and label of the load, and what `this` gains over `other`.

    Columns: facet, load, load_label, then ``best``, ``low``, ``high``, ``temperature_label`` and ``n`` with ``_this`` and ``_other``, and
    ``gain``, ``gain_low``, ``gain_high``: positive where `this` is better. The interval of the gain is of the differences of
    independent resamples (null where a sweep has no interval). A load that one sweep alone has keeps its row, without a gain.
    """
    keys = ["facet", "load_label"]
    joined = this.table.merge(other.table, on=keys, how="outer", suffixes=("_this", "_other"))
    joined["load"] = joined["load_this"].fillna(joined["load_other"])
    sign = -1.0 if lower_is_better else 1.0
    joined["gain"] = sign * (joined["best_this"] - joined["best_other"])
    places = [
        {tuple(row): i for i, row in enumerate(best.table[keys].itertuples(index=False))}
        for best in (this, other)
    ]
    lows, highs = [], []
    for key in joined[keys].itertuples(index=False):
        i, j = (place.get(tuple(key)) for place in places)
        low, high = np.nan, np.nan
        if i is not None and j is not None:
            differences = sign * (this.draws[:, i] - other.draws[:, j])
            if this.known[i] and other.known[j]:
                low, high = np.percentile(differences, INTERVAL)
        lows.append(low)
        highs.append(high)
    joined = joined.assign(gain_low=lows, gain_high=highs)
    joined["order"] = _order(joined, this, other)
    columns = ["best", "low", "high", "temperature_label", "n"]
    ordered = [f"{column}_{which}" for which in ("this", "other") for column in columns]
    joined = joined.sort_values(["order"], kind="stable", ignore_index=True)
    return joined[["facet", "load", "load_label", *ordered, "gain", "gain_low", "gain_high"]]


def _places(table: pd.DataFrame) -> list[tuple[tuple[str, str], npt.NDArray[np.intp]]]:
    """Return each facet and load with the rows of its temperatures, in the order of the plan."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, (facet, load) in enumerate(zip(table["facet"], table["load_label"], strict=True)):
        found.setdefault((str(facet), str(load)), []).append(i)
    return [(place, np.array(rows, dtype=np.intp)) for place, rows in found.items()]


def _drawn_means(grid: Grid, name: str, rng: np.random.Generator, resamples: int) -> Floats:
    """Return the cell means (B, C) of resamples; those of whole cells, which have no seeds, as they are."""
    rows = grid.values[grid.values["quantity"] == name]
    if rows["seed_a"].isna().all():
        whole = aggregate(grid, [name])["value"].to_numpy(dtype=float)
        return np.asarray(np.broadcast_to(whole, (resamples, len(whole))))
    if rows["seed_b"].isna().all():
        trials = by_seed(grid.values, name, grid.cells)
        return seed_means(trials, draw_counts(trials, resamples, rng))
    pairs = by_pair(grid.values, name, grid.cells)
    there = ~np.isnan(pairs)
    involved = np.where((there | there.transpose(0, 2, 1)).any(axis=2), 0.0, np.nan)
    return pair_means(pairs, draw_counts(involved, resamples, rng))


def _order(joined: pd.DataFrame, this: Best, other: Best) -> npt.NDArray[np.int_]:
    """Return where rows belong: facets in the order they are met, loads by size, or as met where they are no numbers."""
    met = pd.concat([this.table, other.table])
    facets = {facet: i for i, facet in enumerate(met["facet"].unique())}
    labels = {label: i for i, label in enumerate(met["load_label"].unique())}
    numeric = bool(joined["load"].notna().all())
    keys = [
        (facets[facet], load if numeric else labels[label])
        for facet, load, label in joined[["facet", "load", "load_label"]].itertuples(index=False)
    ]
    ranks = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.array([ranks[key] for key in keys], dtype=int)
