"""Load a grid from a store; no other module of the analysis reads one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from phasegrid.analysis.tables.failed import failed_jobs, failures_of, no_failures
from phasegrid.analysis.tables.grid import (
    CELL_COLUMNS,
    VALUE_COLUMNS,
    SweepTables,
)
from phasegrid.analysis.tables.measured_from import (
    earlier_stages,
    last_stage,
    named_rows,
    naming_inputs_of_failed,
    of_last_stage,
)
from phasegrid.analysis.tables.precision import precisions
from phasegrid.analysis.tables.quantities import (
    BUILT_IN,
    NATS,
    UNITS_DIFFER,
    common_unit,
    in_units,
    known_quantities,
    seven,
)
from phasegrid.analysis.tables.subject import subject
from phasegrid.analysis.tables.values import (
    CURVE_LISTS,
    curve_points,
    measured_quantities,
    metric_values,
    no_curve_points,
    trial_values,
    values_along,
)
from phasegrid.analysis.tables.variants import Ways, ways
from phasegrid.config.labels import shown_labels
from phasegrid.datasets import FIXED_FACTS
from phasegrid.declare import Shown
from phasegrid.errors import SweepError
from phasegrid.store.results import open_results
from phasegrid.tasks import TASKS
from phasegrid.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from phasegrid.store.results import Results


CURVE = "curve"
"""The artifact that a metric of connecting curves leaves."""
CROSS_ENTROPY = "cross_entropy"
"""The objective of trials that do not name one."""


def open_store(path: str | Path) -> "Results":
    """Open a store for reading.

    Raises:
        StoreError: if there is no store at `path`, or it cannot be read.
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

    `plan` and `trials` come from `Results`. `metrics` holds the rows of each metric in this sweep,
    with their ``cell``. `declared` is what metrics declare about their columns. `failed` are the
    jobs without a result (`phasegrid.analysis.tables.failed`).

    A metric with several `args` becomes variants of its quantities, ``cka[mixup_alpha=4]``, which
    `phasegrid.analysis.tables.variants` names. It also becomes a variant if it was measured over
    some of the trials of a cell, ``log_volume[modes=2]``, or of an earlier stage,
    ``top_eigenvalue[stage=train]``. The numbers of the trials themselves are of the last stage.

    Raises:
        SweepError: if two rows give one quantity of the same trials.
    """
    stages = earlier_stages(plan)
    plan = of_last_stage(plan)
    stored = plan.merge(
        trials.drop(columns=["seed", "stage"], errors="ignore"), on="key", how="left"
    )
    paths = _path(plan, "load_path"), _path(plan, "temperature_path")
    cells = _cells(stored, *paths)
    metrics = {
        metric: named_rows(_in_cells(rows), cells, stages) for metric, rows in metrics.items()
    }
    failed = no_failures() if failed is None else naming_inputs_of_failed(failed, declared, cells)
    found = {
        name: ways(declared.get(name), both)
        for name in dict.fromkeys([*metrics, *failed["table"]])
        if name != "trials" and not (both := _all_ways(name, metrics, failed)).empty
    }
    units = _loss_units(stored)
    declared = in_units(declared, common_unit(units.values()))
    quantities = known_quantities(declared, common_unit(units.values()))
    measured = {name: rows for name, rows in metrics.items() if name in found and not rows.empty}
    parts = [trial_values(stored, quantities.values())]
    parts += [
        metric_values(measured_quantities(name, measured[name], declared), measured[name], way)
        for name, way in found.items()
        if name in measured
    ]
    parts += [
        values_along(quantities.values(), measured[name], way, declared.get(name))
        for name, way in found.items()
        if name in measured
    ]
    values = _in_place(parts, cells)
    _check_once(sweep, values)
    return SweepTables(
        sweep,
        *paths,
        cells,
        values,
        _curves(measured, found, declared),
        _task(stored),
        {metric: way.plain for metric, way in found.items()},
        _axis_names(plan),
        _subject(stored, plan),
        _loss_floors(stored),
        units,
        declared,
        failures_of(failed, quantities, found, set(values["quantity"]), seven(_task(stored))),
        quantities,
        stages,
        last_stage(plan),
        precisions(stored),
    )


def _curves(
    measured: Mapping[str, pd.DataFrame], found: Mapping[str, Ways], declared: Mapping[str, Shown]
) -> pd.DataFrame:
    """Return the points of the curves of the first metric that leaves some, built-in ones first."""
    for name in sorted(measured, key=lambda name: name not in BUILT_IN):
        leaves_curves = name in declared and CURVE in declared[name].leaves
        if leaves_curves and {*measured[name]} >= CURVE_LISTS:
            return curve_points(measured[name], found[name])
    return no_curve_points()


def _in_place(parts: Sequence[pd.DataFrame], cells: pd.DataFrame) -> pd.DataFrame:
    """Return values with the load, temperature and facet of their cells."""
    filled = [part for part in parts if not part.empty] or parts[:1]
    values = pd.concat(filled, ignore_index=True)
    place = cells.drop(columns=["num_classes", "n_planned", "n_done", "n_diverged"])
    placed: pd.DataFrame = values.merge(place, on="cell")[list(VALUE_COLUMNS)]
    return placed


def _chosen(sweeps: list[str], wanted: str | None) -> str:
    if wanted is None and len(sweeps) == 1:
        return sweeps[0]
    there = ", ".join(sorted(sweeps)) or "none"
    if wanted is None:
        raise SweepError(f"which sweep is meant? give one of those in the store: {there}")
    if wanted not in sweeps:
        raise SweepError(f"the store has no sweep {wanted!r}; there are: {there}")
    return wanted


def _cells(
    stored: pd.DataFrame, load_path: str | None, temperature_path: str | None
) -> pd.DataFrame:
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
    for column, path in (("load_label", load_path), ("temperature_label", temperature_path)):
        labels = cells[column].astype(object).where(cells[column].notna(), "")
        cells[column] = labels.map(shown_labels(path or "", labels.unique()))
    numbers = ["load", "temperature", "num_classes"]
    cells[numbers] = cells[numbers].astype(float)
    return cells[list(CELL_COLUMNS)]


def _num_classes(stored: pd.DataFrame) -> "pd.Series[float]":
    """Return the number of classes from the trials, otherwise that of a known data set."""
    known = {name: facts.num_classes for name, facts in FIXED_FACTS.items()}
    by_name = stored["dataset"].map(known).astype(float)
    if "num_classes" not in stored:
        return by_name
    return stored["num_classes"].astype(float).fillna(by_name)


def _loss_floors(stored: pd.DataFrame) -> dict[int, float]:
    """Return the least training loss of each cell with label smoothing (`SweepTables.loss_floor`);
    if the number of classes is not known, the limit for many classes.
    """
    if "label_smoothing" not in stored:
        return {}
    smoothing = stored["label_smoothing"].astype(float).fillna(0.0)
    wanted = 1 - smoothing + smoothing / _num_classes(stored).fillna(np.inf)
    least = wanted.groupby(stored["cell"]).min()
    return {int(str(cell)): -float(np.log(p)) for cell, p in least.items() if p < 1}


def _loss_units(stored: pd.DataFrame) -> dict[int, str]:
    """Return the unit of the loss of each cell (`SweepTables.loss_units`): what its trials say, or
    what built-in objectives declare. A cell without a trial has the common unit of all others, or
    nats.
    """
    trained = stored[stored["outcome"].notna()]
    if "objective" in trained:
        named = trained["objective"].where(trained["objective"].notna(), CROSS_ENTROPY)
        known = named.map({name: objective.unit for name, objective in OBJECTIVES.items()})
        said = trained.get("objective_unit", known)
        units = said.where(said.notna(), known.fillna(""))
    else:
        units = pd.Series(NATS, index=trained.index)
    found = {
        int(str(cell)): str(unit) for cell, unit in units.groupby(trained["cell"]).first().items()
    }
    others = common_unit(found.values())
    usual = NATS if others == UNITS_DIFFER else others
    return {int(cell): found.get(int(cell), usual) for cell in stored["cell"].unique()}


def _task(stored: pd.DataFrame) -> str:
    """Return the task of the trials; classification if they have several. Trials that do not say
    are classification, which was once the only task.
    """
    if "task" not in stored:
        return "classification"
    tasks = set(stored.loc[stored["outcome"].notna(), "task"].fillna("classification"))
    only = tasks.pop() if len(tasks) == 1 else "classification"
    return only if only in TASKS else "classification"


def _in_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out measurements across cells, which belong to no single cell."""
    across = rows["across"] if "across" in rows else rows["cell"].isna()
    return rows[~across].astype({"cell": int}) if across.any() else rows


