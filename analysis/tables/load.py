"""From a store to a grid: the only room of the analysis that reads one."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from phasegrid.analysis.tables.failed import failed_jobs, failures_of, no_failures
from phasegrid.analysis.tables.grid import (
    CELL_COLUMNS,
    CURVE_COLUMNS,
    VALUE_COLUMNS,
    SweepTables,
)
from phasegrid.analysis.tables.quantities import (
    BUILT_IN,
    Axes,
    Quantity,
    known_quantities,
    plain_quantity,
    quantities_of,
    seven,
)
from phasegrid.analysis.tables.subject import subject
from phasegrid.analysis.tables.variants import Ways, axis_part, ways
from phasegrid.datasets import FIXED_FACTS
from phasegrid.declare import Shown
from phasegrid.errors import SweepError
from phasegrid.keys import canonical_json
from phasegrid.store.results import open_results
from phasegrid.tasks import TASKS

if TYPE_CHECKING:
    from phasegrid.store.results import Results

NOT_MEASURED = frozenset(
    {"trial_a", "trial_b", "seed_a", "seed_b", "seconds", "num_trials", "load", "temperature"}
)
"""Columns of numbers that every metric's rows have beside what was measured (and ``arg.*``,
``facet.*``).
"""


_MEASURED = ["quantity", "cell", "seed_a", "seed_b", "value", "stderr", "outcome", "num_trials"]


def open_store(path: str | Path) -> "Results":
    """Open a store for reading.

    Raises:
        StoreError: if there is none at `path`, or it cannot be read.
    """
    return open_results(str(path))


def load_grid(results: "Results", sweep: str | None = None) -> SweepTables:
    """Load one sweep (None: the only one in the store).

    Raises:
        SweepError: if the sweep is not in the store, or none is named and there are several.
    """
    name = _chosen(list(results.sweeps()), sweep)
    metrics = {metric: results.metric(metric, sweep=name) for metric in results.metrics()}
    declared = {**BUILT_IN, **results.declared()}
    plan = results.plan(name)
    stored = {str(key) for rows in metrics.values() for key in rows["key"]}
    failed = failed_jobs(plan, results.jobs(name), results.failures(), stored)
    return build_grid(name, plan, results.trials(), metrics, declared, failed)


def build_grid(
    sweep: str,
    plan: pd.DataFrame,
    trials: pd.DataFrame,
    metrics: Mapping[str, pd.DataFrame],
    declared: Mapping[str, Shown] = BUILT_IN,
    failed: pd.DataFrame | None = None,
) -> SweepTables:
    """Put the tables of a store together into the grid of one sweep.

    `plan` and `trials` are as `Results` gives them, `metrics` the rows of each metric in this
    sweep, with their ``cell``; `declared` is what metrics declare of their columns,
    `failed` are the jobs without a result (`phasegrid.analysis.tables.failed`).

    A metric measured in several ways (different `args`) becomes variants of its quantities,
    ``cka[mixup_alpha=4]``; `phasegrid.analysis.tables.variants` says how they are named. Over some
    of the trials of a cell it is one too: ``log_volume[modes=2]``; so it is of a stage that is not
    the last: ``top_eigenvalue[stage=train]``. What trials say of themselves is of the last stage.

    Raises:
        SweepError: if two rows give one quantity of the same trials.
    """
    stages = _stages(plan)
    plan = _of_last_stage(plan)
    stored = plan.merge(trials.drop(columns=["seed"], errors="ignore"), on="key", how="left")
    cells = _cells(stored)
    metrics = {
        metric: _naming_stages(_naming_inputs(_in_cells(rows), cells), stages)
        for metric, rows in metrics.items()
    }
    failed = no_failures() if failed is None else _naming_inputs_of_failed(failed, declared, cells)
    found = {
        name: ways(declared.get(name), both)
        for name in dict.fromkeys([*metrics, *failed["table"]])
        if name != "trials" and not (both := _all_ways(name, metrics, failed)).empty
    }
    quantities = known_quantities(declared)
    parts = [_trial_values(stored, quantities.values())]
    parts += [
        _metric_values(_quantities_of(metric, metrics[metric], declared), metrics[metric], way)
        for metric, way in found.items()
        if metric in metrics and not metrics[metric].empty
    ]
    values = pd.concat([part for part in parts if not part.empty] or parts[:1], ignore_index=True)
    place = cells.drop(columns=["num_classes", "n_planned", "n_done", "n_diverged"])
    values = values.merge(place, on="cell")[list(VALUE_COLUMNS)]
    _check_once(sweep, values)
    return SweepTables(
        sweep,
        _path(plan, "load_path"),
        _path(plan, "temperature_path"),
        cells,
        values,
        (
            _curves(metrics["connectivity"], found["connectivity"])
            if "connectivity" in metrics and not metrics["connectivity"].empty
            else pd.DataFrame(columns=list(CURVE_COLUMNS))
        ),
        _task(stored),
        {metric: way.plain for metric, way in found.items()},
        _axis_names(plan),
        _subject(stored, plan),
        _loss_floors(stored),
        declared,
        failures_of(failed, quantities, found, set(values["quantity"]), seven(_task(stored))),
        quantities,
    )


def _chosen(sweeps: list[str], wanted: str | None) -> str:
    if wanted is None and len(sweeps) == 1:
        return sweeps[0]
    there = ", ".join(sorted(sweeps)) or "none"
    if wanted is None:
        raise SweepError(f"which sweep is meant? give one of those in the store: {there}")
    if wanted not in sweeps:
        raise SweepError(f"the store has no sweep {wanted!r}; there are: {there}")
    return wanted


def _cells(stored: pd.DataFrame) -> pd.DataFrame:
    done = stored["outcome"] == "done"
    counted = stored.assign(
        num_classes=_num_classes(stored),
        done=done,
        diverged=stored["outcome"] == "diverged",
    )
    cells = counted.groupby("cell", as_index=False, sort=True).agg(
        facet=("facet", "first"),
        load=("load", "first"),
        load_label=("load_label", "first"),
        temperature=("temperature", "first"),
        temperature_label=("temperature_label", "first"),
        num_classes=("num_classes", "first"),
        n_planned=("seed", "size"),
        n_done=("done", "sum"),
        n_diverged=("diverged", "sum"),
    )
    labels = ["load_label", "temperature_label"]
    cells[labels] = cells[labels].astype(object).where(cells[labels].notna(), "")
    numbers = ["load", "temperature", "num_classes"]
    cells[numbers] = cells[numbers].astype(float)
    return cells[list(CELL_COLUMNS)]


def _num_classes(stored: pd.DataFrame) -> "pd.Series[float]":
    """Return what the trials say, else what is known of a data set by its name."""
    known = {name: facts.num_classes for name, facts in FIXED_FACTS.items()}
    by_name = stored["dataset"].map(known).astype(float)
    if "num_classes" not in stored:
        return by_name
    return stored["num_classes"].astype(float).fillna(by_name)


def _loss_floors(stored: pd.DataFrame) -> dict[int, float]:
    """Return the least training loss of each cell trained with label smoothing
    (`SweepTables.loss_floor`); of a data set whose number of classes is not known, that of very
    many.
    """
    if "label_smoothing" not in stored:
        return {}
    smoothing = stored["label_smoothing"].astype(float).fillna(0.0)
    wanted = 1 - smoothing + smoothing / _num_classes(stored).fillna(np.inf)
    least = wanted.groupby(stored["cell"]).min()
    return {int(str(cell)): -float(np.log(p)) for cell, p in least.items() if p < 1}


def _task(stored: pd.DataFrame) -> str:
    """Return the task of the trials, classification where they have several; those that do not say
    classify, as all did before there was a choice.
    """
    if "task" not in stored:
        return "classification"
    tasks = set(stored.loc[stored["outcome"].notna(), "task"].fillna("classification"))
    only = tasks.pop() if len(tasks) == 1 else "classification"
    return only if only in TASKS else "classification"


def _trial_values(stored: pd.DataFrame, quantities: Iterable[Quantity]) -> pd.DataFrame:
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


def _in_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out what was measured across cells: it is a number of none of them."""
    if rows["cell"].notna().all():
        return rows
    return rows[rows["cell"].notna()].astype({"cell": int})


