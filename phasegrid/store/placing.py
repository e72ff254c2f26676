"""Say where the rows of a metric stand in the grid of a sweep."""

import pandas as pd

_PLACE = (
    "cell",
    "facet",
    "load_path",
    "load",
    "load_label",
    "temperature_path",
    "temperature",
    "temperature_label",
)

WAYS = ("runs", "networks")
"""The columns that say in the words of a sweep which networks of a cell a measurement has."""


def placed(frame: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Add to every row the load, temperature and facet of its cell."""
    facets = [name for name in plan.columns if str(name).startswith("facet.")]
    places = plan[[*_PLACE, *facets]].drop_duplicates("cell")
    return frame.merge(places, on="cell", how="left", validate="many_to_one")


def in_cells(frame: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Add to every row the cells that hold all its trials; drop rows that no cell holds."""
    cells = plan[["key", "cell"]].rename(columns={"key": "trial_a"})
    joined = frame.merge(cells, on="trial_a", how="inner")
    held = {cell: set(keys) for cell, keys in plan.groupby("cell")["key"]}
    inside = [
        held[cell].issuperset(trials)
        for cell, trials in zip(joined["cell"], joined["trials"], strict=True)
    ]
    return joined[pd.Series(inside, index=joined.index, dtype=bool)]


def newest(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep one version of a metric: numbers of different versions are not comparable."""
    newest: pd.DataFrame = frame[frame["version"] == frame["version"].max()]
    return newest


def with_own_cells(jobs: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Say which planned measurements are `across` cells, and give those of them whose trials share
    one cell, and no other, that cell.
    """
    across = jobs["cell"].isna()
    if not across.any():
        return jobs.assign(across=False)
    of_trial = {str(key): set(cells) for key, cells in plan.groupby("key")["cell"]}
    shared = [set.intersection(*(of_trial[key] for key in keys)) for keys in jobs["trials"]]
    own = pd.Series([min(one) if len(one) == 1 else None for one in shared], index=jobs.index)
    cells = jobs["cell"].where(~across, own.astype(float))
    return jobs.assign(across=across, cell=cells.astype(int) if cells.notna().all() else cells)


def with_first_seeds(rows: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Give each measurement of some `runs` of a cell the seed of the first as `seed_a`, so that the
    measurements of a cell are told apart.
    """
    of_runs = rows["runs"].notna()
    if not of_runs.any():
        return rows
    seeds = plan.drop_duplicates("key").set_index("key")["seed"]
    first = rows["trial_a"].map(seeds).astype(rows["seed_a"].dtype)
    return rows.assign(seed_a=rows["seed_a"].where(~of_runs, first))


def with_trials(rows: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Add to every row the seeds and the cells of its trials, as lists: of trials that cells share,
    the row's own cell, or else the first.
    """
    known = plan.drop_duplicates("key").set_index("key")
    seeds, firsts = (known[column].astype(int).to_dict() for column in ("seed", "cell"))
    own = rows["cell"].where(~rows["across"])
    cells = [
        [firsts[key] for key in keys] if pd.isna(cell) else [int(cell)] * len(keys)
        for keys, cell in zip(rows["trials"], own, strict=True)
    ]
    of_trials = [[seeds[key] for key in keys] for keys in rows["trials"]]
    lists = {"seeds": of_trials, "cells": cells}
    return rows.assign(
        **{name: pd.Series(x, index=rows.index, dtype=object) for name, x in lists.items()}
    )


_ORDER = ("load", "load_label", "temperature", "temperature_label", "seeds", "facet", "variant")
_LAST = ("epoch", "key")


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by load, temperature, seeds, and then by what else tells measurements apart. Rows
    of one measurement keep their order; those of no cell come last.
    """
    names = [name for name in (*_ORDER, *_LAST) if name in rows and rows[name].notna().any()]
    keys = rows[names].assign(seeds=rows["seeds"].map(tuple))
    return rows.loc[keys.sort_values(names, kind="stable").index].reset_index(drop=True)


def stages_of(plan: pd.DataFrame) -> dict[str, str]:
    """Return the stage of each planned trial by its key, as ``a/b`` where plans name it
    differently; empty where no plan has stages.
    """
    if "stage" not in plan or plan["stage"].isna().all():
        return {}
    named = plan[["key", "stage"]].dropna().drop_duplicates()
    return dict(named.groupby("key")["stage"].agg(lambda found: "/".join(sorted(found))))