def _all_ways(name: str, metrics: Mapping[str, pd.DataFrame], failed: pd.DataFrame) -> pd.DataFrame:
    """Return arguments and cell of a metric's stored rows and of its failed jobs."""
    said = ["args", "cell", "varied"]
    of_failed = failed.loc[(failed["table"] == name) & failed["args"].notna(), said]
    if name not in metrics:
        return of_failed
    return pd.concat([metrics[name].reindex(columns=said), of_failed], ignore_index=True)


def _check_once(sweep: str, values: pd.DataFrame) -> None:
    """Refuse two numbers for one place of the arrays of `phasegrid.analysis.tables.grid`, because
    one would hide the other.
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


def _axis_names(plan: pd.DataFrame) -> dict[str, str]:
    """Return a sweep's names for its axes; plans of earlier releases have none."""
    texts = [text for text in plan.get("axis_names", []) if isinstance(text, str)]
    return dict(json.loads(texts[0])) if texts else {}


def _subject(stored: pd.DataFrame, plan: pd.DataFrame) -> str:
    facets = [path for text in plan["facet"].unique() for path, _ in json.loads(text)]
    axes = {_path(plan, "load_path"), _path(plan, "temperature_path"), *facets}
    return subject(stored[stored["outcome"].notna()], axes)


def _path(plan: pd.DataFrame, column: str) -> str | None:
    paths = plan[column].dropna().unique()
    return str(paths[0]) if len(paths) else None