def _naming_inputs(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add to the arguments of a measurement what else tells it apart, as a sweep asks for it: how
    many of the trials of its cell it is over where not all of them (``modes``), the request whose
    artifacts it was measured from (``of``), the epoch along its trial (``at``).
    """
    planned = rows["cell"].map(cells.set_index("cell")["n_planned"])
    of_some = (rows["over"] == "cell") & (rows["num_trials"] < planned)
    modes = rows["num_trials"].where(of_some)
    named = {"modes": modes, **{name: rows[name] for name in ("of", "at") if name in rows}}
    more = pd.DataFrame(named, index=rows.index)
    if more.isna().all(axis=None):
        return rows
    found = more.to_dict("records")
    args = [
        canonical_json({**json.loads(text), **_told(one)})
        for text, one in zip(rows["args"], found, strict=True)
    ]
    return rows.assign(args=args)


def _told(named: Mapping[Hashable, Any]) -> dict[str, Any]:
    return {str(k): int(v) if k == "modes" else v for k, v in named.items() if pd.notna(v)}


def _naming_inputs_of_failed(
    failed: pd.DataFrame, declared: Mapping[str, Shown], cells: pd.DataFrame
) -> pd.DataFrame:
    over = [declared[table].over if table in declared else "" for table in failed["table"]]
    return _naming_inputs(failed.assign(over=over), cells)


def _all_ways(name: str, metrics: Mapping[str, pd.DataFrame], failed: pd.DataFrame) -> pd.DataFrame:
    """Return arguments and cell of all that is stored of a metric, and of its jobs that failed."""
    of_failed = failed.loc[(failed["table"] == name) & failed["args"].notna(), ["args", "cell"]]
    if name not in metrics:
        return of_failed
    return pd.concat([metrics[name][["args", "cell"]], of_failed], ignore_index=True)


def _stages(plan: pd.DataFrame) -> dict[str, str]:
    """Return the stage of each trial that is not of the last one; none where there is but one."""
    if "stage" not in plan or plan["stage"].isna().all():
        return {}
    earlier = plan[plan["stage"] != plan["stage"].iloc[-1]]
    return dict(zip(earlier["key"], earlier["stage"], strict=True))


def _of_last_stage(plan: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last training of each cell; a plan lists stage after stage."""
    if "stage" not in plan or plan["stage"].isna().all():
        return plan
    last: pd.DataFrame = plan[plan["stage"] == plan["stage"].iloc[-1]]
    return last.reset_index(drop=True)


def _naming_stages(rows: pd.DataFrame, stages: Mapping[str, str]) -> pd.DataFrame:
    """Add to the arguments of a measurement of an earlier stage which one that is."""
    if rows.empty or not stages:
        return rows
    of = rows["trial_a"].map(stages)
    args = [
        text if pd.isna(stage) else canonical_json({**json.loads(text), "stage": stage})
        for text, stage in zip(rows["args"], of, strict=True)
    ]
    return rows.assign(args=args)


def _check_once(sweep: str, values: pd.DataFrame) -> None:
    """Refuse a second number for one place of the arrays that `phasegrid.analysis.tables.grid`
    makes: one would hide the other.
    """
    place = ["cell", "quantity", "seed_a", "seed_b"]
    twice = values[values.duplicated(place, keep=False)]
    if twice.empty:
        return
    first = twice.iloc[0]
    seeds = [f"{seed:.0f}" for seed in first[["seed_a", "seed_b"]] if not np.isnan(seed)]
    whose = f"seeds {' and '.join(seeds)}" if seeds else "the whole cell"
    count = int((twice[place].fillna(-1) == first[place].fillna(-1)).all(axis=1).sum())
    raise SweepError(
        f"reading sweep {sweep!r}, cell {first['cell']} (load {first['load_label']!r}, temperature"
        f" {first['temperature_label']!r}): {count} values of {first['quantity']} of {whose},"
        f" but a figure can show only one; read all rows with phasegrid.open(...).metric(...,"
        f" sweep={sweep!r})"
    )


def _metric_values(quantities: Sequence[Quantity], rows: pd.DataFrame, found: Ways) -> pd.DataFrame:
    suffixes = [found.suffixes[text] for text in rows["args"]]
    parts = []
    for what in quantities:
        if what.column not in rows:
            continue
        part = rows.assign(
            quantity=_full_names(what, rows, suffixes),
            seed_a=rows["seed_a"].astype(float),
            seed_b=rows["seed_b"].astype(float),
            value=rows[what.column].astype(float),
            stderr=rows[what.stderr_column].astype(float) if what.stderr_column else np.nan,
        )
        parts.append(part[_MEASURED])
    if not parts:
        return pd.DataFrame()
    values = pd.concat(parts, ignore_index=True)
    values["value"] = values["value"].where(values["outcome"] == "done")
    return values


def _quantities_of(
    metric: str, rows: pd.DataFrame, declared: Mapping[str, Shown]
) -> list[Quantity]:
    """Return the quantities that a metric declares; none where a job has several rows that no axis
    tells apart.

    Of a metric of a user's own in an old store, which does not say, they are the columns of real
    numbers, and ``layer`` is its axis.
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
    """Name the quantity of every row: the way of measuring, then where on the metric's axes it
    is.
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


def _curves(rows: pd.DataFrame, found: Ways) -> pd.DataFrame:
    """Return the points of the curves that were measured the plain way; one without losses has none
    at any point.
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
    points = rows[list(CURVE_COLUMNS)].explode(lists, ignore_index=True)
    numbers: pd.DataFrame = points.astype(dict.fromkeys(CURVE_COLUMNS[1:], float))
    return numbers.dropna(subset=["t", "train_error_percent"])


def _axis_names(plan: pd.DataFrame) -> dict[str, str]:
    """Return what a sweep calls its axes; plans of earlier releases do not say."""
    texts = [text for text in plan.get("axis_names", []) if isinstance(text, str)]
    return dict(json.loads(texts[0])) if texts else {}


def _subject(stored: pd.DataFrame, plan: pd.DataFrame) -> str:
    facets = [path for text in plan["facet"].unique() for path, _ in json.loads(text)]
    axes = {_path(plan, "load_path"), _path(plan, "temperature_path"), *facets}
    return subject(stored[stored["outcome"].notna()], axes)


def _path(plan: pd.DataFrame, column: str) -> str | None:
    paths = plan[column].dropna().unique()
    return str(paths[0]) if len(paths) else None
