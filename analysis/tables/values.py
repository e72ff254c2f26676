"""Turn the rows of trials and metrics into values: one row for each quantity and place."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from phasegrid.analysis.tables.grid import (
    CURVE_COLUMNS,
)
from phasegrid.analysis.tables.quantities import (
    Axes,
    Quantity,
    plain_quantity,
    quantities_of,
)
from phasegrid.analysis.tables.variants import Ways, axis_part
from phasegrid.declare import Shown

NOT_MEASURED = frozenset(
    {"trial_a", "trial_b", "seed_a", "seed_b", "seconds", "num_trials", "load", "temperature"}
)
"""Columns of numbers that no metric measures, like ``arg.*`` and ``facet.*``."""
CURVE_LISTS = frozenset({"t", "train_error_percent"})
"""The columns that hold a curve, a list each: places along it, and the training error there."""
_ELSEWHERE = {"at", "networks", "stage"}
_MEASURED = ["quantity", "cell", "seed_a", "seed_b", "value", "stderr", "outcome", "num_trials"]


def trial_values(stored: pd.DataFrame, quantities: Iterable[Quantity]) -> pd.DataFrame:
    """Return the values in the rows of trials themselves."""
    rows = stored[stored["outcome"].notna()]
    parts = []
    for what in quantities:
        if what.table != "trials" or what.column not in rows:
            continue
        part = rows[["cell", "outcome"]].assign(
            quantity=what.name,
            seed_a=rows["seed"].astype(float),
            seed_b=np.nan,
            value=rows[what.column].astype(float).where(rows["outcome"] == "done"),
            stderr=np.nan,
            num_trials=1,
        )
        parts.append(part[(part["outcome"] != "done") | part["value"].notna()])
    return pd.concat(parts, ignore_index=True)


def metric_values(quantities: Sequence[Quantity], rows: pd.DataFrame, found: Ways) -> pd.DataFrame:
    """Return the values of a metric's quantities from its rows."""
    suffixes = [found.suffixes[text] for text in rows["args"]]
    seeds = {name: rows[name].astype(float) for name in ("seed_a", "seed_b")}
    place = rows[["cell", "outcome", "num_trials"]].assign(**seeds)  # a row may have 100 columns
    parts = []
    for what in quantities:
        if what.column not in rows:
            continue
        part = place.assign(
            quantity=_full_names(what, rows, suffixes),
            value=rows[what.column].astype(float),
            stderr=rows[what.stderr_column].astype(float) if what.stderr_column else np.nan,
        )
        parts.append(part.loc[_asked(what, rows), _MEASURED] if what.asked_by else part[_MEASURED])
    if not parts:
        return pd.DataFrame()
    values = pd.concat(parts, ignore_index=True)
    values["value"] = values["value"].where(values["outcome"] == "done")
    return values


def _asked(what: Quantity, rows: pd.DataFrame) -> "pd.Series[bool]":
    """Say which rows are of jobs that asked for a quantity."""
    column = f"arg.{what.asked_by}"
    asked = rows[column].eq(True) if column in rows else False
    return pd.Series(asked, index=rows.index, dtype=bool)


def values_along(
    quantities: Iterable[Quantity], rows: pd.DataFrame, found: Ways, declared: Shown | None
) -> pd.DataFrame:
    """Return the quantities of the rows of trials as a metric measured them at other epochs or for
    earlier stages: ``train_loss[at=2]``.
    """
    details = [c for c in declared.columns if c.role == "detail"] if declared else []
    named = {column.name for column in details if column.type == "float64"}
    elsewhere = [text for text in found.suffixes if _ELSEWHERE & json.loads(text).keys()]
    suffixes = {text: found.suffixes[text] or found.plain for text in elsewhere}
    known = [what for what in quantities if what.table == "trials" and what.column in named]
    own = rows[rows["args"].isin(elsewhere) & (rows["num_trials"] == 1)]
    return metric_values(known, own, Ways(suffixes, "")) if len(own) else pd.DataFrame()


def measured_quantities(
    metric: str, rows: pd.DataFrame, declared: Mapping[str, Shown]
) -> list[Quantity]:
    """Return the quantities that a metric declares; none if a job has several rows that no axis
    distinguishes.

    An old store does not hold the declaration of a user's metric; then its quantities are its
    columns of real numbers, and ``layer`` is their axis.
    """
    known = declared.get(metric)
    axes: Axes = ({"layer": None} if "layer" in rows else {}) if known is None else known.axes
    if rows.duplicated(["cell", "key", *(axis for axis in axes if axis in rows)]).any():
        return []
    if known is not None:
        return quantities_of(metric, known)
    columns = [
        str(column)
        for column, kind in rows.dtypes.items()
        if kind == np.dtype("float64")
        and column not in NOT_MEASURED
        and not str(column).startswith(("arg.", "facet."))
    ]
    return [plain_quantity(metric, column, axes) for column in columns]


def _full_names(what: Quantity, rows: pd.DataFrame, suffixes: Sequence[str]) -> list[str]:
    """Return the full name of each row's quantity, with the way of measuring and the place on the
    metric's axes.
    """
    axes = [axis for axis in what.axes if axis in rows]
    places = zip(*(rows[axis] for axis in axes), strict=True) if axes else [()] * len(rows)
    names = []
    for suffix, place in zip(suffixes, places, strict=True):
        parts = [suffix] if suffix else []
        parts += [
            axis_part(axis, value)
            for axis, value in zip(axes, place, strict=True)
            if not pd.isna(value) and value != what.axes[axis]
        ]
        names.append(f"{what.name}[{', '.join(parts)}]" if parts else what.name)
    return names


def no_curve_points() -> pd.DataFrame:
    """Return the table of a sweep without curves."""
    return pd.DataFrame(columns=list(CURVE_COLUMNS))


def curve_points(rows: pd.DataFrame, found: Ways) -> pd.DataFrame:
    """Return the points of the curves that were measured in the plain way, with its name as ``way``
    if there are others. A curve without losses has a missing loss at each point.
    """
    plain = rows["args"].map(found.suffixes) == ""
    rows = rows[plain & (rows["outcome"] == "done") & rows["t"].notna()]
    if "train_loss" not in rows:
        rows = rows.assign(train_loss=None)
    losses = [
        [np.nan] * len(t) if loss is None else loss
        for t, loss in zip(rows["t"], rows["train_loss"], strict=True)
    ]
    rows = rows.assign(train_loss=pd.Series(losses, index=rows.index, dtype=object))
    lists = ["t", "train_error_percent", "train_loss"]
    columns = [*CURVE_COLUMNS, *(["stage"] if "stage" in rows else [])]
    points = rows[columns].explode(lists, ignore_index=True)
    numbers: pd.DataFrame = points.astype(dict.fromkeys(CURVE_COLUMNS[1:], float))
    named = numbers.assign(way=found.plain) if len(found.suffixes) > 1 else numbers
    return named.dropna(subset=["t", "train_error_percent"])
