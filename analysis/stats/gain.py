"""Find the best of every load over all temperatures in two sweeps, and the gain of one over the
other (Yang et al. 2021, appendix C, Fig. 13). Pure: grids in, tables out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.stats.intervals import SeedValues, of_difference, of_mean, per_seed
from phasegrid.analysis.tables.grid import SweepTables, seeds_of
from phasegrid.errors import SweepError

NOTHING = SeedValues(np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Best:
    """The best of every load of one sweep.

    `table`: one row per facet and load with a number: facet, load, load_label, ``best``, ``low``
    and ``high`` (95% interval, null if none is valid), ``temperature_label`` of the best, ``n``
    seeds there. `judged` has, for each row, the numbers behind the interval.
    """

    table: pd.DataFrame
    judged: Sequence[SeedValues]


def best_per_load(grid: SweepTables, name: str) -> Best:
    """Return the best cell mean of a quantity over the temperatures of every load: the largest, or
    the smallest if lower is better.

    The best of several noisy means is biased towards better. So no interval around it is valid if
    the same seeds choose the temperature and measure it: with the percentile bootstrap or a t over
    all seeds, "95%" intervals cover as little as 80%. Here the first half of the seeds chooses the
    temperature, and the others measure it: Student's t over these, from three seeds on. Such
    intervals are exact for the mean at the chosen temperature and cover the best of the true means
    in 91 to 95%; they are null for quantities of pairs, whose seeds cannot be halved. If a load has
    a single temperature, there is no choice, and all its seeds count, from two on.

    Raises:
        SweepError: for a quantity that declares neither more nor less as better.
    """
    what = grid.quantity(name)
    if what.better is None:
        raise SweepError(f"the best {name}: neither more nor less of it is better")
    table = aggregate(grid, [name])
    numbers = per_seed(grid, name) or [NOTHING] * len(table)
    of_pairs = bool((grid.values["quantity"].eq(name) & grid.values["seed_b"].notna()).any())
    sign = 1.0 if what.better == "higher" else -1.0
    means = sign * table["value"].to_numpy(dtype=float)
    first = _first_half(grid)
    rows, judged = [], []
    for (facet, load), cells in _places(table):
        there = cells[~np.isnan(means[cells])]
        if not len(there):
            continue
        cell = table.iloc[there[int(np.argmax(means[there]))]]
        found = _judged([numbers[i] for i in cells], first, sign, of_pairs=of_pairs)
        reach = of_mean(found).reach
        centre = found.values.mean() if len(found.values) else np.nan
        rows.append(
            {
                "facet": facet,
                "load": cell["load"],
                "load_label": load,
                "best": cell["value"],
                "low": centre - reach,
                "high": centre + reach,
                "temperature_label": cell["temperature_label"],
                "n": int(cell["n"]),
            }
        )
        judged.append(found)
    names = ["facet", "load", "load_label", "best", "low", "high", "temperature_label", "n"]
    return Best(pd.DataFrame(rows, columns=names), judged)


def gain_table(this: Best, other: Best, *, lower_is_better: bool = False) -> pd.DataFrame:
    """Return the bests of two sweeps side by side, by facet and label of the load, and the gain of
    `this` over `other`.

    Columns: facet, load, load_label, then ``best``, ``low``, ``high``, ``temperature_label`` and
    ``n`` with ``_this`` and ``_other``, and ``gain``, ``gain_low``, ``gain_high``: positive if
    `this` is better. The gain is the difference of the bests; its interval is by the method of
    `phasegrid compare` (`phasegrid.analysis.stats.intervals.of_difference`) over the seeds that did
    not choose the temperatures (`best_per_load`), so it is around their difference, not around the
    gain; null if a sweep has too few of them. A load that is in only one sweep keeps its row,
    without a gain.
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
    ends = []
    for key in joined[keys].itertuples(index=False):
        i, j = (place.get(tuple(key)) for place in places)
        one = NOTHING if i is None else this.judged[i]
        two = NOTHING if j is None else other.judged[j]
        ends.append(_ends(one, two, sign))
    joined[["gain_low", "gain_high"]] = np.array(ends, dtype=float).reshape(-1, 2)
    joined["order"] = _order(joined, this, other)
    columns = ["best", "low", "high", "temperature_label", "n"]
    ordered = [f"{column}_{which}" for which in ("this", "other") for column in columns]
    joined = joined.sort_values(["order"], kind="stable", ignore_index=True)
    return joined[["facet", "load", "load_label", *ordered, "gain", "gain_low", "gain_high"]]


def _ends(this: SeedValues, other: SeedValues, sign: float) -> tuple[float, float]:
    reach = of_difference(this, other).reach
    if np.isnan(reach):
        return np.nan, np.nan
    centre = sign * float(this.values.mean() - other.values.mean())
    return centre - reach, centre + reach


def _judged(
    numbers: Sequence[SeedValues], first: "pd.Index[float]", sign: float, *, of_pairs: bool
) -> SeedValues:
    """Return the numbers of the other seeds at the temperature that the first half of the seeds
    finds best; if there is a single temperature, those of all seeds.
    """
    measured = [one for one in numbers if len(one.values)]
    if len(measured) == 1:
        return measured[0]
    if of_pairs or not measured:
        return NOTHING
    choosing = [one.at(np.isin(one.seeds, first)) for one in measured]
    means = [sign * one.values.mean() if len(one.values) else -np.inf for one in choosing]
    best = int(np.argmax(means))
    if means[best] == -np.inf:
        return NOTHING
    return measured[best].at(~np.isin(measured[best].seeds, first))


def _first_half(grid: SweepTables) -> "pd.Index[float]":
    """Return the seeds that choose: the first half, rounded down, so that two of three seeds
    measure.
    """
    seeds = seeds_of(grid.values)
    return pd.Index(seeds[: len(seeds) // 2])


def _places(table: pd.DataFrame) -> list[tuple[tuple[str, str], npt.NDArray[np.intp]]]:
    """Return each facet and load with the rows of its temperatures, in the order of the plan."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, (facet, load) in enumerate(zip(table["facet"], table["load_label"], strict=True)):
        found.setdefault((str(facet), str(load)), []).append(i)
    return [(place, np.array(rows, dtype=np.intp)) for place, rows in found.items()]


def _order(joined: pd.DataFrame, this: Best, other: Best) -> npt.NDArray[np.int_]:
    """Return the order of rows: facets as they occur, loads by size, or as they occur if they are
    not numbers.
    """
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
