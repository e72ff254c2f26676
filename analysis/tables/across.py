"""Tabulate what was measured across cells: it belongs to no cell of a diagram."""

from collections.abc import Sequence

import pandas as pd

from phasegrid.declare import Shown

PLACES = ("cells", "loads", "temperatures", "seeds")
"""The columns that give the trials of a row: one part per trial, joined by ``+``."""
NUMBERS = frozenset({"float64", "int64", "bool", "string"})


def across_cells(rows: pd.DataFrame, plan: pd.DataFrame, declared: Shown | None) -> pd.DataFrame:
    """Return the rows of a metric that were measured across cells, with the places of their trials
    and the declared columns of single values; empty if there are none.

    A trial of several cells (of a shared stage) has the places of all, joined by ``/``.
    """
    own = rows[rows["across"]]
    if own.empty:
        return pd.DataFrame()
    places = {str(key): part for key, part in plan.groupby("key", sort=False)}
    texts = pd.DataFrame(
        [_places([places[key] for key in trials]) for trials in own["trials"]],
        columns=list(PLACES),
        index=own.index,
    )
    columns = [c.name for c in declared.columns if c.type in NUMBERS] if declared else []
    named = ["of", "at", "networks", "args", "outcome", *columns]
    table = pd.concat([texts, own[[name for name in named if name in own]]], axis=1)
    return table.sort_values(list(PLACES), ignore_index=True)


def _places(trials: Sequence[pd.DataFrame]) -> list[str]:
    columns = ("cell", "load_label", "temperature_label", "seed")
    return ["+".join(_distinct(part[name]) for part in trials) for name in columns]


def _distinct(values: "pd.Series[str]") -> str:
    return "/".join(str(value) for value in values.dropna().unique())
